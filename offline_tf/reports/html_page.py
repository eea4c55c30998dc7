"""Runs as an HTML page: reads their folders, lays out numbers, curves and pictures."""

from __future__ import annotations

import base64
import csv
import datetime
import html
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from offline_tf.inspection import figures, inspect_stage
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, UserError

_PAGE = pathlib.Path(__file__).with_name("report.css")
_WIDE_INCHES = 7.0
_LONGEST_LINE = 400  # points of a curve


class Run(NamedTuple):
    """A run folder as read: manifest, summary, results of its stages, tables of its metrics."""

    folder: pathlib.Path
    name: str
    manifest: dict[str, Any]
    summary: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    tables: dict[str, Array]


class Panel(NamedTuple):
    """Curves in one picture: (label, table, column); NAME_low and NAME_high are drawn as a band."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[tuple[str, str, str], ...]


_PANELS = (
    Panel(
        "Return while planning (95 % of the mean)",
        "iteration",
        "return",
        (
            ("P-MDP promises", "planning.evaluation", "pmdp_return"),
            ("true, mean action", "planning.evaluation", "true_return_mean"),
            ("true, stochastic", "planning.evaluation", "true_return_stochastic"),
        ),
    ),
    Panel(
        "Paths that meet HALT", "iteration", "share", (("HALT share", "planning", "halt_share"),)
    ),
    Panel(
        "Length of paths",
        "iteration",
        "steps",
        (("path", "planning", "path_length"), ("until HALT", "planning", "halt_step")),
    ),
    Panel(
        "KL per update",
        "iteration",
        "nats",
        (("KL", "planning", "kl"), ("target", "planning", "kl_target")),
    ),
    Panel(
        "Value baseline, share of the step",
        "iteration",
        "share",
        (
            ("baseline: explained variance", "planning", "explained_variance"),
            ("natural step taken", "planning", "step_share"),
        ),
    ),
    Panel(
        "Disagreement along paths",
        "iteration",
        "disagreement",
        (("mean", "planning", "disagreement_mean"), ("largest", "planning", "disagreement_max")),
    ),
    Panel(
        "Candidates kept, fallback",
        "step of the episode",
        "share",
        (("kept", "evaluation", "kept_share"), ("fallback", "evaluation", "fallback")),
    ),
    Panel(
        "Weights of the candidates",
        "step of the episode",
        "nats",
        (("entropy", "evaluation", "weight_entropy"),),
    ),
    Panel(
        "Reward per step", "step of the episode", "reward", (("reward", "evaluation", "reward"),)
    ),
    Panel(
        "A decision for all episodes",
        "step of the episode",
        "ms",
        (("decision", "evaluation", "decision_ms"),),
    ),
    Panel(
        "Dynamics: loss",
        "epoch or step",
        "loss",
        (
            ("training", "dynamics", "loss"),
            ("training", "dynamics_fit", "loss"),
            ("held out", "dynamics_fit", "held_out"),
        ),
    ),
    Panel(
        "Dynamics: error",
        "epoch",
        "standardised MSE",
        (
            ("held out", "dynamics", "held_out_mse"),
            ("held out", "dynamics_fit", "held_out_mse"),
            ("training rows", "dynamics_fit", "training_rows_mse"),
        ),
    ),
    Panel(
        "Behaviour model: loss",
        "step",
        "loss",
        (("training", "behavior_fit", "loss"), ("held out", "behavior_fit", "held_out")),
    ),
    Panel("Q: mean", "step", "value", (("mean", "q_fit", "mean"), ("gap", "q_fit", "gap"))),
)
_RESULTS = (
    ("true_return_mean", "Return, final controller"),
    ("true_return_stochastic", "Return, stochastic actions"),
    ("normalized_score", "D4RL score"),
    ("bc_return", "Return, behaviour cloning"),
    ("behavior_return", "Return in the data"),
    ("pmdp_return", "P-MDP promises"),
    ("true_return_at_horizon", "True, same terms"),
    ("kept_share", "Candidates kept (share)"),
    ("fallback", "Fallback (share of decisions)"),
    ("decision_ms_median", "A decision for all episodes (ms)"),
    ("known_share", "Actions known (share)"),
    ("fqe_value", "Fitted Q evaluation"),
    ("wall_seconds", "Seconds in all"),
)
_FOUND = (
    ("error", "One-step error (of the spread)"),
    ("drift/10", "Drift after 10 steps (of the spread)"),
    ("drift/50", "Drift after 50 steps (of the spread)"),
    ("coverage_90", "Coverage of 90 % intervals"),
    ("auroc/random actions", "AUROC, random actions"),
    ("auroc/shuffled actions", "AUROC, shuffled actions"),
    ("known/held out", "Held-out pairs known (share)"),
)


def read(folder: pathlib.Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: there is no run, or it has not come to a first stage.
    """
    record = RunRecord.open_existing(folder)
    stages = record.results()
    if not stages:
        raise UserError(f"--workdir: expected a run with a finished stage, {folder} has none")
    summary_file = folder / "summary.json"
    tables = {}
    for path in sorted((folder / "metrics").glob("*.csv")):
        found = _table_of(path)
        if found is not None:
            tables[path.stem] = found
    return Run(
        folder,
        folder.resolve().name,
        record.manifest,
        json.loads(summary_file.read_text()) if summary_file.exists() else {},
        stages,
        tables,
    )


