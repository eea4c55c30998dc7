"""What is in a data set: sizes, returns, coverage; as numbers and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_tf.datasets.quality.findings import Finding
from offline_tf.numerics import standardize
from offline_tf.types import TaskSpec, Transitions


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings for a report."""
    return [dataclasses.asdict(finding) for finding in findings]


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
