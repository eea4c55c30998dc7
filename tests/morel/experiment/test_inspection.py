from __future__ import annotations

import csv

import numpy as np
import tensorflow as tf
import toys

from morel_tf.experiment import inspection
from morel_tf.models.usad import Calibration
from morel_tf.planning import pessimistic_mdp
from offline_tf.inspection import inspect_stage as common
from offline_tf.inspection.measures import Rows
from offline_tf.numerics import holdout

CART = toys.cart()
DETECTOR = Calibration(1.0, "delta", 0.0, 1.0, 3.0, 0.0, 3.0)


def test_the_view_is_the_ensemble_and_its_detector():
    ensemble = toys.hinged_ensemble(CART, gains=(0.0, 1.0, -0.5), log_std=-1.0)
    seen = inspection.view(CART, ensemble, np.ones(2, np.float32), DETECTOR)
    states = np.array([[0.5, 1.0], [3.0, -1.0]], np.float32)
    actions = np.array([[0.2], [-9.0]], np.float32)  # the second is clipped to -1
    found = seen.predict(tf.constant(states), tf.constant(actions))
    straight = states + toys.change(states, np.clip(actions, -1, 1))
    off = np.array([[0.0, 0.0], [0.0, 2.0], [0.0, -1.0]])  # gain * (|x| - 1)
    np.testing.assert_allclose(found.next_states[:, :, 0] - straight[:, 0], off, atol=1e-5)
    np.testing.assert_allclose(
        found.next_states[:, :, 1], straight[None, :, 1].repeat(3, 0), atol=1e-5
    )
    std = seen.spread(tf.constant(states), tf.constant(actions))
    np.testing.assert_allclose(std, np.full((3, 2, 2), np.exp(-1.0)), rtol=1e-5)
    np.testing.assert_allclose(found.disagreement, [0.0, 3.0], atol=1e-5)
    assert seen.limit == 1.0 and seen.names == ("x", "v")


def test_paths_of_a_few_iterations_are_kept(tmp_path):
    record = toys.record(tmp_path / "run")
    keep = inspection.path_keeper(record, iterations=10)
    pmdp = toys.pessimistic(CART, toys.hinged_ensemble(CART), threshold=0.3, horizon=15)
    starts = tf.constant([[0.0, 2.0], [0.0, 0.0], [1.2, 0.0]])
    policy = toys.linear_policy(np.zeros((2, 1)), [0.0])
    block = pessimistic_mdp.roll_out(
        pmdp, policy=policy, starts=starts, member=tf.zeros([3], tf.int32), seed=tf.constant([0, 1])
    )
    for iteration in range(1, 11):
        keep(block, iteration)
    names = sorted(path.stem for path in (tmp_path / "run" / "inspection").iterdir())
    assert names == [f"paths-{i:06d}" for i in (1, 2, 4, 6, 8, 10)]
    found = common.load(record.folder, names[0])["observations"]
    assert found.shape == (3, len(block.valid), 2)
    # At 2 a second and a tenth of a second per step, |x| - 1 > 0.3 after seven steps.
    np.testing.assert_allclose(found[0, :7, 0], 0.2 * np.arange(7), atol=1e-5)
    assert np.isnan(found[0, 8:]).all() and np.isfinite(found[1]).all()


def test_an_inspection_leaves_numbers_arrays_and_pictures(tmp_path):
    record = toys.record(tmp_path / "run")
    data = toys.transitions((40,) * 8)
    ensemble = toys.hinged_ensemble(CART, edge=0.2)
    seen = inspection.view(CART, ensemble, np.ones(2, np.float32), DETECTOR)
    columns = Rows(data.observations, data.actions, data.next_observations)
    bounds = data.episode_bounds()
    split = holdout.split_episodes(bounds, 0.25, 0)
    path = data.observations[None, :40]
    numbers = common.inspect(
        seen,
        task=CART,
        rows=columns,
        bounds=bounds,
        split=split,
        seed=0,
        record=record,
        paths=[("iteration 1", path)],
    )
    assert {"error", "drift/10", "drift/40", "coverage_90", "auroc/random actions"} <= set(numbers)
    # Looked at again beside other data, the table has a column for each number.
    others = {"far, away": (data.observations + 5.0, data.actions)}
    again = common.inspect(
        seen,
        task=CART,
        rows=columns,
        bounds=bounds,
        split=split,
        seed=0,
        record=record,
        paths=[("iteration 1", path)],
        others=others,
    )
    with (record.folder / "metrics" / "inspection.csv").open(newline="") as file:
        head, row = csv.reader(file)
    assert head == ["step", *again] and "known/far, away" in head
    np.testing.assert_allclose([float(cell) for cell in row[1:]], list(again.values()), rtol=1e-6)
    assert 0.0 < numbers["known/held out"] <= 1.0
    pictures = {file.stem for file in (record.folder / "inspection").glob("*.png")}
    assert pictures == {"errors", "open_loop", "calibration", "separation", "known_map"}
    arrays = common.load(record.folder, "models")
    assert arrays["group/held out"].shape == (len(split.held_out),)
    assert arrays["path/iteration 1"].shape == (1, 40, 2)
    events = [
        e
        for f in (record.folder / "tensorboard").glob("*")
        for e in tf.compat.v1.train.summary_iterator(str(f))
    ]
    tags = {value.tag for event in events for value in event.summary.value}
    assert {f"inspection/{name}" for name in pictures} <= tags
    assert {"inspection/error", "inspection/disagreement/held out/distribution"} <= tags
