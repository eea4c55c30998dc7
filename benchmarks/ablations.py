"""python -m benchmarks.ablations: what the records of MOPP's parts and of MBOP say, pair by pair.

Differences are taken on the same data and seed. Runs of other commits than the whole planner's were
made on another machine, where the whole planner was fitted again too, for seeds 1 and 2
(results/tables/mopp-refitted.json): that is what they are compared with. Where no such fit exists the
first machine's is taken, and "on one machine" leaves those pairs out. Variants that take models over
must have those very models, as the likelihood of their dynamics tells.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_TAKES_MODELS = ("no max-Q", "no pruning")
_SAME = 1e-3  # nats, returns: the same fit, the same data

Run = dict[str, Any]


def _cell(run: Run) -> tuple[str, int]:
    return run["dataset"], run["seed"]


def _said(differences: Sequence[float]) -> str:
    values = np.array(differences)
    return (
        f"mean {values.mean():+.0f}, above in {(values > 0).sum()} of {len(values)}, "
        f"from {values.min():+.0f} to {values.max():+.0f}"
    )


def of_parts(whole: Sequence[Run], refitted: Sequence[Run], variants: Sequence[Run]) -> list[str]:
    """Lines: each variant minus the whole planner, in return and in held-out log-likelihood.

    Raises:
      ValueError: a variant's models are those of no run of the whole planner.
    """
    runs = {_cell(run): run for run in whole}
    again = {_cell(run): run for run in refitted}

    def reference(run: Run) -> tuple[Run, bool]:
        first = runs[_cell(run)]
        if run["commit"] == first["commit"]:
            return first, True
        return again.get(_cell(run), first), _cell(run) in again

    lines = []
    for name in sorted({run["variant"] for run in variants}):
        own = [run for run in variants if run["variant"] == name]
        pairs = [(run, *reference(run)) for run in own]
        at_home = [pair for pair in pairs if pair[2]]
        lines += _lines(name, pairs)
        if 0 < len(at_home) < len(pairs):
            lines += _lines(f"{name}, on one machine", at_home)
    return lines


def _lines(name: str, pairs: Sequence[tuple[Run, Run, bool]]) -> list[str]:
    """What is said of one variant's (run, whole planner, whether one machine made both)."""
    returns = [a["true_return_mean"] - b["true_return_mean"] for a, b, _ in pairs]
    gains = [b["dynamics_nll"] - a["dynamics_nll"] for a, b, _ in pairs]
    lines = [f"{name}: return {_said(returns)}"]
    if not name.startswith(_TAKES_MODELS):
        lines.append(
            f"{name}: log-likelihood of held-out dynamics, nats: {min(gains):+.2f} to "
            f"{max(gains):+.2f}, above in {sum(g > 0 for g in gains)} of {len(gains)}"
        )
    elif max(map(abs, gains)) > _SAME:
        raise ValueError(f"{name} has other models than the whole planner")
    return lines


def of_mbop(whole: Sequence[Run], mbop: Sequence[Run]) -> list[str]:
    """Lines: MBOP minus MOPP, on data of the same mean return."""
    differences = []
    for run in mbop:
        same = [
            other
            for other in whole
            if other["dataset"] == run["dataset"]
            and abs(other["behavior_return"] - run["behavior_return"]) < _SAME
        ]
        same.sort(key=lambda other, run=run: other["seed"] != run["seed"])  # type: ignore[misc]
        if same:
            differences.append(run["true_return_mean"] - same[0]["true_return_mean"])
    return [f"mbop: return {_said(differences)}; {len(mbop) - len(differences)} without a pair"]


def main() -> None:
    """Prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("results"))
    folder = parser.parse_args().folder

    def records(name: str) -> list[Run]:
        return json.loads((folder / name).read_text())

    every = records("mopp-default.json")
    whole = [run for run in every if run["algorithm"] == "mopp"]
    mbop = [run for run in every if run["algorithm"] == "mbop"]
    variants = records("mopp-ablations.json")
    print("\n".join(of_parts(whole, records("tables/mopp-refitted.json"), variants)))
    print("\n".join(of_mbop(whole, mbop)))


if __name__ == "__main__":
    main()
