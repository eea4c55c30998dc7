"""Our runs beside the papers' tables, from the records of `./run.sh campaign papers`.

python -m benchmarks.papers [--records=results] [--page=PAGE.md] [--picture=PICTURE.svg]

Prints Markdown: MOReL's table 1 with our mean over seeds in each cell, D4RL's sets with everybody's
score, interquartile means with 95 % intervals (stratified bootstrap over seeds), chances that one
algorithm beats another, and which cells miss. --page writes it between two markers of a page. The
picture has performance profiles: the share of runs above each share of the paper's figure, or score.

Records are papers-morel.json, papers-d4rl.json (data made by D4RL's recipe) and d4rl-v2.json (D4RL's
own files, which this project could not download; `./run.sh campaign d4rl-v2` is for who has them).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import pages, published
from benchmarks.robustness import records
from offline_tf.numerics import seed_statistics
from offline_tf.numerics.seed_statistics import Interval
from offline_tf.types import Array

_SEEDS = 3
_KINDS = ("random", "medium", "medium-replay", "medium-expert")
_OURS = {  # algorithm of a record -> heading
    "bc": "BC",
    "bc-best-tenth": "BC of best tenth",
    "mbop": "MBOP",
    "mopp": "MOPP",
    "morel": "MOReL",
    "iql": "IQL",
    "td3bc": "TD3+BC",
    "cql": "CQL",
}
_Runs = Sequence[Mapping[str, Any]]


def read(folder: pathlib.Path, pattern: str) -> list[dict[str, Any]]:
    """All summaries in the records of a folder whose names fit, such as papers-morel.json."""
    return [run for path in sorted(folder.glob(pattern)) for run in json.loads(path.read_text())]


def morel_cells(runs: _Runs) -> dict[tuple[str, str], Array]:
    """(robot, exploration) -> [n] true mean returns of MOReL's runs on a million steps made here."""
    cells: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for exploration in published.EXPLORATIONS:
            is_cell = f"-{exploration}-1000000" in run["dataset"] and not run.get("variant")
            if run["algorithm"] == "morel" and is_cell:
                cells.setdefault((run["env"], exploration), []).append(run["true_return_mean"])
    return {cell: np.array(values) for cell, values in cells.items()}


