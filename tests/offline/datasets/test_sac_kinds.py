"""Data by D4RL's recipe under their names: where they come from, and what is said where they cannot."""

import dataclasses

import numpy as np
import pytest

from mopp_tf import config as mopp_config
from morel_tf import config as morel_config
from offline_tf import tasks
from offline_tf.datasets import names, sources
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import collection, generated, sac_kinds
from offline_tf.policies import foreign, gaussian
from offline_tf.types import UserError

HOPPER = tasks.get("hopper")


def policy(seed):
    """A network that draws its actions as SAC's do."""
    draw = np.random.default_rng(seed).normal
    widths = (HOPPER.state_dim, 8), (8, HOPPER.action_dim), (8, HOPPER.action_dim)
    hidden, mean, log_std = (
        (0.3 * draw(size=pair).astype(np.float32), np.zeros(pair[1], np.float32)) for pair in widths
    )
    bounds = HOPPER.action_low, HOPPER.action_high
    return foreign.MlpPolicy([hidden], mean, log_std, "ReLU", bounds)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(gaussian, "shipped", lambda name: tmp_path / "policies" / f"{name}.npz")
    for seed, kind in enumerate(("medium-sac", "expert-sac")):
        path = sac_kinds.policy_path("hopper", kind)
        foreign.save_mlp(path, policy(seed), {"mean_return": 1.0, "physics": "v2"})
    return tmp_path / "policies"


def waited_for(tmp_path, **changes):
    return {
        "task": HOPPER,
        "physics": "v2",
        "steps": 300,
        "seed": 5,
        "data_dir": str(tmp_path / "data"),
        "threads": 1,
    } | changes


def test_medium_and_expert_are_collected_with_drawn_actions(shipped, tmp_path):
    data, name = sources.load_named("medium-sac", **waited_for(tmp_path))
    assert name == "hopper-medium-sac" and len(data) == 300
    direct = collection.collect(
        HOPPER,
        physics="v2",
        policy=policy(0),
        exploration="pure",
        num_steps=300,
        seed=5,
        stochastic=True,
        threads=1,
    )
    assert d4rl.content_hash(data) == d4rl.content_hash(direct.transitions)
    mean = policy(0).act(data.observations, np.random.default_rng(0), False)
    assert (np.abs(data.actions - mean).max(axis=1) > 1e-3).all()
    expert, _ = sources.load_named("expert-sac", **waited_for(tmp_path))
    both, name = sources.load_named("medium-expert-sac", **waited_for(tmp_path))
    assert name == "hopper-medium-expert-sac"
    assert d4rl.content_hash(both) == d4rl.content_hash(generated.joined(data, expert))


def test_another_policy_means_other_data(shipped, tmp_path):
    first, _ = sources.load_named("medium-sac", **waited_for(tmp_path))
    foreign.save_mlp(shipped / "hopper-medium-sac.npz", policy(3), {})
    second, _ = sources.load_named("medium-sac", **waited_for(tmp_path))
    assert d4rl.content_hash(first) != d4rl.content_hash(second)


@pytest.mark.parametrize("kind", names.REPLAY_KINDS)
def test_a_replay_set_is_read_whole_from_the_cache_folder(tmp_path, kind):
    made = collection.collect(
        HOPPER, physics="v2", policy=None, exploration="random", num_steps=50, seed=0, threads=1
    ).transitions
    d4rl.write(tmp_path / "data" / f"hopper-{kind}.hdf5", made)
    data, name = sources.load_named(kind, **waited_for(tmp_path, steps=20))
    assert name == f"hopper-{kind}" and d4rl.content_hash(data) == d4rl.content_hash(made)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("medium-sac", {"physics": "v4"}, "expected --physics=v2, .* got v4"),
        ("full-replay-sac", {"physics": "v5"}, "expected --physics=v2, .* got v5"),
        ("medium-sac", {"task": tasks.get("ant")}, "expected --env=hopper.* got --env=ant"),
        ("expert-sac", {"task": tasks.get("walker2d")}, "expected .*walker2d-expert-sac.npz"),
        ("medium-replay-sac", {}, "expected .*hopper-medium-replay-sac.hdf5, found none"),
    ],
)
def test_what_cannot_be_had_is_one_line_before_anything_is_made(
    shipped, tmp_path, kind, changes, words
):
    arguments = waited_for(tmp_path, **changes)
    for call in (
        lambda: sources.load_named(kind, **arguments),
        lambda: sources.check_named(
            kind, **{name: arguments[name] for name in ("task", "physics", "data_dir")}
        ),
    ):
        with pytest.raises(UserError, match=f"^--dataset={kind}: {words}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_what_is_missing_is_told_with_the_commands_that_make_it(shipped, tmp_path):
    (shipped / "hopper-expert-sac.npz").unlink()
    folder = str(tmp_path / "data")
    with pytest.raises(UserError) as caught:
        sources.check_named("medium-expert-sac", task=HOPPER, physics="v2", data_dir=folder)
    said = str(caught.value)
    assert "hopper-expert-sac.npz" in said and "train_policy SAC Hopper-v4 --physics=v2" in said
    assert f"d4rl_recipe hopper --training=FOLDER --data_dir={folder}`" in said


@pytest.mark.parametrize("config", [morel_config.RunConfig, mopp_config.RunConfig])
def test_help_names_every_kind(config):
    (field,) = (field for field in dataclasses.fields(config) if field.name == "dataset")
    words = field.metadata["help"].replace(";", " ").replace(",", " ").replace(".", " ").split()
    assert set(names.KINDS) <= set(words)
