"""python -m offline_tf.datasets.doctor FILE: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from absl import logging

from flags import schema
from offline_tf import process, tasks
from offline_tf.datasets import checks, overview, replay, sources
from offline_tf.knobs import check, knob
from offline_tf.run_record import write_json
from offline_tf.types import TaskSpec, Transitions, UserError

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
    env: str = knob("hopper", tasks.ENV_HELP)
    output: str = knob("", "Name of the report, .txt and .json; empty: doctor-NAME here.")
    replay: bool = knob(True, "Replay transitions in the simulator.")
    seed: int = knob(0, "Which transitions are replayed.", low=0)
    threads: int = knob(0, "CPU threads; 0: all cores.", low=0)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.dataset:
            raise UserError(f"--dataset: expected {sources.FORMS}, got none")


def examine(
    data: Transitions, task: TaskSpec, with_replay: bool, seed: int, threads: int
) -> dict[str, Any]:
    """Returns the report as in the JSON file."""
    findings = checks.thorough(data, task)
    finite = not any(f.code.startswith("not_finite") for f in findings)
    report: dict[str, Any] = {"env": task.name, **overview.overview(data, task)}
    replayed = None
    if with_replay and finite:
        replayed = replay.find_physics(checks.stretches(data), task, seed, threads)
    if replayed is not None:
        report["replay"] = replayed._asdict()
        if replayed.explained_by and "v2" not in replayed.explained_by:
            findings.append(
                checks.Finding(
                    "physics_other",
                    "warning",
                    f"the data were recorded in {' or '.join(replayed.explained_by)} physics",
                    "the default, v2, has other masses and contacts: returns there are another robot's",
                    f"train and evaluate with --physics={replayed.explained_by[0]}",
                )
            )
        if not replayed.explained_by:
            findings.append(
                checks.Finding(
                    "physics_unknown",
                    "warning",
                    f"no physics explains the transitions: the best agrees in "
                    f"{100 * max(replayed.agreement.values()):.0f} % of the rows",
                    "returns in the simulator will not tell what the policy does on the real plant",
                    "check --env, the order of the observation, and noise; or judge offline only",
                )
            )
    report["findings"] = overview.as_json(findings)
    return report


def run(config: DoctorConfig) -> int:
    """Examines, prints and writes; returns the exit code."""
    threads = process.use_threads(config.threads)
    task = tasks.get(config.env)
    data, name = sources.load(config.dataset, task)
    report = examine(data, task, config.replay, config.seed, threads)
    stem = config.output or f"doctor-{pathlib.Path(name).stem.replace('/', '-')}"
    text = overview.in_words(report, name)
    pathlib.Path(f"{stem}.txt").write_text(text + "\n")
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