def d4rl_scores(runs: _Runs) -> dict[str, dict[str, Array]]:
    """Algorithm -> set such as hopper-medium -> [n] scores, of D4RL's v2 files or data by its recipe.

    D4RL's random data are uniform actions, as ours are; its other kinds are made with SAC here.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if run.get("variant") or run["algorithm"] not in _OURS:
            continue
        for kind in _KINDS:
            name = f"{run['env']}-{kind}"
            made = f"{name}-ours" if kind == "random" else f"{name}-sac"
            if run["dataset"].partition("-seed")[0] in (made, f"{name}-v2"):
                of_set = found.setdefault(_OURS[run["algorithm"]], {}).setdefault(name, [])
                of_set.append(run["normalized_score"])
    return {a: {name: np.array(v) for name, v in sets.items()} for a, sets in found.items()}


def in_words(found: Interval, digits: int) -> str:
    """Such as "0.93 [0.88, 0.97]"."""
    value = f"{found.value:.{digits}f}"
    if np.isnan(found.low):
        return value
    return f"{value} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _over_seeds(values: Array, digits: int = 0) -> str:
    if not len(values):
        return "-"
    spread = f" +- {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    few = f" ({len(values)})" if len(values) < _SEEDS else ""
    return f"{values.mean():.{digits}f}{spread}{few}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def of_morel(runs: _Runs) -> list[str]:
    """MOReL's table 1: ours / the paper's in each cell; then the misses, and all cells in a number."""
    cells, paper = morel_cells(runs), published.MOREL_RETURNS
    count = sum(len(values) for values in cells.values())
    wanted = _SEEDS * len(paper)
    rows = [
        [
            robot,
            *(
                f"{_over_seeds(cells.get((robot, each), np.zeros(0)))} / {paper[robot, each]}"
                for each in published.EXPLORATIONS
            ),
        ]
        for robot in published.ROBOTS
    ]
    head = ["ours / the paper's (quoted)", *published.EXPLORATIONS]
    lines = [f"{count} of {wanted} runs are recorded.", "", *_table(head, rows), ""]
    if not cells:
        return lines
    shares = {cell: values / paper[cell] for cell, values in cells.items()}
    missed = sorted((float(s.mean()), *cell) for cell, s in shares.items() if s.mean() < 1.0)
    told = ", ".join(f"{robot} {each} {share:.2f}" for share, robot, each in missed)
    middle = seed_statistics.interval(list(shares.values()), seed_statistics.interquartile_mean)
    lines += [
        f"- Cells below the paper: {len(missed)} of {len(cells)}{told and f' ({told})'}.",
        f"- Interquartile mean of ours over the paper's: {in_words(middle, 2)}.",
        *_promises(runs),
    ]
    return lines


def _promises(runs: _Runs) -> list[str]:
    pairs = [
        (run["promise"], records.as_promised(run)) for run in runs if run.get("promise") is not None
    ]
    if not pairs:
        return []
    kept = sum(promise <= true for promise, true in pairs)
    return [f"- The promise is at or below the truth in {kept} of {len(pairs)} runs."]


def of_d4rl(runs: _Runs) -> list[str]:
    """Scores of D4RL's sets, ours on SAC data made here and the published; then comparisons."""
    scores = d4rl_scores(runs)
    ours = [name for name in _OURS.values() if name in scores]
    sets = [f"{robot}-{kind}" for robot in published.ROBOTS[:3] for kind in _KINDS]
    quoted = published.D4RL_ALGORITHMS
    rows = [
        [
            name,
            *(_over_seeds(scores[a].get(name, np.zeros(0)), 1) for a in ours),
            *(f"{published.D4RL_SCORES[name, a]:.1f}" for a in quoted),
        ]
        for name in sets
    ]
    means = [
        f"{np.mean([v.mean() for v in scores[a].values()]):.1f} ({len(scores[a])} sets)"
        for a in ours
    ]
    average = [f"{np.mean([published.D4RL_SCORES[s, a] for s in sets]):.1f}" for a in quoted]
    head = ["set", *ours, *(f"{a}, quoted" for a in quoted)]
    lines = [*_table(head, [*rows, ["mean", *means, *average]]), ""]
    for name in ours:
        middle = seed_statistics.interval(
            list(scores[name].values()), seed_statistics.interquartile_mean
        )
        lines.append(f"- {name}: interquartile mean {in_words(middle, 1)}.")
    for name in ("MOPP", "MOReL"):
        for other in ours:
            shared = [s for s in scores.get(name, {}) if s in scores[other]]
            if name != other and shared:
                chance = seed_statistics.improvement_interval(
                    [scores[name][s] for s in shared], [scores[other][s] for s in shared]
                )
                words = f"{in_words(chance, 2)}, {len(shared)} sets"
                lines.append(f"- {name} beats {other} with a chance of {words}.")
    return [*lines, *_promises(runs)]


def draw(morel: _Runs, d4rl: _Runs, path: pathlib.Path) -> None:
    """Writes the performance profiles, a panel for each table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.2), layout="constrained")
    cells = morel_cells(morel)
    if cells:
        at = np.linspace(0.0, 1.5, 151)
        shares = [values / published.MOREL_RETURNS[cell] for cell, values in cells.items()]
        left.plot(at, seed_statistics.profile(shares, at), color="#1b6ca8", label="MOReL")
        left.axvline(1.0, color="0.6", linewidth=1)
    left.set_xlabel("return over the paper's")
    left.set_ylabel("share of runs above")
    at = np.linspace(0.0, 120.0, 121)
    for name, sets in d4rl_scores(d4rl).items():
        right.plot(at, seed_statistics.profile(list(sets.values()), at), label=name)
    right.set_xlabel("D4RL score")
    for axis in (left, right):
        axis.set_ylim(0.0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    """Reads, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--page", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    arguments = parser.parse_args()
    morel = read(arguments.records, "papers-morel.json")
    d4rl = read(arguments.records, "papers-d4rl.json")
    own_files = read(arguments.records, "d4rl-v2.json")
    lines = ["## MOReL's table 1", "", *of_morel(morel)]
    if d4rl:
        lines += ["", "## Data by D4RL's recipe", "", *of_d4rl(d4rl)]
    if own_files:
        lines += ["", "## D4RL's own files", "", *of_d4rl(own_files)]
    print("\n".join(lines))
    if arguments.page:
        pages.put(arguments.page, "papers", lines)
    if arguments.picture:
        draw(morel, d4rl, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
