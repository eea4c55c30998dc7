"""Runs as an HTML page: lays out numbers, curves and pictures."""

from __future__ import annotations

import base64
import datetime
import html
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

from offline_tf.inspection import figures, inspect_stage
from offline_tf.reports import run_contents, run_curves
from offline_tf.reports.report_layout import Layout
from offline_tf.reports.run_contents import Run
from offline_tf.run_folder import files

_PAGE = pathlib.Path(__file__).with_name("report.css")
_WIDE_INCHES = 7.0
_NO_LAYOUT = "its folder has no panels.json; its training command, given again, adds it"
_INSPECTED = (
    ("error", "One-step error (of the spread)"),
    ("drift/10", "Drift after 10 steps (of the spread)"),
    ("drift/50", "Drift after 50 steps (of the spread)"),
    ("coverage_90", "Coverage of 90 % intervals"),
    ("auroc/random actions", "AUROC, random actions"),
    ("auroc/shuffled actions", "AUROC, shuffled actions"),
    ("known/held out", "Held-out pairs known (share)"),
)


def write(runs: Sequence[Run], path: pathlib.Path) -> int:
    """Writes the page and its pictures; returns the number of pictures.

    Args:
      runs: to show; several are compared.
      path: of the HTML file; pictures go to STEM-pictures/ beside it.
    """
    runs = run_contents.named_apart(runs)
    layouts = run_contents.layouts(runs)
    pictures = path.with_name(f"{path.stem}-pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    drawn: list[pathlib.Path] = []

    def picture(name: str, figure: Figure, caption: str = "") -> str:
        stem, number = re.sub(r"[^\w.-]+", "-", name), 2
        file = pictures / f"{stem}.png"
        while file in drawn:  # of runs whose names differ in what no file may be called
            file, number = pictures / f"{stem}-{number}.png", number + 1
        file.write_bytes(figures.png(figure))
        drawn.append(file)
        words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        wide = ' class="full"' if figure.get_figwidth() > _WIDE_INCHES else ""
        return f"<figure{wide}>{figures.svg(figure, caption or name)}{words}</figure>"

    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    body = [f"<header><h1>{html.escape(title)}</h1>{_lead(runs)}</header>", _results(runs, layouts)]
    body += [_verdict(run, len(runs) > 1) for run in runs if "verdict" in run.summary]
    curves = [picture(f"curve-{name}", figure) for name, figure in run_curves.draw(runs, layouts)]
    if curves:
        body.append(f'<section><h2>Curves</h2><div class="grid">{"".join(curves)}</div></section>')
    body += [_run_section(run, picture, len(runs) > 1) for run in runs]
    page = document(title, "".join(body), "offline_tf.report")
    with files.whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return len(drawn)


def document(title: str, body: str, made_by: str) -> str:
    """A whole page.

    Args:
      title: as text.
      body: as HTML.
      made_by: command that the last line names.
    """
    date = datetime.date.today().isoformat()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_PAGE.read_text()}</style></head>"
        f"<body><main>{body}<footer>made {date} by {made_by}</footer></main></body></html>"
    )


