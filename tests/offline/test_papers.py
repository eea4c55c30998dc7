"""The papers' tables beside records of ours, made up here; every line of a campaign can be read."""

import numpy as np
import pytest
from absl import flags as absl_flags

from benchmarks import campaign, pages, papers, published
from flags import definitions, preset_files
from mopp_tf import config as of_mopp
from morel_tf import config as of_morel
from offline_tf import tasks

_COMMANDS = {
    "morel_tf.train": ("morel", of_morel.STAGES, ""),
    "mopp_tf.train": ("mopp", of_mopp.STAGES, "medium-ours"),
}


def morel(cell, seed, share, promised=0.9):
    robot, exploration = cell
    true = share * published.MOREL_RETURNS[cell]
    return {
        "algorithm": "morel",
        "env": robot,
        "dataset": f"{robot}-v2-{exploration}-1000000-seed{seed}",
        "seed": seed,
        "true_return_mean": true,
        "promise": promised * true,
    }


def scored(algorithm, dataset, seed, score):
    env = dataset.partition("-")[0]
    return {
        "algorithm": algorithm,
        "env": env,
        "dataset": dataset,
        "seed": seed,
        "normalized_score": score,
        "true_return_mean": 1.0,
    }


def test_published_tables_have_the_published_means():
    means = {
        name: np.mean([v for (_, a), v in published.D4RL_SCORES.items() if a == name])
        for name in published.D4RL_ALGORITHMS
    }
    assert means["MOReL"] == pytest.approx(64.4, abs=0.05)
    assert means["MOPP"] == pytest.approx(47.9, abs=0.05)
    assert means["EDAC"] == pytest.approx(76.0, abs=0.06)
    assert len(published.MOREL_RETURNS) == 20 and len(published.D4RL_SCORES) == 12 * 8


def test_cells_are_runs_on_a_million_steps_of_the_paper():
    cell = ("hopper", "eps1")
    runs = [morel(cell, 0, 1.0), morel(cell, 1, 0.5)]
    runs += [morel(cell, 2, 0.1) | {"variant": "wide"}]
    runs += [morel(cell, 2, 0.1) | {"dataset": "hopper-v2-eps1-300000-seed2"}]
    found = papers.morel_cells(runs)
    assert list(found) == [cell]
    np.testing.assert_allclose(found[cell], [3724, 1862])


def test_misses_are_named_and_the_promise_is_counted():
    runs = [morel(("ant", "pure"), seed, 1.1) for seed in range(3)]
    runs += [morel(("ant", "eps1"), seed, 0.5, promised=1.2) for seed in range(3)]
    lines = papers.of_morel(runs)
    assert lines[0] == "6 of 60 runs are recorded."
    assert "| ant | 4029 +- 0 / 3663 | 1652 +- 0 / 3305 | - / 3008 | - / 3329 | - / 3693 |" in lines
    assert "- Cells below the paper: 1 of 2 (ant eps1 0.50)." in lines
    assert "- The promise is at or below the truth in 3 of 6 runs." in lines


def test_scores_are_of_data_by_the_recipe_or_of_own_files():
    runs = [
        scored("mopp", "hopper-medium-sac", 0, 10.0),
        scored("mopp", "hopper-medium-ours", 0, 99.0),
        scored("mopp", "hopper-medium-replay-sac", 0, 20.0),
        scored("mopp", "hopper-random-ours-seed1", 1, 5.0),
        scored("bc", "walker2d-medium-expert-v2", 0, 7.0),
    ]
    found = papers.d4rl_scores(runs)
    assert {name: list(v) for name, v in found["MOPP"].items()} == {
        "hopper-medium": [10.0],
        "hopper-medium-replay": [20.0],
        "hopper-random": [5.0],
    }
    assert list(found["BC"]) == ["walker2d-medium-expert"]


def test_a_better_algorithm_beats_the_other_on_the_sets_that_both_have():
    runs = [scored("mopp", "hopper-medium-sac", seed, 50.0 + seed) for seed in range(3)]
    runs += [scored("bc", "hopper-medium-sac", seed, 10.0) for seed in range(3)]
    runs += [scored("bc", "hopper-random-ours", seed, 99.0) for seed in range(3)]
    assert "- MOPP beats BC with a chance of 1.00 [1.00, 1.00], 1 sets." in papers.of_d4rl(runs)


def test_the_page_keeps_what_stands_around_the_tables(tmp_path):
    page, (begin, end) = tmp_path / "page.md", pages.markers("papers")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    pages.put(page, "papers", ["new"])
    assert page.read_text() == f"before\n{begin}\nnew\n{end}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="expected the lines"):
        pages.put(page, "papers", ["new"])
    with pytest.raises(SystemExit, match="^expected a page at .*none.md, found none"):
        pages.put(tmp_path / "none.md", "papers", ["new"])


def test_profiles_are_drawn(tmp_path):
    runs = [morel(("ant", "pure"), seed, 1.1) for seed in range(3)]
    papers.draw(runs, [scored("bc", "hopper-medium-sac", 0, 10.0)], tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("path", sorted(campaign._LISTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_line_of_a_list_is_a_command_that_can_begin(path, tmp_path):
    runs = campaign.runs_of(path, tmp_path / "none.json", tmp_path)
    assert runs
    for run in runs:
        module, *words = run.job.words
        family, stages, data = _COMMANDS[module]
        values = absl_flags.FlagValues()
        for stage in stages:
            definitions.define(stage, values)
        values(preset_files.expand(["", *words], family, tasks.ROBOTS, "hopper", data))
        for stage in stages:
            definitions.read(stage, values)  # checks the values
