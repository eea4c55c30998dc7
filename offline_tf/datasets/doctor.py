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
from offline_tf.datasets.names import FORMS
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.datasets.doctor --env=hopper --dataset=FILE [flags]

Prints and writes a report: sizes, returns, coverage, and faults with what they mean for training and
what to do. For robots, transitions are replayed in the simulator to find the physics they were
recorded in. Exit code: 0 all well, 1 warnings, 2 errors, or a file that cannot be read.
"""


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Doctor."""

    dataset: str = knob("", "What to look at; everything that training takes.")
    env: str = shared_knobs.env_knob()
    output: str = knob("", "Name of the report, .txt and .json; empty: doctor-NAME here.")
    replay: bool = knob(True, "Replay transitions in the simulator.")
    seed: int = knob(0, "Which transitions are replayed.", low=0)
    threads: int = shared_knobs.threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.dataset:
            raise UserError(f"--dataset: expected {FORMS}, got none")


def run(config: DoctorConfig) -> int:
    """Examines, prints and writes; returns the exit code."""
    # Imported here, so that --help needs no TensorFlow.
    from offline_tf.datasets import sources
    from offline_tf.datasets.quality import checks, examination, overview
    from offline_tf.models import compilation
    from offline_tf.run_folder import files
    from offline_tf.run_folder.files import write_json

    threads = compilation.use_threads(config.threads)
    task = tasks.get(config.env)
    files.check_writable(pathlib.Path(config.output or "doctor"), "output")
    data, name = sources.load(config.dataset, task)
    report = examination.examine(data, task, config.replay, config.seed, threads)
    stem = config.output or f"doctor-{pathlib.PurePath(name.replace('/', '-')).stem}"
    text = overview.in_words(report, name)
    pathlib.Path(stem).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
    write_json(pathlib.Path(f"{stem}.json"), report)
    logging.info("%s", text)
    worst = max((checks.SEVERITIES.index(f["severity"]) for f in report["findings"]), default=0)
    return worst


def main(config: DoctorConfig) -> None:
    """Exits with 0, 1 (warnings) or 2 (errors)."""
    code = run(config)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    schema.run(main, [DoctorConfig], USAGE)