def number(value: Any) -> str:
    """A number as a reader wants it; other things as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(str(value))
    if value != value:
        return "-"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; the first cell of each row names it, as HTML."""
    cells = [[number(cell) for cell in row] for row in rows]
    top = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    lines = "".join(
        f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in cells
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>{lines}</table></div>'


def _lead(runs: Sequence[Run]) -> str:
    """A sentence per run, from what the summaries of all algorithms have."""
    sentences = []
    for run in runs:
        summary, data = run.summary, str(run.manifest.get("dataset", "data"))
        clauses = [
            f"<b>{html.escape(run.name)}</b>: {run.manifest['algorithm']} on {html.escape(data)}"
        ]
        if not summary:
            clauses.append(f"not finished; {', '.join(run.stages)} done")
        elif summary.get("true_return_mean") is None:
            clauses.append("nothing was run in a real environment")
        else:
            value, base = summary["true_return_mean"], summary.get("behavior_return", float("nan"))
            spread = (
                f" &plusmn; {summary['true_return_std']:,.0f}"
                if "true_return_std" in summary
                else ""
            )
            episodes = f" over {summary['episodes']} episodes" if "episodes" in summary else ""
            clauses.append(f"return {value:,.0f}{spread}{episodes}, data {base:,.0f}")
        commit = run.manifest.get("commit", "unknown")
        clauses.append(f"seed {run.manifest.get('seed')}, commit {html.escape(str(commit))}")
        if run.layout is None:
            clauses.append(_NO_LAYOUT)
        sentences.append(f"<p>{'; '.join(clauses)}</p>")
    return "".join(sentences)


def _results(runs: Sequence[Run], layouts: Sequence[Layout]) -> str:
    """Cards for one run, a table for several."""
    measured: dict[str, str] = {}
    for layout in layouts:
        for key, label in layout.numbers:
            measured.setdefault(key, label)
    rows = [
        *_rows([run.summary for run in runs], measured),
        *_rows(*_inspected(runs)),
    ]
    if len(runs) > 1:
        body = table(["", *(run.name for run in runs)], rows)
    else:
        cards = [
            f'<div class="card"><b>{number(value)}</b><span>{html.escape(label)}</span></div>'
            for label, value in rows
        ]
        body = f'<div class="cards">{"".join(cards)}</div>'
    return f"<section><h2>Results</h2>{body}</section>" if rows else ""


def _verdict(run: Run, several: bool) -> str:
    """Whether the result can be relied on, with every ground."""
    told = run.summary["verdict"]
    rows = "".join(
        f"<tr><th>{html.escape(ground.get('words', name))}</th><td>{number(ground['value'])}</td>"
        f"<td>{_level(ground['level'])}</td>"
        f"<td>{html.escape(ground.get('advice', '')) if ground['level'] != 'green' else ''}</td></tr>"
        for name, ground in told["grounds"].items()
    )
    promise = run.summary.get("promise")
    promised = "" if promise is None else f" A return of {promise:,.0f} or more is promised."
    name = f"{html.escape(run.name)}: can" if several else "Can"
    return (
        f"<section><h2>{name} it be relied on? {_level(told['level'])}</h2>"
        "<p>Models that nothing was planned in, and the data, say so; no simulator was asked."
        f'{promised}</p><div class="wide"><table class="grounds"><thead><tr><th>ground</th>'
        f"<th>number</th><th></th><th>what to try</th></tr></thead>{rows}</table></div></section>"
    )


def _level(level: str) -> str:
    return f'<b class="level {html.escape(level)}">{html.escape(level)}</b>'


def _inspected(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Numbers of each run's inspection, and the words for their keys."""
    numbers = [run.stages.get(inspect_stage.STAGE, {}).get("result", {}) for run in runs]
    groups = {key for own in numbers for key in own if key.startswith(("auroc/", "known/"))}
    labels = dict(_INSPECTED)
    for key in sorted(groups - set(labels)):
        kind, _, group = key.partition("/")
        labels[key] = f"AUROC, {group}" if kind == "auroc" else f"{group}, known (share)"
    return numbers, labels


def _rows(numbers: Sequence[dict[str, Any]], labels: dict[str, str]) -> list[tuple[Any, ...]]:
    """(label, number of each run or NaN) for every key that a run has a number of."""
    rows = []
    for key, label in labels.items():
        values = [own.get(key) for own in numbers]
        if any(value is not None for value in values):
            rows.append((label, *(float("nan") if value is None else value for value in values)))
    return rows


def _run_section(run: Run, picture: Any, several: bool) -> str:
    parts = []
    arrays = inspect_stage.load(run.folder, "models")
    drawings = inspect_stage.drawings(arrays) if arrays else {}
    candidates = inspect_stage.load(run.folder, "candidates")
    if candidates:
        drawings["candidates"] = inspect_stage.draw_candidates(candidates)
    if drawings:
        grid = "".join(
            picture(f"{run.name}-{name}", figure, inspect_stage.CAPTIONS[name])
            for name, figure in drawings.items()
        )
        parts.append(f'<h3>What the models know</h3><div class="grid large">{grid}</div>')
    frames = run.folder / "render" / "frames.png"
    if frames.exists():
        data = base64.b64encode(frames.read_bytes()).decode()
        parts.append(
            f'<h3>In the simulator</h3><figure><img alt="frames of an episode" '
            f'src="data:image/png;base64,{data}"></figure>'
        )
    parts.append(_data(run))
    seconds = [(name, entry["seconds"]) for name, entry in run.stages.items()]
    total = max(sum(second for _, second in seconds), 1e-9)
    bars = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{second:,.1f} s</td>"
        f'<td class="bar"><i style="width:{100 * second / total:.1f}%"></i></td></tr>'
        for name, second in seconds
    )
    parts.append(
        f'<h3>Time by stage</h3><div class="wide"><table class="times">{bars}</table></div>'
    )
    flags = table(["flag", "value"], ((f"--{k}", str(v)) for k, v in run.manifest["flags"].items()))
    versions = table(["package", "version"], run.manifest.get("versions", {}).items())
    parts.append(
        f"<details><summary>Flags and versions</summary>{flags}{versions}"
        f"<p><code>{html.escape(str(run.summary.get('command', '')))}</code></p></details>"
    )
    title = html.escape(run.name) if several else "The run"
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def _data(run: Run) -> str:
    overview = run.stages.get("data", {}).get("result", {}).get("overview")
    if not overview:
        return ""
    returns, lengths = overview["return"], overview["episode_length"]
    words = (
        f"{overview['rows']:,} rows in {overview['episodes']:,} episodes of {lengths['least']} to "
        f"{lengths['largest']} steps (median {lengths['median']:.0f}); {overview['terminals']:,} "
        f"terminals, {overview['timeouts']:,} timeouts. Return {returns['mean']:,.1f} &plusmn; "
        f"{returns['std']:,.1f}, from {returns['q0']:,.1f} over {returns['q50']:,.1f} (median) to "
        f"{returns['q100']:,.1f}."
    )
    findings = "".join(
        f"<li><b>{html.escape(f['severity'])}</b> {html.escape(f['what'])}: "
        f"{html.escape(f['meaning'])}. {html.escape(f['advice'])}</li>"
        for f in overview["findings"]
    )
    findings = f"<ul>{findings}</ul>" if findings else "<p>Nothing to complain about.</p>"
    columns = table(
        ["column", "mean", "std", "least", "largest"],
        (
            (name, *(values[k] for k in ("mean", "std", "least", "largest")))
            for name, values in overview["columns"].items()
        ),
    )
    return (
        f"<h3>The data: {html.escape(str(run.manifest.get('dataset')))}</h3><p>{words}</p>{findings}"
        f"<details><summary>Columns</summary>{columns}</details>"
    )
