"""What the doctor says of a data set, as one HTML file with pictures."""

from __future__ import annotations

import html
import pathlib
from typing import Any

import numpy as np

from offline_tf.inspection import data_figures, figures
from offline_tf.reports import html_page
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, Transitions

_MOST_ROWS, _MOST_COLUMNS = 200_000, 16
_LAGS = 31
_LEVELS = {"error": "bad", "warning": "doubtful", "note": "green"}


def write(
    path: pathlib.Path, report: dict[str, Any], name: str, data: Transitions, task: TaskSpec
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file.
      report: see `examination.examine`.
      name: of the data.
      data: the data set; the first rows are drawn, and the first columns.
      task: names and bounds.
    """
    count = min(len(data), _MOST_ROWS)
    # Past rows of a plant's log are drawn once.
    own = [i for i, seen in enumerate(task.observation_names) if "@" not in seen]
    width = min(len(own), _MOST_COLUMNS - min(task.action_dim, _MOST_COLUMNS // 2))
    actions = min(task.action_dim, _MOST_COLUMNS - width)
    names = [*(task.observation_names[i] for i in own[:width]), *task.action_names[:actions]]
    parts = [data.observations[:count, own[:width]], data.actions[:count, :actions]]
    values = np.concatenate(parts, axis=1).astype(np.float64)
    bounds: list[tuple[float, float] | None] = [None] * width
    bounds += [(float(task.action_low[i]), float(task.action_high[i])) for i in range(actions)]
    ends = np.flatnonzero((data.terminals | data.timeouts)[:count])
    pictures = [
        ("Series", data_figures.series(names, np.nan_to_num(values), ends, actions)),
        ("Histograms, with the bounds of actions", data_figures.histograms(names, values, bounds)),
    ]
    correlation = answers(values, ends, names, actions)
    if correlation:
        title = "What answers to an action, and when"
        pictures.append((title, data_figures.answers(np.arange(_LAGS), correlation)))
    body = [f"<header><h1>{html.escape(name)}</h1><p>{_lead(report)}</p></header>"]
    body.append(f"<section><h2>Findings</h2>{_findings(report)}</section>")
    for title, figure in pictures:
        drawn = figures.svg(figure, title)
        body.append(f'<section><h2>{title}</h2><figure class="full">{drawn}</figure></section>')
    if count < len(data) or len(names) < len(own) + task.action_dim:
        body.append(f"<p>Drawn: the first {count:,} rows, {len(names)} columns.</p>")
    page = html_page.document(f"{name}: doctor", "".join(body), "offline_tf.datasets.doctor")
    with files.whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def answers(
    values: Array, ends: Array, names: list[str], actions: int
) -> dict[tuple[str, str], Array]:
    """Correlation of changes of measurements with changes of actions so many steps before.

    Args:
      values: [N, C]; the last `actions` columns are actions. Row k's action leads to row k + 1.
      ends: rows at which episodes end; a change across one does not count.
      names: of the columns.
      actions: how many are.

    Returns:
      (action, measurement) -> [lags]; none where an action or all measurements hold.
    """
    changes = np.diff(values, axis=0)
    changes[ends[ends < len(changes)]] = np.nan
    found = {}
    for action in range(len(names) - actions, len(names)):
        moved = changes[:, action]
        for seen in range(len(names) - actions):
            line = [
                _correlation(moved[: len(moved) - lag], changes[lag:, seen]) for lag in range(_LAGS)
            ]
            if np.isfinite(line).all() and len(moved) > 4 * _LAGS:
                found[names[action], names[seen]] = np.array(line)
    return found


def _correlation(first: Array, second: Array) -> float:
    good = np.isfinite(first) & np.isfinite(second)
    if good.sum() < 3 or min(first[good].std(), second[good].std()) == 0.0:
        return np.nan
    return float(np.corrcoef(first[good], second[good])[0, 1])


def _lead(report: dict[str, Any]) -> str:
    lengths, returns = report["episode_length"], report["return"]
    return html.escape(
        f"--env={report['env']}: {report['rows']:,} rows, {report['episodes']:,} episodes of "
        f"{lengths['least']} to {lengths['largest']} steps; return {returns['mean']:.4g} +- "
        f"{returns['std']:.4g}"
    )


def _findings(report: dict[str, Any]) -> str:
    if not report["findings"]:
        return "<p>Nothing to complain about.</p>"
    rows = []
    for finding in report["findings"]:
        words = {key: html.escape(str(value)) for key, value in finding.items()}
        level = f'<span class="level {_LEVELS[finding["severity"]]}">{words["severity"]}</span>'
        cells = (f"{words['what']} <code>{words['code']}</code>", words["meaning"], words["advice"])
        rows.append(f"<tr><th>{level}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th></th><th>seen</th><th>means</th><th>to do</th></tr>"
    table = f'<table class="findings"><thead>{head}</thead>{"".join(rows)}</table>'
    return f'<div class="wide">{table}</div>'
