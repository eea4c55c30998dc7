"""python -m offline_tf.results: writes the tables of docs/results/returns.md from records.

A record is a JSON file under results/: a list of run summaries, each with the command that made it.
results/columns.csv says which numbers of a summary the tables show, in order, and under which words.
Between the two markers in that page everything is replaced; the rest of the page is left alone.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from absl import logging

from flags import schema
from offline_tf import tasks
from offline_tf.config.knobs import check, knob
from offline_tf.reports import campaign_record
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.results [--add=SUMMARY.json,... --record=NAME] [--page=FILE.md]

Writes docs/results/returns.md's tables from results/*.json; --add puts summaries into a record first.
"""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_SAME_DATA = 1e-3  # difference of mean returns


@dataclasses.dataclass(frozen=True)
class ResultsConfig:
    """Results."""

    folder: str = knob("results", "Folder of the campaign records.")
    page: str = knob("docs/results/returns.md", "Page whose tables are written.")
    add: tuple[str, ...] = knob((), "summary.json files to put into a record.")
    record: str = knob("", "Name of the record that --add goes to.")
    command: str = knob("", "The command that made the runs, where a summary does not name it.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if self.add and not self.record:
            raise UserError("--record: expected the name of a record with --add, got none")


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1.0 else f"{value:.0f}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return _number(value) if isinstance(value, float) else str(value)


def _mean_cell(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(float(np.mean(values)))} +- {_number(float(np.std(values, ddof=1)))}"


def wide_table(record: list[dict[str, Any]]) -> str:
    """Returns the Markdown of runs over several data sets: a row each, a column per algorithm.

    Cells are returns of the real simulator, mean +- standard deviation over seeds; where a variant
    has not been run with all seeds of its row, the number of its seeds stands in brackets. Where
    there are variants, a last row compares each with the whole algorithm, pair by pair; else it has
    D4RL's scores, mean over the data sets. Behaviour model and score are of the algorithm most
    of whose runs measured a behaviour model.
    """
    names = sorted({campaign_record.key(run)[:2] for run in record})
    titles = [f"{algorithm}{f' ({variant})' if variant else ''}" for algorithm, variant in names]
    head = ["data", "seeds", "behaviour data", *titles]
    cloned = [campaign_record.key(run)[:2] for run in record if "bc_return" in run]
    with_clone = bool(cloned)
    scored = max([name for name in names if not name[1]] or names, key=cloned.count)
    if with_clone:
        head.insert(3, "behaviour model")
    head.append("score of " + titles[names.index(scored)])
    parts = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for dataset in sorted({campaign_record.key(run)[2] for run in record}):
        runs = [run for run in record if campaign_record.key(run)[2] == dataset]

        def column(
            name: tuple[str, str], key: str, runs: list[dict[str, Any]] = runs
        ) -> list[float]:
            chosen = [run for run in runs if campaign_record.key(run)[:2] == name]
            return [run[key] for run in chosen if run.get(key) is not None]

        seeds = sorted({run["seed"] for run in runs})
        by_seed = {run["seed"]: run["behavior_return"] for run in runs}
        cells = [dataset, ",".join(map(str, seeds)), _mean_cell(list(by_seed.values()))]
        if with_clone:
            cells.append(_mean_cell(column(scored, "bc_return")))
        for name in names:
            values = column(name, "true_return_mean")
            count = f" ({len(values)})" if 0 < len(values) < len(seeds) else ""
            cells.append(_mean_cell(values) + count)
        cells.append(_mean_cell(column(scored, "normalized_score")))
        parts.append("| " + " | ".join(cells) + " |")
    if any(variant for _, variant in names):
        blank = [""] * (head.index(titles[0]) - 1)
        compared = [_compared(record, name) for name in names]
        parts.append("| " + " | ".join(["minus the whole", *blank, *compared, ""]) + " |")
    elif all("env" in run for run in record):
        clone = [_mean_score(record, scored, "bc_return")] if with_clone else []
        data = _mean_score(record, scored, "behavior_return")
        returns = [_mean_score(record, name, "true_return_mean") for name in names]
        own = returns[names.index(scored)]
        parts.append("| " + " | ".join(["mean score", "", data, *clone, *returns, own]) + " |")
    return "\n".join(parts)


def _mean_score(record: list[dict[str, Any]], name: tuple[str, str], key: str) -> str:
    """D4RL's score of a return: mean over seeds, then over data sets; "-" where one lacks it."""
    scores: dict[str, list[float]] = {campaign_record.key(run)[2]: [] for run in record}
    for run in record:
        if campaign_record.key(run)[:2] == name and run.get(key) is not None:
            score = tasks.get(run["env"]).normalized_score(run[key])
            if score is not None:
                scores[campaign_record.key(run)[2]].append(score)
    if not all(scores.values()):
        return "-"
    return f"{np.mean([np.mean(values) for values in scores.values()]):.1f}"


def _compared(record: list[dict[str, Any]], name: tuple[str, str]) -> str:
    """Mean difference of a variant from the whole algorithm over pairs of equal data and seed.

    Data of one name and seed may differ between machines; their mean return tells.
    """
    runs = {campaign_record.key(run): run for run in record}
    differences = []
    for key, run in runs.items():
        whole_run = runs.get((name[0], "", *key[2:]))
        if not name[1] or key[:2] != name or whole_run is None:
            continue
        theirs, own = whole_run.get("behavior_return"), run.get("behavior_return")
        if theirs is None or own is None or abs(theirs - own) < _SAME_DATA:
            differences.append(run["true_return_mean"] - whole_run["true_return_mean"])
    if not differences:
        return "-"
    above = sum(difference > 0 for difference in differences)
    return f"{np.mean(differences):+.0f}, above in {above} of {len(differences)}"


def _commits(runs: list[dict[str, Any]]) -> str:
    """Those of all runs; a run that took models over names several."""
    return ", ".join(sorted({commit for run in runs for commit in run["commit"].split(", ")}))


def _with_whole_runs(
    record: list[dict[str, Any]], all_runs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Adds the runs of whole algorithms that the variants in `record` are compared with."""
    keys = {campaign_record.key(run) for run in record}
    whole_keys = {(key[0], "", *key[2:]) for key in keys if key[1]} - keys
    return [*record, *(run for run in all_runs if campaign_record.key(run) in whole_keys)]


def table(record: list[dict[str, Any]], headings: dict[str, str]) -> str:
    """Returns the Markdown of one record: a table per algorithm and variant, a row per seed, a mean.

    Args:
      record: runs.
      headings: key of a summary -> words of its column, in order; keys that no run has are left out.
    """
    parts = []
    for name in sorted({campaign_record.key(run)[:2] for run in record}):
        runs = [run for run in record if campaign_record.key(run)[:2] == name]
        title = f"{name[0]} ({name[1]})" if name[1] else name[0]
        commits = _commits(runs)
        counts = sorted({str(run["iterations"]) for run in runs if "iterations" in run})
        iterations = f", {', '.join(counts)} iterations" if counts else ""
        commands = sorted({run["command"] for run in runs})
        columns = [c for c in headings.items() if any(run.get(c[0]) is not None for run in runs)]
        parts.append(f"{title}{iterations}, commit {commits}:")
        parts += [*(f"`{command}`" for command in commands), ""]
        parts.append("| " + " | ".join(title for _, title in columns) + " |")
        parts.append("|" + "---|" * len(columns))
        for run in runs:
            parts.append("| " + " | ".join(_cell(run.get(key)) for key, _ in columns) + " |")
        if len(runs) > 1:
            cells = ["mean +- std"]
            for key, _ in columns[1:]:
                cells.append(_mean_cell([run[key] for run in runs if run.get(key) is not None]))
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def render(folder: pathlib.Path) -> str:
    """Returns the Markdown of all records, by file name."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    everything = [run for record in records.values() for run in record]
    headings = campaign_record.headings(folder, everything)
    parts = []
    for name, record in records.items():
        parts.append(f"### {name}\n")
        if len({campaign_record.key(run)[2] for run in record}) == 1:
            parts.append(table(record, headings))
            continue
        commits = _commits(record)
        episodes = ", ".join(sorted({str(run["episodes"]) for run in record if "episodes" in run}))
        parts += [
            wide_table(_with_whole_runs(record, everything)),
            f"\n{len(record)} runs, commit {commits}, {episodes or '-'} episodes each; their "
            f"commands stand in results/{name}.json.\n",
        ]
    return "\n".join(parts)


def _summary(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"--add: expected a summary.json at {path}, got no JSON ({error})"
        ) from None


def main(config: ResultsConfig) -> None:
    """Adds, then writes the page."""
    folder, page = pathlib.Path(config.folder), pathlib.Path(config.page)
    if config.add:
        missing = [name for name in config.add if not pathlib.Path(name).is_file()]
        if missing:
            raise UserError(f"--add: expected summary files, found none at {', '.join(missing)}")
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"--page: expected the lines {BEGIN} and {END} in {page}, found none")
    if config.add:
        summaries = [_summary(pathlib.Path(name)) for name in config.add]
        campaign_record.add(folder / f"{config.record}.json", summaries, config.command)
    if not any(folder.glob("*.json")):
        raise UserError(f"--folder: expected records, *.json, in {folder}, found none")
    head, after_begin = text.split(BEGIN, 1)
    _, tail = after_begin.split(END, 1)
    page.write_text(f"{head}{BEGIN}\n\n{render(folder)}\n{END}{tail}")
    logging.info("wrote %s", page)


if __name__ == "__main__":
    schema.run(main, configs=[ResultsConfig], usage=USAGE)
