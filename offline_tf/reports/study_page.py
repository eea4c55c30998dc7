"""Many runs as one HTML page: a line per algorithm and data set, comparisons, curves over seeds."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from offline_tf.inspection import figures
from offline_tf.numerics import seed_statistics
from offline_tf.numerics.seed_statistics import Interval
from offline_tf.reports import html_page, run_contents
from offline_tf.reports.run_contents import Run
from offline_tf.run_folder import files
from offline_tf.types import Array, UserError

_RETURN, _NORMALIZED = "true_return_mean", "normalized_score"
# Of models that are taken over there may be a folder per seed.
_NOT_SETTINGS = (
    *("algorithm", "seed", "workdir", "threads", "env", "dataset", "data_dir", "compile"),
    *("dynamics_from", "models_from"),
)
_POINTS = 200  # of a curve
_LABEL = 40  # characters of flags in a name


class Group(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      algorithm: with the flags that tell it from other groups of the page.
      data: robot or plant, and data set.
      runs: finished ones.
    """

    algorithm: str
    data: str
    runs: list[Run]

    def values(self, key: str) -> Array:
        """Of those runs whose summary has it."""
        found = [run.summary.get(key) for run in self.runs]
        return np.array([value for value in found if value is not None], np.float64)


def find(folder: pathlib.Path) -> list[Run]:
    """The finished runs below a study's folder.

    Raises:
      UserError: there are none.
    """
    folders = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not folders:
        raise UserError(f"--study: expected a folder with finished runs, {folder} has none")
    return [run_contents.read(path) for path in folders]


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs by algorithm, flags and data.

    Flags are named where they tell runs of an algorithm on the same data apart; where they take too
    many words, by the numbers of `settings_of`.
    """
    by_algorithm: dict[str, list[Run]] = {}
    for run in runs:
        name = str(run.summary.get("algorithm", run.manifest["algorithm"]))
        by_algorithm.setdefault(name, []).append(run)
    found: dict[tuple[str, str], list[Run]] = {}
    for name, members in by_algorithm.items():
        labels = _labels(members)
        for run, label in zip(members, labels, strict=True):
            found.setdefault((f"{name} {label}".strip(), _data(run)), []).append(run)
    return [Group(*key, members) for key, members in sorted(found.items(), key=_by_data)]


def settings_of(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Groups whose name is a number, each with its flags that others have not."""
    found: dict[str, str] = {}
    for group in groups:
        if group.algorithm.rpartition(" ")[2].startswith("#"):
            keys = _differing([run for each in groups for run in each.runs if _same(each, group)])
            words = (f"{key}={_settings(group.runs[0]).get(key)}" for key in keys)
            found.setdefault(group.algorithm, ", ".join(words))
    return list(found.items())


def _same(one: Group, other: Group) -> bool:
    return one.algorithm.split()[0] == other.algorithm.split()[0]


def _labels(runs: Sequence[Run]) -> list[str]:
    """Of each run of an algorithm: its flags that others on the same data have not, or a number."""
    keys = _differing(runs)
    words = [" ".join(f"{key}={_settings(run).get(key)}" for key in keys) for run in runs]
    if max(map(len, words)) <= _LABEL:
        return words
    numbers = {label: f"#{n}" for n, label in enumerate(dict.fromkeys(words), 1)}
    return [numbers[label] for label in words]


def _differing(runs: Sequence[Run]) -> list[str]:
    """Flags in which runs on the same data differ."""
    flags = [(_data(run), _settings(run)) for run in runs]
    keys = dict.fromkeys(key for _, each in flags for key in each)
    found = []
    for key in keys:
        values = {(data, str(each.get(key))) for data, each in flags}
        if len(values) > len({data for data, _ in flags}):
            found.append(key)
    return found


def _data(run: Run) -> str:
    """Robot or plant, and data set; of data made here, whose seed is the run's, without that."""
    dataset = re.sub(r"-seed\d+$", "", str(run.summary.get("dataset")))
    return f"{run.summary.get('env')}, {dataset}"


def _by_data(item: tuple[tuple[str, str], list[Run]]) -> tuple[str, str]:
    (algorithm, data), _ = item
    return data, algorithm


def _settings(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.manifest["flags"].items() if k not in _NOT_SETTINGS}


def write(folder: pathlib.Path, path: pathlib.Path) -> int:
    """Writes the page; returns the number of runs on it.

    Args:
      folder: of the study.
      path: of the HTML file.

    Raises:
      UserError: no run is finished.
    """
    runs = find(folder)
    groups = groups_of(runs)
    title = f"{folder.resolve().name}: {len(runs)} runs"
    body = [f"<header><h1>{html.escape(title)}</h1></header>", _results(groups)]
    body += [_compared(groups), _curves(groups)]
    page = html_page.document(title, "".join(body), "offline_tf.report")
    with files.whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return len(runs)


