from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf import report
from offline_tf.inspection import figures
from offline_tf.judging import verdict
from offline_tf.reports import html_page, report_layout, run_contents, run_curves, tensorboard
from offline_tf.reports.report_layout import Layout, Line, Number, Panel
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

CART = toys.cart()
LAYOUT = Layout(
    panels=(
        Panel(
            "Return while planning",
            "iteration",
            "return",
            (Line("promised", "planning.evaluation", "promise"), Line("no such", "other", "x")),
        ),
        Panel("Share of falls", "iteration", "share", (Line("falls", "planning", "fall_share"),)),
        Panel("Step size", "iteration", "nats", (Line("size", "planning", "size"),)),
        Panel("Of another kind of run", "epoch", "loss", (Line("loss", "fit", "loss"),)),
    ),
    numbers=(
        Number("true_return_mean", "Return, final controller"),
        Number("absent", "Never measured"),
    ),
)
FORBIDDEN = ("http://", "https://", "<script", "nan</", "None</", "@import")


class _Page(html.parser.HTMLParser):
    """Checks that elements close, and collects the words."""

    open_ended = {"meta", "br", "img", "path", "use", "rect"}

    def __init__(self):
        super().__init__()
        self.stack, self.words = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.open_ended:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in self.open_ended:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def run_folder(path, value=12.5, summary=True, layout=LAYOUT):
    """A small finished run, as an algorithm would leave it."""
    record = toys.record(path)
    if layout:
        report_layout.write(record.folder, layout)
    record.note(dataset="cart <log>", behavior_return=3.0)
    stage = record.stage("planning")
    for step in range(1, 6):
        stage.log(step, {"size": 0.01 * step, "fall_share": 0.5 / step, "path_length": 7.0})
        stage.log(
            step,
            {"promise": value, "promise_low": value - 1, "promise_high": value + 1},
            "evaluation",
        )
    stage.finish({"promise": value}, seconds=61.0)
    if summary:
        numbers = {"true_return_mean": value, "true_return_std": 2.0, "behavior_return": 3.0}
        (path / "summary.json").write_text(json.dumps(numbers | {"episodes": 4}))
    return path


def page_of(path):
    text = path.read_text()
    # Namespaces are names, not addresses to load from.
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"|<!--.*?-->|<metadata>.*?</metadata>', "", text, flags=re.S)
    for word in FORBIDDEN:
        assert word not in bare, word
    page = _Page()
    page.feed(text)
    assert page.stack == []
    return " ".join(filter(None, page.words))


def test_a_report_is_one_file_with_numbers_curves_and_times(tmp_path):
    run = run_folder(tmp_path / "run")
    report.main(report.ReportConfig(workdir=(str(run),)))
    words = page_of(run / "report" / "report.html")
    assert "cart <log>" in words and "return 12" in words and "61.0 s" in words
    for title in ("Return while planning", "Share of falls", "Step size"):
        assert title in words
    for absent in ("path_length", "Of another kind of run", "Never measured", "panels.json"):
        assert absent not in words
    pictures = list((run / "report" / "report-pictures").glob("*.png"))
    assert len(pictures) == 3 and all(p.read_bytes()[:4] == b"\x89PNG" for p in pictures)


def test_several_runs_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    runs = [run_folder(tmp_path / f"run{i}", 10.0 * i) for i in (1, 2)]
    out = tmp_path / "both.html"
    report.main(report.ReportConfig(workdir=tuple(map(str, runs)), output=str(out)))
    words = page_of(out)
    assert "run1: promised" in words and "run2: promised" in words
    assert "Return, final controller 10 20" in words  # the first run first


def test_a_verdict_stands_in_the_report_with_its_grounds(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    run = run_folder(tmp_path / "run")
    grounds = [
        verdict.Ground("halted_share", 0.31, "doubtful", "share <that> leaves", "plan less"),
        verdict.Ground("model_error", 0.02, "green", "error", "never told"),
    ]
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"promise": 1234.5, "verdict": verdict.of(grounds).to_json()}
    (run / "summary.json").write_text(json.dumps(summary))
    report.main(report.ReportConfig(workdir=(str(run),)))
    words = page_of(run / "report" / "report.html")
    assert "Can it be relied on? doubtful" in words and "return of 1,234 or more" in words
    assert "share <that> leaves 0.31 doubtful plan less" in words
    assert "error 0.02 green" in words and "never told" not in words
    # A run of before the grounds had words.
    for ground in summary["verdict"]["grounds"].values():
        del ground["words"], ground["advice"]
    (run / "summary.json").write_text(json.dumps(summary))
    report.main(report.ReportConfig(workdir=(str(run),)))
    assert "halted_share 0.31 doubtful" in page_of(run / "report" / "report.html")


