"""Markdown tables of what the records say, and one number per algorithm over all sets of a split.

A return R on a set has the score 100 (R - random) / (best - random). `random` acts uniformly; `best` is
the best of the set's policies by its mean action, in whole episodes. So 100 is to act as well as the
best of those who made the data. The data's own mean return cannot be the zero: on a set of one policy
without noise it is the best as well. Where data come without policies, the task's published reference
returns take both places.

The last lines hold interquartile means over sets, of each set's mean over its seeds, with 95 %
intervals of a bootstrap over the sets. Only sets that have every column are in it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.robustness import making, records
from benchmarks.robustness.data_sets import SPLITS, DataSet
from offline_tf import tasks
from offline_tf.numerics import seeds
from offline_tf.types import Array

_DRAWS = 2000
_FIRST = ("policies", "data", "best tenth")
_NAMES = {
    "bc": "BC",
    "bc-best-tenth": "BC of best tenth",
    "morel": "MOReL",
    "mopp": "MOPP",
    "mbop": "MBOP",
    "iql": "IQL",
    "td3bc": "TD3+BC",
    "cql": "CQL",
}


class Row(NamedTuple):
    """What is known of a set.

    Attributes:
      data_set: the set.
      dataset: its name with the tag of its making.
      policies: returns of its policies by their mean actions.
      random, best: the returns that score 0 and 100.
      data, best_tenth: mean returns of the episodes in the data.
      acted: mean return of whole episodes with the data's noise; the data's own where nobody can act.
      returns: column -> true returns, one per seed.
    """

    data_set: DataSet
    dataset: str
    policies: tuple[float, ...]
    random: float
    best: float
    data: float
    best_tenth: float
    acted: float
    returns: dict[str, list[float]]

    def score(self, value: float) -> float:
        """Of a return; see above."""
        return 100.0 * (value - self.random) / (self.best - self.random)


def row_of(data_set: DataSet, folder: pathlib.Path) -> Row | None:
    """Reads a set's record; None where its baselines have not been run on the data of today."""
    recorded = records.read(data_set, folder)
    if not recorded:
        return None
    dataset = f"{data_set.name}-{making.tag(data_set)}"
    runs = [run for run in recorded if run["dataset"] == dataset]
    of_data = [run for run in runs if run["algorithm"] == "data"]
    if not of_data:
        return None
    first = of_data[0]
    policies = tuple(found["mean"] for found in first["policies"].values())
    random, best = first["random_return"], max(policies, default=0.0)
    if not policies:
        references = tasks.get(data_set.env).reference_returns
        assert references is not None
        random, best = references
    returns: dict[str, list[float]] = {}
    for run in runs:
        if run["algorithm"] != "data":
            returns.setdefault(column_of(run), []).append(run["true_return_mean"])
    acted = first["behavior_return"] if first["acted_return"] is None else first["acted_return"]
    return Row(
        data_set,
        dataset,
        policies=policies,
        random=random,
        best=best,
        data=first["behavior_return"],
        best_tenth=first["best_tenth_return"],
        acted=acted,
        returns=returns,
    )


def runs_of(data_set: DataSet, folder: pathlib.Path) -> tuple[Row | None, list[records.Run]]:
    """A set's row, and its runs on the data of today; none without a row."""
    row = row_of(data_set, folder)
    runs = [] if row is None else records.read(data_set, folder)
    return row, [run for run in runs if row is not None and run["dataset"] == row.dataset]


def column_of(run: records.Run) -> str:
    """The heading under which a run stands."""
    algorithm: str = run["algorithm"]
    name = _NAMES.get(algorithm, algorithm)
    return f"{name}, {run['variant']}" if run.get("variant") else name


def interquartile_mean(values: Array) -> Array:
    """[.., n] -> [..]: the mean without the lowest and the highest quarter, rounded down."""
    ordered = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)


def interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the interquartile mean of [n] values by a bootstrap over them."""
    generator = seeds.generator(seed, "robustness/bootstrap")
    drawn = generator.choice(values, size=(_DRAWS, len(values)))
    low, high = np.percentile(interquartile_mean(drawn), [2.5, 97.5])
    return float(low), float(high)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All headings, baselines first, then ours, then the peers; variants behind their algorithm."""
    found = {column for row in rows for column in row.returns}
    order = list(_NAMES.values())

    def place(column: str) -> tuple[int, str]:
        name = column.partition(",")[0]
        return order.index(name) if name in order else len(order), column

    return sorted(found, key=place)


def _returns(values: Sequence[float]) -> str:
    if not values:
        return ""
    text = f"{np.mean(values):.0f}"
    return text if len(values) == 1 else f"{text} +- {np.std(values, ddof=1):.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _average(values: list[float]) -> str:
    """Interquartile mean and its interval."""
    if not values:
        return ""
    low, high = interval(np.array(values))
    return f"{interquartile_mean(np.array(values)):.0f} ({low:.0f} to {high:.0f})"


def of_split(rows: Sequence[Row]) -> list[str]:
    """The two tables of some sets: returns, then scores."""
    columns = columns_of(rows)
    rule = _line(["---"] * (1 + len(_FIRST) + len(columns)))
    lines = [_line(["set", *_FIRST, *columns]), rule]
    for row in rows:
        cells = [", ".join(f"{x:.0f}" for x in row.policies), f"{row.data:.0f}"]
        cells += [f"{row.best_tenth:.0f}", *(_returns(row.returns.get(c, [])) for c in columns)]
        lines.append(_line([row.data_set.name, *cells]))
    shown = ["who made the data", *columns]
    lines += ["", "Scores:", "", _line(["set", *shown]), _line(["---"] * (1 + len(shown)))]
    scores: dict[str, dict[str, float]] = {column: {} for column in shown}
    for row in rows:
        name = row.data_set.name
        if row.best <= row.random:
            lines.append(_line([f"{name}: no policy is better than chance", *[""] * len(shown)]))
            continue
        scores[shown[0]][name] = row.score(row.acted)
        for column, found in row.returns.items():
            scores[column][name] = row.score(float(np.mean(found)))
        cells = [f"{scores[c][name]:.0f}" if name in scores[c] else "" for c in shown]
        lines.append(_line([name, *cells]))
    shared = {r.data_set.name for r in rows if all(r.data_set.name in scores[c] for c in shown)}
    if not scores[shown[0]]:
        return lines
    own = [_average(list(scores[column].values())) for column in shown]
    if shared:
        of_shared = [[v for n, v in scores[c].items() if n in shared] for c in shown]
        cells = [_average(values) for values in of_shared]
        lines.append(_line([f"{len(shared)} sets that have all", *cells]))
    counted = [f"{cell}, {len(scores[c])} sets" for c, cell in zip(shown, own, strict=True)]
    lines.append(_line(["each one's own sets", *counted]))
    return lines


def report(sets: Sequence[DataSet], folder: pathlib.Path = records.FOLDER) -> str:
    """A section per split; sets without baselines are named below their table."""
    lines: list[str] = []
    for split in SPLITS:
        of_this = [data_set for data_set in sets if data_set.split == split]
        found = {data_set.name: row_of(data_set, folder) for data_set in of_this}
        rows = [row for row in found.values() if row is not None]
        missing = [name for name, row in found.items() if row is None]
        if of_this:
            lines += [f"## {split.capitalize()}", ""]
            lines += [*of_split(rows), ""] if rows else []
            lines += [f"No baselines yet: {', '.join(missing)}.", ""] if missing else []
    return "\n".join(lines)