def _results(groups: Sequence[Group]) -> str:
    """A row per group: interquartile means over seeds, promise beside truth, verdicts, minutes."""
    rows = []
    for group in groups:
        promises, returns = group.values("promise"), group.values(_RETURN)
        levels = [(run.summary.get("verdict") or {}).get("level", "") for run in group.runs]
        told = ", ".join(
            f"{levels.count(x)} {x}" for x in ("green", "doubtful", "bad") if x in levels
        )
        minutes = group.values("wall_seconds") / 60.0
        rows.append(
            [
                html.escape(f"{group.data}: {group.algorithm}"),
                len(group.runs),
                _mean(group.values("behavior_return")),
                in_words(_over_seeds(returns)),
                in_words(_over_seeds(promises)),
                told or "-",
                _mean(minutes),
            ]
        )
    head = ["", "seeds", "mean of the data", "return", "promise", "verdicts", "minutes"]
    note = (
        "<p>Interquartile means over seeds, with 95 % bootstrap intervals from three seeds on. The "
        "promise is a lower bound, made without a simulator.</p>"
    )
    numbers = "".join(
        f"<p><b>{html.escape(name)}</b>: {html.escape(words)}</p>"
        for name, words in settings_of(groups)
    )
    return f"<section><h2>Results</h2>{html_page.table(head, rows)}{note}{numbers}</section>"


def _mean(values: Array) -> Any:
    return float(values.mean()) if len(values) else "-"


def _over_seeds(values: Array) -> Interval | None:
    if not len(values):
        return None
    return seed_statistics.interval([values], seed_statistics.interquartile_mean)


def in_words(found: Interval | None) -> str:
    """Such as "3,105 [2,990, 3,200]"."""
    if found is None:
        return "-"
    value = html_page.number(found.value)
    if np.isnan(found.low):
        return value
    return f"{value} [{html_page.number(found.low)}, {html_page.number(found.high)}]"


def _compared(groups: Sequence[Group]) -> str:
    """Algorithms in pairs, over the data that both have."""
    algorithms = list(dict.fromkeys(group.algorithm for group in groups))
    returns: dict[str, dict[str, Array]] = {each: {} for each in algorithms}
    for group in groups:
        if len(values := group.values(_RETURN)):
            returns[group.algorithm][group.data] = values
    if len(algorithms) < 2 or not any(returns.values()):
        return ""
    rows = [
        [html.escape(ours), _overall(groups, ours)]
        + [
            _chance(returns[ours], returns[theirs]) if ours != theirs else ""
            for theirs in algorithms
        ]
        for ours in algorithms
    ]
    head = ["", "normalised, over its data", *(f"beats {algorithm}" for algorithm in algorithms)]
    words = (
        "<p>The chance that a run of the row returns more, over the data that both have; in brackets "
        "how many.</p>"
    )
    return f"<section><h2>Compared</h2>{html_page.table(head, rows)}{words}</section>"


def _chance(ours: dict[str, Array], theirs: dict[str, Array]) -> str:
    data = [each for each in ours if each in theirs]
    if not data:
        return "-"
    found = seed_statistics.improvement_interval(
        [ours[each] for each in data], [theirs[each] for each in data]
    )
    return f"{in_words(found)} ({len(data)})"


def _overall(groups: Sequence[Group], algorithm: str) -> str:
    scores = [group.values(_NORMALIZED) for group in groups if group.algorithm == algorithm]
    scores = [each for each in scores if len(each)]
    if not scores:
        return "-"
    return in_words(seed_statistics.interval(scores, seed_statistics.interquartile_mean))


def _curves(groups: Sequence[Group]) -> str:
    """Per data set and panel: means over seeds, bands from the lowest to the highest."""
    drawn = []
    for data in dict.fromkeys(group.data for group in groups):
        here = [group for group in groups if group.data == data]
        panels = dict.fromkeys(
            (panel[:3], line)
            for group in here
            for layout in run_contents.layouts(group.runs)[:1]
            for panel in layout.panels
            for line in panel.lines
        )
        for heading, line in panels:
            bands = [
                (group.algorithm, *band)
                for group in here
                if (band := _band([run.tables.get(line.table) for run in group.runs], line.column))
            ]
            if bands:
                title = f"{heading[0]}: {line.label}"
                figure = _figure(bands, line.label, heading[1], heading[2])
                drawn.append(
                    f"<figure>{figures.svg(figure, title)}<figcaption>{html.escape(title)}<br>"
                    f"{html.escape(data)}</figcaption></figure>"
                )
    if not drawn:
        return ""
    note = "<p>Lines are means over seeds, bands go from the lowest seed to the highest.</p>"
    return f'<section><h2>Curves</h2>{note}<div class="grid">{"".join(drawn)}</div></section>'


def _band(tables: Sequence[Array | None], column: str) -> tuple[Array, Array, Array, Array] | None:
    """Steps, mean, lowest and highest of a metric over runs, on the steps that all have reached."""
    curves = [
        (table["step"], table[column])
        for table in tables
        if table is not None and column in (table.dtype.names or ()) and len(table) > 1
    ]
    if not curves:
        return None
    first = max(steps[0] for steps, _ in curves)
    last = min(steps[-1] for steps, _ in curves)
    if last <= first:
        return None
    at = np.linspace(first, last, _POINTS)
    values = np.stack([np.interp(at, *curve) for curve in curves])  # [n, points]
    return at, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _figure(
    bands: Sequence[tuple[str, Array, Array, Array, Array]], title: str, x: str, y: str
) -> Figure:
    figure, axes = figures.new(4.6, 2.9)
    axis = axes[0, 0]
    for number, (label, steps, mean, low, high) in enumerate(bands):
        colour = figures.COLOURS[number % len(figures.COLOURS)]
        axis.plot(steps, mean, color=colour, label=label)
        axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set_title(title)
    axis.set(xlabel=x, ylabel=y)
    axis.legend()
    return figure