def test_runs_whose_names_are_no_file_names_keep_their_pictures(tmp_path):
    runs = [run_folder(tmp_path / name) for name in ("run 1", "run-1", "模型")]
    for run in runs:
        (run / "inspection").mkdir()
        np.savez(
            run / "inspection" / "candidates.npz",
            names=["x", "v"],
            titles=["step 0"],
            states=np.zeros((1, 2, 3, 2)),
            keep=np.ones((1, 2), bool),
            weights=np.full((1, 2), 0.5),
        )
    out = tmp_path / "three.html"
    pictures = html_page.write([run_contents.read(run) for run in runs], out)
    assert len(list((tmp_path / "three-pictures").glob("*.png"))) == pictures == 3 + 3
    assert "模型" in out.read_text(encoding="utf-8")


def test_an_unfinished_run_is_shown_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    run = run_folder(tmp_path / "run", summary=False)
    html_page.write([run_contents.read(run)], tmp_path / "report.html")
    assert "not finished" in page_of(tmp_path / "report.html")


def test_a_run_that_was_killed_while_writing_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    run = run_folder(tmp_path / "run", summary=False)
    table = run / "metrics" / "planning.csv"
    table.write_text(table.read_text() + "6,0.06,0.0")
    (run / "metrics" / "other.csv").write_text("")
    (run / "metrics" / "head.csv").write_text("step,a\n")
    found = run_contents.read(run).tables
    assert set(found) == {"planning", "planning.evaluation"}
    np.testing.assert_array_equal(found["planning"]["step"], np.arange(1, 6))
    html_page.write([run_contents.read(run)] * 2, tmp_path / "report.html")
    words = page_of(tmp_path / "report.html")
    assert "run (1): falls" in words and "run (2): falls" in words


def test_a_layout_comes_back_from_the_folder_as_it_was_written(tmp_path):
    assert report_layout.read(tmp_path) is None
    report_layout.write(tmp_path, LAYOUT)
    assert report_layout.read(tmp_path) == LAYOUT
    (tmp_path / "panels.json").write_text('{"panels": [{"title": "x"}]}')
    with pytest.raises(UserError, match=r"panels\.json"):
        report_layout.read(tmp_path)


def test_a_folder_without_a_layout_shows_all_its_columns_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    old = run_contents.read(run_folder(tmp_path / "old", layout=None))
    plain = report_layout.plain(old.tables, old.summary)
    assert [panel.title for panel in plain.panels] == [
        "planning: size",
        "planning: fall_share",
        "planning: path_length",
        "planning.evaluation: promise",  # with its bounds as a band
    ]
    assert plain.numbers[:2] == (
        Number("true_return_mean", "True return mean"),
        Number("true_return_std", "True return std"),
    )
    html_page.write([old], tmp_path / "old.html")
    words = page_of(tmp_path / "old.html")
    assert "planning: path_length" in words and "no panels.json" in words
    assert "12.5 True return mean" in words
    # Beside a run of the same algorithm it is shown in that one's words.
    new = run_contents.read(run_folder(tmp_path / "new"))
    assert run_contents.layouts([old, new]) == [LAYOUT, LAYOUT]
    stranger = new._replace(manifest=new.manifest | {"algorithm": "other"})
    assert run_contents.layouts([old, stranger]) == [plain, LAYOUT]


def test_panels_share_a_picture_only_where_their_axes_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page.figures, "png", lambda *_: b"")
    kinds = [("epoch", "epochs"), ("epoch", "more"), ("step", "steps")]
    runs = []
    for axis, label in kinds:
        panel = Panel("Loss", axis, "loss", (Line(label, "planning", "size"),))
        folder = run_folder(tmp_path / label, layout=Layout((panel,), ()))
        runs.append(run_contents.read(folder))
    drawn = run_curves.draw(runs, run_contents.layouts([*runs]))
    legends = [[text.get_text() for text in f.axes[0].get_legend().texts] for _, f in drawn]
    assert [title for title, _ in drawn] == ["Loss", "Loss"]
    assert legends == [["epochs: epochs", "more: more"], ["steps: steps"]]


