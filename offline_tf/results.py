"""python -m offline_tf.results: writes the tables of RESULTS.md from the campaign records.

A record is a JSON file under results/: a list of run summaries, each with the command that made it.
Between the two markers in RESULTS.md everything is replaced; the rest of the page is left alone.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from absl import logging

from flags import schema
from offline_tf.knobs import check, knob
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.results [--add=SUMMARY.json,... --record=NAME] [--page=RESULTS.md]

Writes RESULTS.md's tables from results/*.json; --add puts run summaries into a record first.
"""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_COLUMNS = (
    ("seed", "seed"),
    ("behavior_return", "behaviour policy"),
    ("bc_return", "behaviour cloning"),
    ("pmdp_return", "P-MDP"),
    ("true_return_at_horizon", "true, same terms"),
    ("true_return_mean", "**true, mean action**"),
    ("true_return_stochastic", "true, stochastic"),
    ("true_return_last_tenth", "last tenth"),
    ("true_return_least_in_second_half", "least in 2nd half"),
    ("normalized_score", "score"),
    ("wall_seconds", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class ResultsConfig:
    """Results."""

    folder: str = knob("results", "Folder of the campaign records.")
    page: str = knob("RESULTS.md", "Page whose tables are written.")
    add: tuple[str, ...] = knob((), "summary.json files to put into a record.")
    record: str = knob("", "Name of the record that --add goes to.")
    command: str = knob("", "The command that made the runs, where a summary does not name it.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if self.add and not self.record:
            raise UserError("--record: expected the name of a record with --add, got none")


def add(path: pathlib.Path, summaries: list[dict[str, Any]], command: str) -> None:
    """Puts summaries into a record; one of the same algorithm and seed is replaced.

    Args:
      path: of the record.
      summaries: contents of summary.json files.
      command: for summaries that do not name their own.
    """
    record = json.loads(path.read_text()) if path.exists() else []
    runs = {(run["algorithm"], run["seed"]): run for run in record}
    for summary in summaries:
        # Where a run lay says nothing to a reader.
        kept = {k: v for k, v in summary.items() if k != "export"}
        kept.setdefault("command", command)
        runs[kept["algorithm"], kept["seed"]] = kept
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([runs[key] for key in sorted(runs)], indent=1) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def table(record: list[dict[str, Any]]) -> str:
    """Returns the Markdown of one record: a table per algorithm, a row per seed and a mean row."""
    parts = []
    for algorithm in sorted({run["algorithm"] for run in record}):
        runs = [run for run in record if run["algorithm"] == algorithm]
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        iterations = ", ".join(sorted({str(run["iterations"]) for run in runs}))
        commands = sorted({run["command"] for run in runs})
        parts.append(f"{algorithm}, {iterations} iterations, commit {commits}:")
        parts += [*(f"`{command}`" for command in commands), ""]
        parts.append("| " + " | ".join(title for _, title in _COLUMNS) + " |")
        parts.append("|" + "---|" * len(_COLUMNS))
        for run in runs:
            parts.append("| " + " | ".join(_cell(run.get(key)) for key, _ in _COLUMNS) + " |")
        if len(runs) > 1:
            cells = ["mean +- std"]
            for key, _ in _COLUMNS[1:]:
                values = [run[key] for run in runs if run.get(key) is not None]
                if not values:
                    cells.append("-")
                    continue
                cells.append(
                    f"{np.mean(values):.0f} +- {np.std(values, ddof=min(1, len(values) - 1)):.0f}"
                )
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def render(folder: pathlib.Path) -> str:
    """Returns the Markdown of all records, by file name."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        parts += [f"### {path.stem}\n", table(record)]
    return "\n".join(parts)


def main(config: ResultsConfig) -> None:
    """Adds, then writes the page."""
    folder, page = pathlib.Path(config.folder), pathlib.Path(config.page)
    if config.add:
        missing = [name for name in config.add if not pathlib.Path(name).exists()]
        if missing:
            raise UserError(f"--add: expected summary files, found none at {', '.join(missing)}")
        summaries = [json.loads(pathlib.Path(name).read_text()) for name in config.add]
        add(folder / f"{config.record}.json", summaries, config.command)
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"--page: expected the lines {BEGIN} and {END} in {page}, found none")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    page.write_text(f"{head}{BEGIN}\n\n{render(folder)}\n{END}{tail}")
    logging.info("wrote %s", page)


if __name__ == "__main__":
    schema.run(main, [ResultsConfig], USAGE)
