"""Fitted Q evaluation of the behaviour policy (MOPP, section 4.2; Le et al. 2019).

y = R_k + gamma^k * (1 - terminal) * min_j Qtarget_j(s', a'),   loss = sum_j mean (Q_j(s, a) - y)^2
with R_k the discounted rewards of the k logged steps from s to s', k = 1 in both papers.

Source: the authors' mopp_agent.py. Differs: targets start as copies (theirs are drawn anew);
terminal rows are there, with their reward and without a value beyond them; a row that a time limit
cut does bootstrap, with an action of the behaviour model where none was logged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mopp_tf import training
from mopp_tf.behavior import BehaviorModel
from mopp_tf.config import ModelConfig, QConfig
from mopp_tf.rows import Normalizer, Rows, windows
from offline_tf import fitting, networks, seeds
from offline_tf.holdout import Split
from offline_tf.run_record import Stage
from offline_tf.types import Array, TaskSpec, Tensor

_ROWS_PER_CALL = 8192
_LOOKS_PER_DRAW = 5  # drawing for a million rows takes seconds; 5000 steps see 2.5 rows of each


class QFunction(tf.Module):
    """Twin networks Q_j(s, a) of scaled rewards, and their slow targets.

    Attributes:
      networks, targets: Keras networks.
    """

    def __init__(self, task: TaskSpec, config: QConfig, normalizer: Normalizer, seed: int) -> None:
        """Draws the first weights and copies them to the targets."""
        super().__init__()
        self._normalizer = normalizer
        make = [
            networks.mlp(
                task.state_dim + task.action_dim,
                config.q_hidden,
                1,
                "relu",
                seeds.generator(seed, "fitted_q/init", j % 2),
                initializer="glorot",
                name=f"q_{j}",
            )
            for j in range(4)
        ]
        self.networks, self.targets = make[:2], make[2:]

    @property
    def weights(self) -> list[tf.Variable]:
        """Variables of both networks; targets aside."""
        return networks.variables(*self.networks)

    @property
    def target_weights(self) -> list[tf.Variable]:
        """Variables of the targets, in the same order."""
        return networks.variables(*self.targets)

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """[B, S], [B, A] -> normalised [B, S + A]."""
        of = self._normalizer.states
        return tf.concat([(states - of.shift) / of.scale, actions], axis=1)

    def bind(
        self, dtype: tf.DType = tf.float32, constant: bool = False
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns (states [B, S], actions [B, A] in units of the bounds) -> [2, B].

        Args: see `networks.read`.
        """
        forwards = [networks.bind(network, dtype, constant) for network in self.networks]

        def values(states: Tensor, actions: Tensor) -> Tensor:
            inputs = self.inputs(states, actions)
            return tf.stack([forward(inputs)[:, 0] for forward in forwards])

        return values


def backup(rewards: Tensor, terminals: Tensor, next_values: Tensor, discounts: Tensor) -> Tensor:
    """R + gamma^k * (1 - terminal) * min_j Q_j(s', a').

    Args:
      rewards, terminals: [B], of the k steps up to s'.
      next_values: [2, B].
      discounts: gamma^k, [B] or a number.
    """
    return rewards + discounts * (1.0 - terminals) * tf.reduce_min(next_values, axis=0)


def next_actions(behavior: BehaviorModel, rows: Rows, kind: str, seed: int, number: int) -> Array:
    """Actions a' of the target, [N, A].

    Args:
      behavior: the fitted behaviour model.
      rows: the data.
      kind: "data": the logged next action, a draw only where none was logged; "behavior": draws.
      seed, number: of the random stream.
    """
    actions = rows.next_actions.copy()
    wanted = np.flatnonzero(
        np.ones(len(actions), bool)
        if kind == "behavior"
        else ~rows.has_next & (rows.terminals == 0.0)
    )
    models = behavior.densities()

    @tf.function(reduce_retracing=True)
    def draw(states: Tensor, key: Tensor) -> Tensor:
        keys = tf.unstack(tf.random.split(key, len(models) + 1))
        inputs = behavior.inputs(states)
        draws = tf.stack([m.sample(inputs, k) for m, k in zip(models, keys, strict=False)])
        pick = tf.random.stateless_uniform(
            tf.shape(states)[:1], keys[-1], maxval=len(models), dtype=tf.int32
        )
        return tf.gather(tf.transpose(draws, [1, 0, 2]), pick, batch_dims=1)

    for index, start in enumerate(range(0, len(wanted), _ROWS_PER_CALL)):
        block = wanted[start : start + _ROWS_PER_CALL]
        key = seeds.stateless(seed, f"fitted_q/actions/{number}", index)
        actions[block] = draw(tf.constant(rows.next_states[block]), key).numpy()
    return actions


