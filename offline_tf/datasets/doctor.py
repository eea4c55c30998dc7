"""python -m offline_tf.datasets.doctor --dataset=FILE: what is in logged data, and what is wrong."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import logging

from flags import schema
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.names import FORMS, Reading
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.datasets.doctor --env=hopper --dataset=FILE [flags]

Prints a report: sizes, returns, coverage, and faults with what they mean for training and what to
do. With --output=FOLDER it is written there, too, and with --output=FILE.html as a page with pictures.
For robots, transitions are replayed in the simulator to find the physics they were recorded in. A
plant's log is looked at before it becomes steps. Exit code: 0 all well, 1 warnings, 2 errors, or a file
that cannot be read.
"""


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Doctor."""

    dataset: str = knob("", "What to look at; everything that training takes.")
    columns: tuple[str, ...] = shared_knobs.columns_knob()
    observation_keys: tuple[str, ...] = shared_knobs.observation_keys_knob()
    env: str = shared_knobs.env_knob()
    output: str = knob(
        "",
        "Folder for the report, doctor-NAME.txt and .json, or FILE.html for a page with pictures; "
        "empty: it is printed only.",
    )
    replay: bool = knob(True, "Replay transitions in the simulator.")
    seed: int = knob(0, "Which transitions are replayed.", low=0)
    threads: int = shared_knobs.threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.dataset:
            raise UserError(f"--dataset: expected {FORMS}, got none")


def run(config: DoctorConfig) -> int:
    """Examines, prints, and writes where --output says; returns the exit code."""
    # Imported here, so that --help needs no TensorFlow.
    from offline_tf.datasets import sources
    from offline_tf.datasets.formats import plant_logs
    from offline_tf.datasets.quality import examination, findings, log_checks, overview
    from offline_tf.models import compilation
    from offline_tf.reports import doctor_page
    from offline_tf.run_folder import files

    output = pathlib.Path(config.output) if config.output else None
    is_page = output is not None and output.suffix.lower() in (".html", ".htm")
    if output is not None:
        files.check_writable(output if is_page else output / "doctor.json", "output")
    threads = compilation.use_threads(config.threads)
    task = tasks.get(config.env)
    data, name = sources.load(
        config.dataset, task, Reading(config.columns, config.observation_keys)
    )
    of_log = []
    if task.log is not None and (paths := sources.tables_of(config.dataset)):
        of_log = log_checks.find(*plant_logs.samples(paths, task)[:2], task)
    report = examination.examine(data, task, config.replay, config.seed, threads, of_log)
    text = overview.in_words(report, name)
    print(text, flush=True)
    if output is not None and is_page:
        doctor_page.write(output, report, name, data, task)
        logging.info("%s: the report with pictures", output)
    elif output is not None:
        stem = f"doctor-{pathlib.PurePath(name.replace('/', '-')).stem}"
        files.write_json(output / f"{stem}.json", report)
        (output / f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
        logging.info("%s: %s.txt and .json", output, stem)
    ranks = (findings.SEVERITIES.index(finding["severity"]) for finding in report["findings"])
    return max(ranks, default=0)


def main(config: DoctorConfig) -> None:
    """Exits with 0, 1 (warnings) or 2 (errors)."""
    code = run(config)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    schema.run(main, configs=[DoctorConfig], usage=USAGE)
