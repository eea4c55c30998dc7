"""A whole examination of a data set: overview, thorough checks, replay in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offline_tf.datasets.quality import checks, overview, physics_replay
from offline_tf.datasets.quality.findings import SEVERITIES, Finding
from offline_tf.types import TaskSpec, Transitions


def examine(
    data: Transitions,
    task: TaskSpec,
    with_replay: bool,
    seed: int,
    threads: int,
    of_log: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Returns the report as in the JSON file.

    Args:
      data: the data set.
      task: the task.
      with_replay: whether transitions are replayed in the simulator.
      seed: which.
      threads: of the simulator.
      of_log: what `log_checks` have found in the rows that became steps.
    """
    findings = [*of_log, *checks.thorough(data, task)]
    finite = not any(f.code.startswith("not_finite") for f in findings)
    report: dict[str, Any] = {"env": task.name, **overview.overview(data, task)}
    replayed = None
    if with_replay and finite:
        part = checks.with_own_states(checks.stretches(data), task)
        replayed = physics_replay.find_physics(part, task, seed, threads)
    if replayed is not None:
        report["replay"] = replayed._asdict()
        if replayed.explained_by and "v2" not in replayed.explained_by:
            findings.append(
                Finding(
                    "physics_other",
                    "warning",
                    f"the data were recorded in {' or '.join(replayed.explained_by)} physics",
                    "the default, v2, has other masses and contacts: returns there are another robot's",
                    f"train and evaluate with --physics={replayed.explained_by[0]}",
                )
            )
        if not replayed.explained_by:
            findings.append(
                Finding(
                    "physics_unknown",
                    "warning",
                    f"no physics explains the transitions: the best agrees in "
                    f"{100 * max(replayed.agreement.values()):.0f} % of the rows",
                    "returns in the simulator will not tell what the policy does on the real plant",
                    "check --env, the order of the observation, and noise; or judge offline only",
                )
            )
    findings.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    report["findings"] = overview.as_json(findings)
    return report