def fit(
    q: QFunction,
    behavior: BehaviorModel,
    rows: Rows,
    split: Split,
    knobs: ModelConfig,
    config: QConfig,
    seed: int,
    stage: Stage,
) -> dict[str, float]:
    """Fits the twins; goes on from the stage's last checkpoint.

    Args:
      q: changed in place.
      behavior: draws actions where none was logged, or everywhere.
      rows, split: the data.
      knobs, config: the knobs.
      seed: of minibatches and draws.
      stage: where checkpoints and metrics go.

    Returns:
      On held-out rows: "td_error" (mean squared), "gap" (mean |Q_1 - Q_2|), "mean".
    """
    dtype = networks.product_dtype(knobs.precision)
    rate = config.target_rate

    def move_targets() -> None:
        for slow, fast in zip(q.target_weights, q.weights, strict=True):
            slow.assign_add(rate * (fast - slow))

    def errors(batch: tuple[Tensor, ...], product: tf.DType) -> tuple[Tensor, Tensor]:
        states, actions, rewards, next_states, terminals, discounts, after = batch
        given, then = q.inputs(states, actions), q.inputs(next_states, after)
        beyond = tf.stack([networks.bind(target, product)(then)[:, 0] for target in q.targets])
        goal = tf.stop_gradient(backup(rewards, terminals, beyond, discounts))
        values = tf.stack([networks.bind(network, product)(given)[:, 0] for network in q.networks])
        return tf.reduce_mean(tf.square(values - goal), axis=1), values

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        (batch,) = batches
        return [tf.reduce_sum(errors(batch, dtype)[0])]

    every = config.fqe_actions == "behavior"
    window = windows(rows, config.q_return_steps, config.discount)
    logged = next_actions(behavior, rows, "data", seed, 0)

    def constants(at: Array) -> list[Tensor]:
        beyond = window.last[at]
        columns = (
            rows.states[at],
            rows.actions[at],
            window.rewards[at],
            rows.next_states[beyond],
            rows.terminals[beyond],
            window.discounts[at],
        )
        return [tf.constant(column) for column in columns]

    fixed = constants(split.train)
    known = tf.constant(logged[window.last[split.train]])

    @functools.lru_cache(maxsize=1)
    def drawn(number: int) -> Tensor:
        ahead = Rows(*(x[window.last[split.train]] for x in rows))
        return tf.constant(next_actions(behavior, ahead, "behavior", seed, number))

    def columns(number: int) -> tuple[Tensor, ...]:
        return (*fixed, drawn(number // _LOOKS_PER_DRAW) if every else known)

    judged = split.judged(training.ROWS_PER_LOOK)
    held = (*constants(judged), tf.constant(logged[window.last[judged]]))

    @tf.function
    def judge() -> tuple[Tensor, Tensor]:
        return errors(held, tf.float32)

    def look() -> dict[str, float]:
        squared, values = (x.numpy() for x in judge())
        return {
            "held_out": float(squared.mean()),
            "gap": float(np.abs(values[0] - values[1]).mean()),
            "mean": float(values.mean()),
        }

    weights = q.weights
    loop = fitting.Fit(
        weights,
        loss,
        weight_decay=2.0 * knobs.weight_decay,
        decay_biases=False,
        before_step=move_targets,
    )
    training.fit(
        loop,
        columns,
        len(split.train),
        1,
        [*weights, *q.target_weights],
        training.Schedule.of(knobs, config.q_steps)._replace(patience=0),
        look,
        seed,
        stage,
    )
    report = look()
    return {"td_error": report["held_out"], "gap": report["gap"], "mean": report["mean"]}