def test_summaries_are_compared_by_the_numbers_of_the_layout():
    summary = {"true_return_mean": 3.0, "absent": None, "seed": 5}
    assert report_layout.numbers_of(LAYOUT, summary) == {"true_return_mean": 3.0}


def test_flags_are_shown_as_they_are(tmp_path):
    record = RunRecord.create_or_continue(tmp_path / "run", "toy", {"discount": 0.9995, "n": 1234})
    record.stage("look").finish({})
    html_page.write([run_contents.read(tmp_path / "run")], tmp_path / "report.html")
    words = page_of(tmp_path / "report.html")
    assert "0.9995" in words and "1234" in words


def test_a_folder_without_a_run_or_a_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a run folder"):
        run_contents.read(tmp_path)
    toys.record(tmp_path / "run")
    with pytest.raises(UserError, match="finished stage"):
        run_contents.read(tmp_path / "run")
    with pytest.raises(UserError, match=r"\.html"):
        report.ReportConfig(workdir=("run",), output="report.pdf")


def test_a_figure_takes_the_ink_of_its_page():
    steps = np.arange(3.0)
    figure = figures.curves([("a <b>", steps, steps, 0.1 * steps)], "title", "x", "y")
    drawn = figures.svg(figure, 'what "it" <shows>')
    assert "currentColor" in drawn and "#14171b" not in drawn
    assert drawn.startswith("<svg") and "aria-label=\"what 'it' shows>\"" in drawn
    assert figures.png(figure)[:4] == b"\x89PNG"


def _events(folder):
    for file in sorted(folder.glob("events*")):
        yield from tf.compat.v1.train.summary_iterator(str(file))


def test_finished_runs_fill_the_table_of_runs(tmp_path):
    """HParams shows a metric only if its scalar lies in the run folder of the session."""
    record = toys.record(tmp_path / "run")
    tensorboard.show_run(record, {"seed": 3, "hidden": [4, 5], "none": None}, {"return": 7.5})
    tags = {}
    for event in _events(tmp_path / "run" / "tensorboard" / "hparams"):
        for value in event.summary.value:
            tags[value.tag] = value
    assert set(tags) == {
        "result/return",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert float(tf.make_ndarray(tags["result/return"].tensor)) == 7.5
    content = tags["_hparams_/session_start_info"].metadata.plugin_data.content
    started = tensorboard.hparams.plugin_data_pb2.HParamsPluginData.FromString(content)
    values = started.session_start_info.hparams
    assert values["seed"].number_value == 3 and values["hidden"].string_value == "4,5"
    assert "none" not in values


def test_charts_stand_in_groups(tmp_path):
    record = toys.record(tmp_path / "run")
    charts = [
        tensorboard.Chart("A", "first", ("^a$",)),
        tensorboard.Chart("B", "second", margins=(("b", "b_low", "b_high"),)),
        tensorboard.Chart("A", "third", ("^c$",)),
    ]
    tensorboard.show_charts(record, charts)
    (value,) = [
        v
        for event in _events(tmp_path / "run" / "tensorboard")
        for v in event.summary.value
        if v.tag == "custom_scalars__config__"
    ]
    layout = tensorboard.layout_pb2.Layout.FromString(value.tensor.string_val[0])
    titles = [(group.title, [chart.title for chart in group.chart]) for group in layout.category]
    assert titles == [("A", ["first", "third"]), ("B", ["second"])]
    assert layout.category[1].chart[0].margin.series[0].upper == "b_high"


def test_no_scalar_and_histogram_share_a_tag(tmp_path):
    """TensorBoard shows only the first kind of summary that a tag has."""
    stage = toys.record(tmp_path / "run").stage("look")
    stage.log(1, {"kept": 0.5})
    stage.histograms(1, {"kept": np.arange(4.0)})
    kinds: dict[str, set[str]] = {}
    for event in _events(tmp_path / "run" / "tensorboard"):
        for value in event.summary.value:
            kinds.setdefault(value.tag, set()).add(value.metadata.plugin_data.plugin_name)
    assert kinds["look/kept"] == {"scalars"}
    assert kinds["look/kept/distribution"] == {"histograms"}
