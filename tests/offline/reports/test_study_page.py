"""The page of a study, from folders as an algorithm leaves them."""

import json

import numpy as np
import pytest
import toys

from offline_tf import report
from offline_tf.reports import report_layout, study_page
from offline_tf.reports.report_layout import Layout, Line, Panel
from offline_tf.types import UserError

LAYOUT = Layout((Panel("Return", "iteration", "return", (Line("promised", "plan", "x"),)),), ())


def run(folder, algorithm, dataset, seed, value, **flags):
    record = toys.record(folder / f"{algorithm}-{dataset}-{seed}-{value:g}")
    report_layout.write(record.folder, LAYOUT)
    record.note(flags={"seed": seed, "dataset": dataset, **flags})
    stage = record.stage("plan")
    for step in range(1, 4):
        stage.log(step, {"x": value * step})
    stage.finish({})
    summary = {"algorithm": algorithm, "env": "cart", "dataset": dataset, "seed": seed}
    summary |= {"true_return_mean": value, "normalized_score": value / 10, "promise": value - 1}
    summary |= {"behavior_return": 1.0, "wall_seconds": 120.0, "verdict": {"level": "green"}}
    (record.folder / "summary.json").write_text(json.dumps(summary))


def test_a_study_is_told_by_algorithm_and_data(tmp_path):
    for seed, value in enumerate((10.0, 20.0, 30.0)):
        run(tmp_path, "morel", "a", seed, value)
        run(tmp_path, "mopp", "a", seed, value - 5.0)
        run(tmp_path, "morel", f"made-seed{seed}", seed, value)
    path = tmp_path / "report.html"
    report.main(report.ReportConfig(study=str(tmp_path)))
    groups = study_page.groups_of(study_page.find(tmp_path))
    assert [(each.algorithm, each.data) for each in groups] == [
        ("mopp", "cart, a"),
        ("morel", "cart, a"),
        ("morel", "cart, made"),
    ]
    text = path.read_text()
    assert "cart, a: morel" in text and "20 [10, 30]" in text and "3 green" in text
    # 10, 20, 30 against 5, 15, 25: six pairs of nine.
    assert "0.667 [" in text and "] (1)" in text
    assert text.count("<figure>") == 2 and "nan" not in text.replace("nano", "")


def test_flags_tell_groups_apart_where_they_differ_and_many_have_a_number(tmp_path):
    run(tmp_path, "morel", "a", 0, 1.0, horizon=4)
    run(tmp_path, "morel", "a", 0, 2.0, horizon=8)
    names = [group.algorithm for group in study_page.groups_of(study_page.find(tmp_path))]
    assert names == ["morel horizon=4", "morel horizon=8"]
    run(tmp_path, "morel", "a", 0, 3.0, horizon=8, dynamics_hidden="512,512", pmdp_penalty=100.0)
    groups = study_page.groups_of(study_page.find(tmp_path))
    assert [group.algorithm for group in groups] == ["morel #1", "morel #2", "morel #3"]
    told = dict(study_page.settings_of(groups))
    assert told["morel #3"] == "horizon=8, dynamics_hidden=512,512, pmdp_penalty=100.0"


def test_two_seeds_have_no_interval_and_a_run_without_a_simulator_no_return(tmp_path):
    for seed in (0, 1):
        run(tmp_path, "morel", "a", seed, 5.0)
    one = next(iter(tmp_path.glob("*/summary.json")))
    summary = json.loads(one.read_text())
    del summary["true_return_mean"]
    one.write_text(json.dumps(summary))
    (group,) = study_page.groups_of(study_page.find(tmp_path))
    assert study_page.in_words(study_page._over_seeds(group.values("true_return_mean"))) == "5"
    assert study_page.in_words(study_page._over_seeds(np.zeros(0))) == "-"
    assert study_page.write(tmp_path, tmp_path / "page.html") == 2


def test_what_is_no_study_is_told(tmp_path):
    with pytest.raises(UserError, match="expected a folder with finished runs"):
        study_page.write(tmp_path, tmp_path / "page.html")
    with pytest.raises(UserError, match="got both"):
        report.ReportConfig(study="a", workdir=("b",))
