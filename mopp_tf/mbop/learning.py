"""What MBOP fits: dynamics, behaviour and truncated values, by least squares."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from mopp_tf import algorithm
from mopp_tf.models import dynamics, training
from mopp_tf.models.dynamics import DynamicsModel
from offline_tf.models import networks
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Transitions, UserError

HIDDEN = (500, 500)


def truncated_returns(rewards: Array, ends: Array, terminals: Array, horizon: int) -> Array:
    """sum_{i < H} r_{t+i} within the episode; NaN where a time limit cuts the window.

    Args:
      rewards: [N].
      ends: [N] bool, last rows of episodes.
      terminals: [N] bool, rows after which nothing is ever paid.
      horizon: H.

    Returns:
      [N].
    """
    total = np.zeros(len(rewards))
    running = np.ones(len(rewards), bool)
    whole = np.ones(len(rewards), bool)
    at = np.arange(len(rewards))
    for step in range(horizon):
        total[running] += rewards[at[running]]
        last = running & ends[np.minimum(at, len(rewards) - 1)]
        if step < horizon - 1:
            whole &= ~(last & ~terminals[np.minimum(at, len(rewards) - 1)])
        running &= ~last
        at = at + 1
    return np.where(whole, total, np.nan)


def rows_with_value(data: Transitions, split: Split, horizon: int) -> Split:
    """The rows that have a previous action and a whole window of rewards: the value network's.

    Args:
      data: to learn from.
      split: its rows.
      horizon: H.

    Raises:
      UserError: no training row has.
    """
    ends = data.terminals | data.timeouts
    ends[-1:] = True
    returns = truncated_returns(data.rewards, ends, data.terminals, horizon)
    has = np.isfinite(returns) & _has_previous(ends)
    found = Split(split.train[has[split.train]], split.held_out[has[split.held_out]])
    if not len(found.train):
        raise UserError(
            f"--mbop_horizon: expected episodes of {horizon + 1} steps or more, or with a terminal end "
            "after 2 or more, for the value network, got none; give a smaller horizon"
        )
    return found


def _has_previous(ends: Array) -> Array:
    """[N] bool, rows that are not an episode's first; ends: [N] bool, last rows."""
    return ~np.concatenate([[True], ends[:-1]])


class MbopModels(NamedTuple):
    """Ensembles of deterministic networks over normalised inputs.

    Attributes:
      behavior: (s, previous a) -> a.
      dynamics: (s, a) -> s', r; only its normalisation is that of MOPP's.
      value: (s, previous a) -> truncated return.
    """

    behavior: list[keras.Model]
    dynamics: DynamicsModel
    value: list[keras.Model]


class MbopLearned(NamedTuple):
    """Fitted models, the units they work in, and value = shift + scale * network."""

    models: MbopModels
    prepared: algorithm.Prepared
    value_shift: float
    value_scale: float


def build(
    task: TaskSpec, knobs: algorithm.Knobs, prepared: algorithm.Prepared, seed: int
) -> MbopModels:
    """Makes the networks; nothing is fitted yet."""
    width = task.state_dim + task.action_dim

    def ensemble(name: str, count: int, output: int, activation: str) -> list[keras.Model]:
        return [
            networks.mlp(
                width,
                HIDDEN,
                output,
                activation,
                seeds.generator(seed, f"mbop/{name}/init", member),
                initializer="glorot",
                name=f"{name}_{member}",
            )
            for member in range(count)
        ]

    count = knobs.dynamics.dynamics_members
    return MbopModels(
        ensemble("behavior", knobs.behavior.behavior_members, task.action_dim, "silu"),
        DynamicsModel(
            task,
            knobs.model,
            knobs.dynamics,
            prepared.normalizer,
            prepared.change_scale,
            seed,
            ensemble("dynamics", count, task.state_dim + 1, "silu"),
        ),
        ensemble("value", count, 1, "relu"),
    )


def learn(
    task: TaskSpec,
    prepared: algorithm.Prepared,
    knobs: algorithm.Knobs,
    seed: int,
    record: RunRecord,
    models_from: RunRecord | None = None,
) -> MbopLearned:
    """Fits dynamics, behaviour and value by least squares.

    Args:
      task: names and dimensions.
      prepared: the data.
      knobs: those of MOPP; the value network is fitted for as many steps as MOPP's Q.
      seed: of everything random.
      record: the run folder; complete stages are read from it.
      models_from: a run whose fitted models are taken over.

    Raises:
      UserError: a fit diverged.
    """
    table, split, normalizer = prepared.table, prepared.split, prepared.normalizer
    assert table is not None and split is not None
    models = build(task, knobs, prepared, seed)
    ends = ~table.has_next
    returns = truncated_returns(table.rewards, ends, table.terminals > 0, knobs.planner.horizon)
    shift, scale = float(np.nanmean(returns)), max(float(np.nanstd(returns)), 1e-8)
    values = ((np.nan_to_num(returns) - shift) / scale).astype(np.float32)[:, None]
    weighted = table.weights if knobs.behavior.return_weighting else None
    every, has_previous = np.ones(len(ends), bool), _has_previous(ends)
    has_value = has_previous & np.isfinite(returns)

    def conditions(at: Array) -> Array:
        previous = table.actions[np.maximum(at - 1, 0)]
        return np.concatenate([normalizer.standard_states(table.states[at]), previous], axis=1)

    def part(
        name: str,
        members: list[keras.Model],
        gather: Callable[[Array], tuple[Array, Array]],
        usable: Array,
        names: tuple[str, ...],
        steps: int,
        row_weights: Array | None = None,
    ) -> None:
        rows = Split(split.train[usable[split.train]], split.held_out[usable[split.held_out]])

        def fit(stage: Stage) -> dict[str, Any]:
            report = training.fit_members(
                members,
                loss_by_dimension=training.squared_error,
                loss_name="mse",
                gather=gather,
                split=rows,
                names=names,
                config=knobs.model,
                steps=steps,
                seed=seed,
                stage=stage,
                row_weights=row_weights,
            )
            return report | {"shift": shift, "scale": scale}

        record.fit_or_load(name, networks.variables(*members), fit, models_from)

    part(
        "dynamics",
        models.dynamics.members,
        functools.partial(
            dynamics.gather, models.dynamics, table, knobs.dynamics.targets, normalizer
        ),
        every,
        (*task.observation_names, "reward"),
        knobs.dynamics.dynamics_steps,
    )
    part(
        "behavior",
        models.behavior,
        lambda at: (conditions(at), table.actions[at]),
        has_previous,
        task.action_names,
        knobs.behavior.behavior_steps,
        weighted,
    )
    part(
        "q",
        models.value,
        lambda at: (conditions(at), values[at]),
        has_value,
        ("value",),
        knobs.q.q_steps,
    )
    return MbopLearned(models, prepared, shift, scale)


def load(task: TaskSpec, knobs: algorithm.Knobs, record: RunRecord) -> MbopLearned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    prepared = algorithm.load_units(record)
    models = build(task, knobs, prepared, prepared.models_seed)
    parts = {"dynamics": models.dynamics.members, "behavior": models.behavior, "q": models.value}
    for name, members in parts.items():
        stage = record.stage(name)
        if not stage.complete:
            raise UserError(
                f"--workdir: the run in {record.folder} is not finished; continue it first"
            )
        stage.track(networks.variables(*members))
        stage.restore()
    kept = record.stage("q").result
    return MbopLearned(models, prepared, kept["shift"], kept["scale"])
