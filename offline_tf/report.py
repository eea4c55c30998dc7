"""python -m offline_tf.report --workdir=RUN [--workdir=RUN ...], or --study=FOLDER: one HTML file."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.report --workdir=RUN [--workdir=RUN ...] [--output=FILE.html]
       python -m offline_tf.report --study=FOLDER [--output=FILE.html]

Writes one self-contained HTML file with results, curves, what the inspector found, the data, timings
and flags of a run, or of several side by side; and its pictures as PNG files beside it. Of a study it
writes a line per algorithm and data set, with intervals over seeds, and curves with bands.
"""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Report."""

    workdir: tuple[str, ...] = knob((), "Run folder; may be given several times.", repeated=True)
    study: str = knob("", "Folder of a study, instead of --workdir.")
    output: str = knob(
        "", "The HTML file; empty: RUN/report/report.html of the first run, or STUDY/report.html."
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir and not self.study:
            raise UserError("--workdir: expected the folder of a run, got none")
        if self.workdir and self.study:
            raise UserError("--study: expected it or --workdir, got both")
        if self.output and not self.output.endswith((".html", ".htm")):
            raise UserError(f"--output: expected a name that ends in .html, got {self.output!r}")


def main(config: ReportConfig) -> None:
    """Writes the report."""
    # Here, so that --help needs no TensorFlow.
    from offline_tf.reports import html_page, run_contents, study_page

    if config.study:
        folder = pathlib.Path(config.study)
        path = pathlib.Path(config.output) if config.output else folder / "report.html"
        logging.info("%s: %d runs", path, study_page.write(folder, path))
        return
    runs = [run_contents.read(pathlib.Path(folder)) for folder in config.workdir]
    first = runs[0].folder / "report" / "report.html"
    path = pathlib.Path(config.output) if config.output else first
    pictures = html_page.write(runs, path)
    logging.info("%s, and %d pictures beside it", path, pictures)


if __name__ == "__main__":
    schema.run(main, configs=[ReportConfig], usage=USAGE)
