import json
import os
import pathlib

import numpy as np
import pytest

from offline_tf import results, tasks
from offline_tf.reports import campaign_record
from offline_tf.types import UserError

HEADINGS = {
    "seed": "seed",
    "behavior_return": "behaviour policy",
    "lost_share": "lost share",
    "true_return_mean": "**true, mean action**",
    "kept_share": "kept share",
}


def summary(seed, value, dataset="hopper-medium-ours", algorithm="mopp", **more):
    return {
        "algorithm": algorithm,
        "dataset": dataset,
        "seed": seed,
        "commit": "abc",
        "command": f"python -m x --seed={seed}",
        "behavior_return": 1000.0 + seed,
        "true_return_mean": value,
        "export": "/somewhere/export",
        **more,
    }


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_table_has_a_row_per_seed_their_mean_and_only_columns_with_numbers():
    runs = [summary(s, v) for s, v in ((0, 10.0), (1, 20.0), (2, 60.0))]
    found = rows_of(results.table(runs, HEADINGS))
    assert found[0] == ["seed", "behaviour policy", "**true, mean action**"]
    assert found[1:4] == [["0", "1000", "10"], ["1", "1001", "20"], ["2", "1002", "60"]]
    std = np.std([10, 20, 60], ddof=1)
    assert found[4] == ["mean +- std", "1001 +- 1", f"30 +- {std:.0f}"]


def test_variants_are_not_averaged():
    runs = [
        summary(0, 3000.0),
        summary(0, 1000.0, variant="MLP"),
        summary(1, 2000.0, variant="MLP"),
    ]
    text = results.table(runs, HEADINGS)
    assert "mopp, commit abc:" in text and "mopp (MLP), commit abc:" in text
    rows = rows_of(text)
    assert [row[-1] for row in rows if row[0] == "mean +- std"] == ["1500 +- 707"]


def test_one_run_has_no_mean_row_and_small_numbers_keep_their_digits():
    found = rows_of(results.table([summary(0, 10.0, kept_share=0.8149)], HEADINGS))
    assert found[0][-1] == "kept share" and found[1][-1] == "0.81" and len(found) == 2


def test_columns_are_those_that_the_records_folder_names(tmp_path):
    runs = [summary(0, 10.0, own=2.5, real=True), summary(1, 20.0, own=3.5)]
    (tmp_path / "one.json").write_text(json.dumps(runs))
    plain = rows_of(results.render(tmp_path))
    assert plain[0] == ["seed", "behavior_return", "true_return_mean", "own"]
    (tmp_path / "columns.csv").write_text('key,heading\nown,"its own, better"\nabsent,none\n')
    found = rows_of(results.render(tmp_path))
    assert found == [["its own, better"], ["2"], ["4"], ["mean +- std"]]
    (tmp_path / "columns.csv").write_text("key,heading\nown\n")
    with pytest.raises(UserError, match=r"columns\.csv: expected lines .* got 'own'"):
        results.render(tmp_path)


def test_the_repositorys_page_is_what_its_records_say():
    root = pathlib.Path(__file__).parent.parent.parent.parent
    page = (root / "docs" / "results" / "returns.md").read_text()
    written = page.split(results.BEGIN, 1)[1].split(results.END, 1)[0]
    assert written == f"\n\n{results.render(root / 'results')}\n"


def test_several_data_sets_make_a_row_each_and_a_column_per_algorithm():
    record = [
        summary(0, 100.0, bc_return=50.0, normalized_score=3.0),
        summary(1, 200.0, bc_return=70.0, normalized_score=5.0),
        summary(0, 90.0, algorithm="mbop"),
        summary(0, 80.0, variant="no pruning", bc_return=50.0, normalized_score=2.0),
        summary(0, 300.0, dataset="hopper-mixed-ours", bc_return=10.0, normalized_score=9.0),
    ]
    found = rows_of(results.wide_table(record))
    assert found[0] == [
        "data",
        "seeds",
        "behaviour data",
        "behaviour model",
        "mbop",
        "mopp",
        "mopp (no pruning)",
        "score of mopp",
    ]
    medium, mixed, compared = found[1:]
    assert compared[5:7] == ["-", "-20, above in 0 of 1"]
    assert medium[:7] == [
        "hopper-medium-ours",
        "0,1",
        "1000 +- 0.71",
        "60 +- 14",
        "90 (1)",
        "150 +- 71",
        "80 (1)",
    ]
    assert mixed == ["hopper-mixed-ours", "0", "1000", "10", "-", "300", "-", "9"]


