"""python -m offline_tf.datasets.doctor FILE: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
from absl import logging

from flags import schema
from offline_tf import process, standardize, tasks
from offline_tf.datasets import checks, replay, sources
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
    report: dict[str, Any] = {"env": task.name, **overview(data, task)}
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
    report["findings"] = [dataclasses.asdict(finding) for finding in findings]
    return report


def overview(data: Transitions, task: TaskSpec) -> dict[str, Any]:
    """Sizes, returns and coverage."""
    returns = data.episode_returns()
    lengths = np.diff(data.episode_bounds(), axis=1)[:, 0]
    columns: dict[str, dict[str, float]] = {}
    for names, values in (
        (task.observation_names, data.observations),
        (task.action_names, data.actions),
    ):
        mean, std = standardize.statistics(values)
        numbers = zip(mean, std, values.min(axis=0), values.max(axis=0), strict=True)
        for name, row in zip(names, numbers, strict=True):
            columns[name] = dict(zip(("mean", "std", "least", "largest"), map(float, row)))
    score = task.normalized_score(float(returns.mean()))
    return {
        "rows": len(data),
        "episodes": len(returns),
        "terminals": int(data.terminals.sum()),
        "timeouts": int(data.timeouts.sum()),
        "episode_length": {
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "largest": int(lengths.max()),
        },
        "return": {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            **{f"q{q:g}": float(np.quantile(returns, q / 100)) for q in (0, 10, 50, 90, 100)},
        },
        "normalized_score": score,
        "columns": columns,
    }


def in_words(report: dict[str, Any], name: str) -> str:
    """The report as text."""
    returns, lengths = report["return"], report["episode_length"]
    score = report["normalized_score"]
    lines = [
        f"{name}, --env={report['env']}",
        f"  {report['rows']} rows, {report['episodes']} episodes of {lengths['least']} to "
        f"{lengths['largest']} steps (median {lengths['median']:.0f}); {report['terminals']} "
        f"terminals, {report['timeouts']} timeouts",
        f"  return {returns['mean']:.1f} +- {returns['std']:.1f}, from {returns['q0']:.1f} over "
        f"{returns['q50']:.1f} (median) to {returns['q100']:.1f}"
        + ("" if score is None else f"; score {score:.1f}"),
        "",
        f"  {'column':24s} {'mean':>10s} {'std':>10s} {'least':>10s} {'largest':>10s}",
        *(
            f"  {column:24s} "
            + " ".join(f"{values[k]:10.4g}" for k in ("mean", "std", "least", "largest"))
            for column, values in report["columns"].items()
        ),
    ]
    if "replay" in report:
        replayed = report["replay"]
        shares = ", ".join(
            f"{physics} {100 * share:.0f} %" for physics, share in replayed["agreement"].items()
        )
        by = " or ".join(replayed["explained_by"])
        verdict = f"recorded in {by} physics" if by else "no physics explains them"
        lines += ["", f"  replay of {replayed['rows']} transitions: {verdict} (same: {shares})"]
    lines.append("")
    for finding in report["findings"]:
        lines += [
            f"  {finding['severity'].upper()} {finding['code']}: {finding['what']}",
            f"      means: {finding['meaning']}",
            f"      to do: {finding['advice']}",
        ]
    if not report["findings"]:
        lines.append("  nothing to complain about")
    return "\n".join(lines)


def run(config: DoctorConfig) -> int:
    """Examines, prints and writes; returns the exit code."""
    threads = process.use_threads(config.threads)
    task = tasks.get(config.env)
    data, name = sources.load(config.dataset, task)
    report = examine(data, task, config.replay, config.seed, threads)
    stem = config.output or f"doctor-{pathlib.Path(name).stem.replace('/', '-')}"
    text = in_words(report, name)
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
