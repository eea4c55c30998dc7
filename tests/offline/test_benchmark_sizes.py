"""Benchmarks measure the sizes that their targets are of, whatever the defaults are."""

import pytest

from benchmarks import decision, run
from offline_tf import tasks


@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_a_decision_of_the_authors_sizes_has_their_work(robot):
    task = tasks.get(robot)
    config = decision.BenchmarkConfig(env=robot)
    s, a = task.state_dim, task.action_dim
    dynamics = 500 * (2 * s + a) + sum(200 * (s + i) + 20_200 for i in range(s + 1))
    behavior = 500 * (s + 2 * a) + sum(200 * (2 * a + i) + 20_200 for i in range(a))
    q = 500 * (s + a) + 250_500
    rows = 4 * 100 * (3 * dynamics + behavior + 10 * q) + 100 * (behavior + 20 * q)
    assert decision.work_gflop(config, s, a) == pytest.approx(2e-9 * rows)


@pytest.mark.parametrize(
    ("sizes", "widths"), [("authors", (500, 200, 100)), ("default", (256, 64))]
)
def test_a_planner_has_the_sizes_that_are_asked_for(sizes, widths):
    planner, _ = decision.make_planner(decision.BenchmarkConfig(env="hopper", sizes=sizes))
    found = {w.shape[-1] for w in planner._models.dynamics.weights if w.shape.rank == 2}
    assert set(widths) <= found
    assert {w.shape[-1] for w in planner._models.q.weights if w.shape.rank == 2} == {widths[0], 1}


def test_an_iterations_models_are_512_wide():
    ensemble = run.npg_models()
    assert ensemble.hidden == (512, 512) and ensemble.size == 4


def test_the_first_step_of_a_process_can_be_taken(capsys):
    exec(run.FIRST_STEP, {})
    assert len(capsys.readouterr().out.split()) >= 4  # a loss of each member


def test_what_was_measured_is_kept_after_each_measurement(monkeypatch):
    found = iter([{"a": 1.0}, {"a": 3.0}, {}, {"a": 5.0}])
    monkeypatch.setattr(run.peak, "numpy_probe", lambda: lambda: 1.0)
    monkeypatch.setattr(run, "_one", lambda name, peers: next(found))
    kept = []
    runs = run._measured(
        ["x", "y"], 2, "", lambda runs: kept.append(run.record(runs, 2)["numbers"])
    )
    assert kept[0] == {"x": {"a": 1.0, "machine": 1.0}}
    assert [len(each) for each in kept] == [1, 2, 2, 2]
    assert runs["x"][0]["a"] == 1.0 and runs["y"] == [
        {"a": 3.0, "machine": 1.0},
        {"a": 5.0, "machine": 1.0},
    ]