def test_variants_stand_beside_the_whole_runs_of_another_record(tmp_path):
    whole = [summary(s, v) for s, v in ((0, 100.0), (1, 200.0), (2, 900.0))]
    other = [summary(0, 50.0, dataset="hopper-mixed-ours"), summary(0, 1.0, algorithm="mbop")]
    cut = [summary(s, v, variant="no pruning") for s, v in ((0, 90.0), (1, 230.0))]
    cut.append(summary(0, 80.0, variant="no pruning", dataset="hopper-mixed-ours"))
    for name, record in (("all", whole + other), ("cut", cut)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    text = results.render(tmp_path)
    found = rows_of(text[text.index("### cut") :])
    assert found[0][3:5] == ["mopp", "mopp (no pruning)"]
    assert found[1][:2] == ["hopper-medium-ours", "0,1"]  # seed 2 has no variant
    assert found[1][3:5] == ["150 +- 71", "160 +- 99"]
    assert found[2][3:5] == ["50", "80"]
    # Pairs: -10, +30, +30.
    assert found[3][0] == "minus the whole" and found[3][3:5] == ["-", "+17, above in 2 of 3"]
    assert "3 runs, commit abc" in text[text.index("### cut") :]


def test_runs_on_other_data_of_the_same_name_are_not_compared():
    record = [summary(0, 100.0), summary(1, 200.0)]
    record += [summary(s, 50.0, variant="no pruning") for s in (0, 1)]
    record[3] |= {"behavior_return": 5.0, "commit": "abc, def"}
    *_, compared = rows_of(results.wide_table(record))
    assert "-50, above in 0 of 1" in compared
    assert "commit abc, def:" in results.table(record[2:], HEADINGS)


def test_scores_are_means_over_seeds_and_then_over_data_sets():
    low, high = tasks.get("hopper").reference_returns

    def run(seed, score, clone, **more):
        def value(x):
            return low + x / 100 * (high - low)

        given = {"env": "hopper", "behavior_return": value(10.0), "bc_return": value(clone)}
        return summary(seed, value(score), **given, **more)

    record = [
        run(0, 40.0, 20.0),
        run(1, 60.0, 30.0),
        run(0, 10.0, 5.0, dataset="hopper-mixed-ours"),
        run(0, 30.0, 20.0, algorithm="mbop"),
    ]
    last = rows_of(results.wide_table(record))[-1]
    assert last == ["mean score", "", "10.0", "15.0", "-", "30.0", "30.0"]


def test_another_commands_run_is_not_replaced(tmp_path):
    path = tmp_path / "x.json"
    campaign_record.add(path, [summary(0, 1.0)], "")
    before = path.read_bytes()
    with pytest.raises(UserError, match="got `python -m x --horizon=8`"):
        campaign_record.add(path, [summary(0, 2.0, command="python -m x --horizon=8")], "")
    assert path.read_bytes() == before


def test_a_kill_while_a_record_is_written_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    campaign_record.add(path, [summary(0, 1.0)], "")
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            campaign_record.add(path, [summary(1, 2.0)], "")
    assert path.read_bytes() == before


def test_adding_replaces_a_run_of_the_same_seed_and_keeps_others(tmp_path):
    path = tmp_path / "results" / "x.json"
    campaign_record.add(path, [summary(0, 1.0), summary(1, 2.0)], "")
    campaign_record.add(path, [summary(1, 3.0), summary(1, 4.0, variant="MLP")], "")
    kept = json.loads(path.read_text())
    assert [(r["seed"], r.get("variant"), r["true_return_mean"]) for r in kept] == [
        (0, None, 1.0),
        (1, None, 3.0),
        (1, "MLP", 4.0),
    ]
    assert all("export" not in run for run in kept)


def test_data_sets_that_differ_in_the_seed_alone_are_one():
    record = [summary(s, 1.0, dataset=f"ant-v2-pure-1000-seed{s}") for s in (0, 1)]
    assert len({campaign_record.key(run)[2] for run in record}) == 1


def test_a_page_is_not_emptied_by_a_folder_without_records(tmp_path):
    page = tmp_path / "PAGE.md"
    page.write_text(f"{results.BEGIN}\nold\n{results.END}\n")
    (tmp_path / "typo").mkdir()
    with pytest.raises(UserError, match="--folder: expected records"):
        results.main(results.ResultsConfig(folder=str(tmp_path / "typo"), page=str(page)))
    (tmp_path / "summary.json").write_text("{")
    for name, message in (("typo", "found none at"), ("summary.json", "got no JSON")):
        with pytest.raises(UserError, match=f"--add: expected .*{message}"):
            results.main(
                results.ResultsConfig(
                    folder=str(tmp_path), page=str(page), add=(str(tmp_path / name),), record="one"
                )
            )
    assert "old" in page.read_text() and not (tmp_path / "one.json").exists()


def test_the_page_keeps_what_is_around_the_markers(tmp_path):
    folder, page = tmp_path / "results", tmp_path / "PAGE.md"
    campaign_record.add(folder / "one.json", [summary(0, 10.0)], "")
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    results.main(results.ResultsConfig(folder=str(folder), page=str(page)))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "### one" in text and "| 0 | 1000 | 10 |" in text
    page.write_text("no markers")
    with pytest.raises(UserError, match="expected the lines"):
        results.main(results.ResultsConfig(folder=str(folder), page=str(page)))
    with pytest.raises(UserError, match="found none at"):
        results.main(
            results.ResultsConfig(
                folder=str(folder), page=str(page), add=("none.json",), record="one"
            )
        )
