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
from mopp_tf.models.rows import Rows
from offline_tf.models import devices, networks
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
    running = np.ones(len(rewards), bool)  # the window has not left its episode
    whole = np.ones(len(rewards), bool)
    row = np.arange(len(rewards))  # that each window has come to
    for step in range(horizon):
        total[running] += rewards[row[running]]
        within = np.minimum(row, len(rewards) - 1)
        last = running & ends[within]
        if step < horizon - 1:
            whole &= ~(last & ~terminals[within])
        running &= ~last
        row = row + 1
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
    with_value = split.where(np.isfinite(returns) & _has_previous(ends))
    if not len(with_value.train):
        raise UserError(
            f"--mbop_horizon: expected episodes of {horizon + 1} steps or more, or with a terminal end "
            "after 2 or more, for the value network, got none; give a smaller horizon"
        )
    return with_value


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
        with devices.scope():
            return [
                networks.mlp(
                    width,
                    hidden=HIDDEN,
                    output_dim=output,
                    activation=activation,
                    generator=seeds.generator(seed, f"mbop/{name}/init", member),
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
            model=knobs.model,
            config=knobs.dynamics,
            normalizer=prepared.normalizer,
            change_scale=prepared.change_scale,
            seed=seed,
            points=ensemble("dynamics", count, task.state_dim + 1, "silu"),
        ),
        ensemble("value", count, 1, "relu"),
    )


class ValueTargets(NamedTuple):
    """What the value network is fitted to: (truncated return - shift) / scale.

    Attributes:
      targets: [N, 1] float32; meaningless where not usable.
      usable: [N] bool, rows with a previous action and a whole window of rewards.
      shift, scale: mean and standard deviation of the truncated returns.
    """

    targets: Array
    usable: Array
    shift: float
    scale: float


def _value_targets(table: Rows, horizon: int) -> ValueTargets:
    """The value network's targets of N rows, over windows of H steps."""
    ends = ~table.has_next  # [N]
    returns = truncated_returns(table.rewards, ends, table.terminals > 0, horizon)  # [N]
    shift, scale = float(np.nanmean(returns)), max(float(np.nanstd(returns)), 1e-8)
    targets = ((np.nan_to_num(returns) - shift) / scale).astype(np.float32)[:, None]
    return ValueTargets(targets, _has_previous(ends) & np.isfinite(returns), shift, scale)


class Regression(NamedTuple):
    """One ensemble and what it is fitted to.

    Attributes:
      members: the networks.
      gather: row numbers [n] -> inputs [n, I], targets [n, D].
      rows: that have these.
      names: of the D dimensions.
      steps: of Adam.
      row_weights: [N] relative chances of the rows; None draws all alike.
    """

    members: list[keras.Model]
    gather: Callable[[Array], tuple[Array, Array]]
    rows: Split
    names: tuple[str, ...]
    steps: int
    row_weights: Array | None = None


def _regressions(
    task: TaskSpec,
    prepared: algorithm.Prepared,
    knobs: algorithm.Knobs,
    models: MbopModels,
    values: ValueTargets,
) -> dict[str, Regression]:
    """Stage name -> what is fitted there, in the order of the fits."""
    table, split, normalizer = prepared.table, prepared.split, prepared.normalizer
    assert table is not None and split is not None

    def inputs(at: Array) -> Array:
        """State and previous action, [n] -> [n, S + A]."""
        previous = table.actions[np.maximum(at - 1, 0)]
        return np.concatenate([normalizer.standard_states(table.states[at]), previous], axis=1)

    return {
        "dynamics": Regression(
            members=models.dynamics.members,
            gather=functools.partial(
                dynamics.gather, models.dynamics, table, knobs.dynamics.targets, normalizer
            ),
            rows=prepared.dynamics_split,
            names=(*task.observation_names, "reward"),
            steps=knobs.dynamics.dynamics_steps,
        ),
        "behavior": Regression(
            members=models.behavior,
            gather=lambda at: (inputs(at), table.actions[at]),
            rows=split.where(_has_previous(~table.has_next)),
            names=task.action_names,
            steps=knobs.behavior.behavior_steps,
            row_weights=table.weights if knobs.behavior.return_weighting else None,
        ),
        "q": Regression(
            members=models.value,
            gather=lambda at: (inputs(at), values.targets[at]),
            rows=split.where(values.usable),
            names=("value",),
            steps=knobs.q.q_steps,
        ),
    }


def learn(
    task: TaskSpec,
    *,
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
    assert prepared.table is not None and prepared.split is not None
    models = build(task, knobs, prepared, seed)
    values = _value_targets(prepared.table, knobs.planner.horizon)
    for name, regression in _regressions(task, prepared, knobs, models, values).items():

        def fit(stage: Stage, regression: Regression = regression) -> dict[str, Any]:
            report = training.fit_members(
                members=regression.members,
                loss_by_dimension=training.squared_error,
                loss_name="mse",
                gather=regression.gather,
                split=regression.rows,
                names=regression.names,
                config=knobs.model,
                steps=regression.steps,
                seed=seed,
                stage=stage,
                row_weights=regression.row_weights,
            )
            return report | {"shift": values.shift, "scale": values.scale}

        record.fit_or_load(name, networks.variables(*regression.members), fit, models_from)
    return MbopLearned(models, prepared, values.shift, values.scale)


def load(task: TaskSpec, knobs: algorithm.Knobs, record: RunRecord) -> MbopLearned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    prepared = algorithm.load_units(record)
    models = build(task, knobs, prepared, prepared.models_seed)
    parts = {"dynamics": models.dynamics.members, "behavior": models.behavior, "q": models.value}
    record.check_complete(*parts)
    for name, members in parts.items():
        stage = record.stage(name)
        stage.track(networks.variables(*members))
        stage.restore()
    values = record.stage("q").result
    return MbopLearned(models, prepared, values["shift"], values["scale"])