def _table_of(path: pathlib.Path) -> Array | None:
    """A table of metrics by column; a row that a kill cut short is left out, an empty table is None."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        return None
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    kinds = [(name, np.float64) for name in rows[0]]
    try:
        return np.array([tuple(float(cell) for cell in row) for row in whole], kinds)
    except ValueError:  # cut within a number
        return np.array([tuple(float(cell) for cell in row) for row in whole[:-1]], kinds)


def _named(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders have the same name are told apart by a number."""
    names = [run.name for run in runs]
    return [
        run._replace(name=f"{run.name} ({number + 1})") if names.count(run.name) > 1 else run
        for number, run in enumerate(runs)
    ]


def write(runs: Sequence[Run], path: pathlib.Path) -> int:
    """Writes the page and its pictures; returns the number of pictures.

    Args:
      runs: to show; several are compared.
      path: of the HTML file; pictures go to STEM-pictures/ beside it.
    """
    runs = _named(runs)
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
    body = [f"<header><h1>{html.escape(title)}</h1>{_lead(runs)}</header>", _results(runs)]
    curves = [picture(f"curve-{panel.title}", figure) for panel, figure in _curves(runs)]
    if curves:
        body.append(f'<section><h2>Curves</h2><div class="grid">{"".join(curves)}</div></section>')
    body += [_run_section(run, picture, len(runs) > 1) for run in runs]
    made = datetime.date.today().isoformat()
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_PAGE.read_text()}</style></head>"
        f"<body><main>{''.join(body)}<footer>made {made} by offline_tf.report</footer></main>"
        "</body></html>"
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return len(drawn)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(str(value))
    if value != value:
        return "-"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[_number(cell) for cell in row] for row in rows]
    top = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    lines = "".join(
        f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in cells
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>{lines}</table></div>'


def _lead(runs: Sequence[Run]) -> str:
    """A sentence per run."""
    sentences = []
    for run in runs:
        said, data = run.summary, str(run.manifest.get("dataset", "data"))
        words = [
            f"<b>{html.escape(run.name)}</b>: {run.manifest['algorithm']} on {html.escape(data)}"
        ]
        if not said:
            words.append(f"not finished; {', '.join(run.stages)} done")
        elif said.get("true_return_mean") is None:
            words.append("nothing was run in a real environment")
        else:
            value, base = said["true_return_mean"], said.get("behavior_return", float("nan"))
            spread = (
                f" &plusmn; {said['true_return_std']:,.0f}" if "true_return_std" in said else ""
            )
            episodes = f" over {said['episodes']} episodes" if "episodes" in said else ""
            words.append(f"return {value:,.0f}{spread}{episodes}, data {base:,.0f}")
        commit = run.manifest.get("commit", "unknown")
        words.append(f"seed {run.manifest.get('seed')}, commit {html.escape(str(commit))}")
        sentences.append(f"<p>{'; '.join(words)}</p>")
    return "".join(sentences)


def _results(runs: Sequence[Run]) -> str:
    """Cards for one run, a table for several."""
    found = [run.stages.get(inspect_stage.STAGE, {}).get("result", {}) for run in runs]
    others = {key for numbers in found for key in numbers if key.startswith(("auroc/", "known/"))}
    told = dict(_FOUND)
    for key in sorted(others - set(told)):
        kind, _, group = key.partition("/")
        told[key] = f"AUROC, {group}" if kind == "auroc" else f"{group}, known (share)"
    rows = [
        (label, *(numbers.get(key, float("nan")) for numbers in values))
        for values, labels in (
            ([run.summary for run in runs], _RESULTS),
            (found, tuple(told.items())),
        )
        for key, label in labels
        if any(numbers.get(key) is not None for numbers in values)
    ]
    rows = [(label, *(float("nan") if v is None else v for v in rest)) for label, *rest in rows]
    if len(runs) > 1:
        body = _table(["", *(run.name for run in runs)], rows)
    else:
        cards = [
            f'<div class="card"><b>{_number(value)}</b><span>{html.escape(label)}</span></div>'
            for label, value in rows
        ]
        body = f'<div class="cards">{"".join(cards)}</div>'
    return f"<section><h2>Results</h2>{body}</section>" if rows else ""


def _curves(runs: Sequence[Run]) -> list[tuple[Panel, Figure]]:
    drawn = []
    for panel in _PANELS:
        series = []
        for run in runs:
            for label, table, column in panel.lines:
                found = run.tables.get(table)
                if found is None or column not in (found.dtype.names or ()):
                    continue
                step = max(len(found) // _LONGEST_LINE, 1)
                rows, half = found[::step], None
                if f"{column}_high" in (found.dtype.names or ()):
                    half = rows[f"{column}_high"] - rows[column]
                name = f"{run.name}: {label}" if len(runs) > 1 else label
                series.append((name, rows["step"], rows[column], half))
        if series:
            figure = figures.curves(series, panel.title, panel.x_label, panel.y_label)
            drawn.append((panel, figure))
    return drawn


def _run_section(run: Run, picture: Any, several: bool) -> str:
    parts = []
    arrays = inspect_stage.load(run.folder, "models")
    shown = inspect_stage.drawings(arrays) if arrays else {}
    thought = inspect_stage.load(run.folder, "candidates")
    if thought:
        shown["candidates"] = inspect_stage.draw_candidates(thought)
    if shown:
        made = "".join(
            picture(f"{run.name}-{name}", figure, inspect_stage.CAPTIONS[name])
            for name, figure in shown.items()
        )
        parts.append(f'<h3>What the models know</h3><div class="grid large">{made}</div>')
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
    flags = _table(
        ["flag", "value"], ((f"--{k}", str(v)) for k, v in run.manifest["flags"].items())
    )
    versions = _table(["package", "version"], run.manifest.get("versions", {}).items())
    parts.append(
        f"<details><summary>Flags and versions</summary>{flags}{versions}"
        f"<p><code>{html.escape(str(run.summary.get('command', '')))}</code></p></details>"
    )
    title = html.escape(run.name) if several else "The run"
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def _data(run: Run) -> str:
    seen = run.stages.get("data", {}).get("result", {}).get("overview")
    if not seen:
        return ""
    returns, lengths = seen["return"], seen["episode_length"]
    words = (
        f"{seen['rows']:,} rows in {seen['episodes']:,} episodes of {lengths['least']} to "
        f"{lengths['largest']} steps (median {lengths['median']:.0f}); {seen['terminals']:,} "
        f"terminals, {seen['timeouts']:,} timeouts. Return {returns['mean']:,.1f} &plusmn; "
        f"{returns['std']:,.1f}, from {returns['q0']:,.1f} over {returns['q50']:,.1f} (median) to "
        f"{returns['q100']:,.1f}."
    )
    findings = "".join(
        f"<li><b>{html.escape(f['severity'])}</b> {html.escape(f['what'])}: "
        f"{html.escape(f['meaning'])}. {html.escape(f['advice'])}</li>"
        for f in seen["findings"]
    )
    findings = f"<ul>{findings}</ul>" if findings else "<p>Nothing to complain about.</p>"
    columns = _table(
        ["column", "mean", "std", "least", "largest"],
        (
            (name, *(values[k] for k in ("mean", "std", "least", "largest")))
            for name, values in seen["columns"].items()
        ),
    )
    return (
        f"<h3>The data: {html.escape(str(run.manifest.get('dataset')))}</h3><p>{words}</p>{findings}"
        f"<details><summary>Columns</summary>{columns}</details>"
    )
