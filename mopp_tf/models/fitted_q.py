"""Fitted Q evaluation of the behaviour policy (MOPP, section 4.2; Le et al. 2019).

The loss stands in `offline_tf.models.critics`; R_k are the discounted rewards of the k logged steps
from s to s', k = 1 in both papers.

Source: the authors' mopp_agent.py. Differs: targets start as copies (theirs are drawn anew);
terminal rows are there, with their reward and without a value beyond them; a row that a time limit
cut does bootstrap, with an action of the behaviour model where none was logged.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf.config import ModelConfig, QConfig
from mopp_tf.models import training
from mopp_tf.models.behavior import BehaviorModel
from mopp_tf.models.rows import Rows, windows
from offline_tf.models import compilation, critics, fitting, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.large_columns import ColumnWriter, blocks, derive
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor

_ROWS_PER_CALL = 8192
_LOOKS_PER_DRAW = 5  # drawing for a million rows takes seconds; 5000 steps see 2.5 rows of each


def next_actions(
    behavior: BehaviorModel,
    rows: Rows,
    kind: str,
    seed: int,
    number: int,
    at: Array | None = None,
) -> Array:
    """Actions a' of the target, [n, A].

    Args:
      behavior: the fitted behaviour model.
      rows: the data.
      kind: "data": the logged next action, a draw only where none was logged; "behavior": draws.
      seed, number: of the random stream.
      at: [n] which rows; None: all.
    """
    at = np.arange(len(rows.states)) if at is None else at
    wanted = np.ones(len(at), bool)
    if kind == "data":
        wanted = ~rows.has_next[at] & (rows.terminals[at] == 0.0)
    models = behavior.densities()

    @compilation.function(reduce_retracing=True)
    def draw(states: Tensor, key: Tensor) -> Tensor:
        keys = tf.unstack(tf.random.split(key, len(models) + 1))
        inputs = behavior.inputs(states)
        draws = tf.stack([m.sample(inputs, k) for m, k in zip(models, keys, strict=False)])
        pick = tf.random.stateless_uniform(
            tf.shape(states)[:1], keys[-1], maxval=len(models), dtype=tf.int32
        )
        return networks.of_members(draws, pick)

    drawn, from_rows = ColumnWriter(), at[wanted]
    drawn.append(rows.next_actions[:0])
    for index, block in enumerate(blocks(len(from_rows), _ROWS_PER_CALL)):
        key = seeds.stateless(seed, f"fitted_q/actions/{number}", index)
        if block.stop > block.start:
            drawn.append(draw(tf.constant(rows.next_states[from_rows[block]]), key).numpy())
    draws = drawn.finish()
    if wanted.all():
        return draws
    place = np.cumsum(wanted) - 1

    def chosen(block: Array) -> Array:
        actions = np.array(rows.next_actions[at[block]])
        mine = wanted[block]
        actions[mine] = draws[place[block][mine]]
        return actions

    return derive(chosen, np.arange(len(at)))


def fit(
    q: critics.QFunction,
    behavior: BehaviorModel,
    rows: Rows,
    split: Split,
    knobs: ModelConfig,
    config: QConfig,
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Fits the twins; goes on from the stage's last checkpoint.

    Args:
      q: changed in place.
      behavior: draws actions where none was logged, or everywhere.
      rows, split: the data.
      knobs, config: the knobs.
      seed: of minibatches and draws.
      stage: where checkpoints and metrics go.

    Returns:
      On held-out rows, or training rows where "judged" says so: "td_error" (mean squared), "gap"
      (mean |Q_1 - Q_2|), "mean".
    """
    dtype = networks.product_dtype(knobs.precision)

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        (batch,) = batches
        return [tf.reduce_sum(critics.errors(q, batch, dtype)[0])]

    every = config.fqe_actions == "behavior"
    window = windows(rows, config.q_return_steps, config.discount)
    logged = next_actions(behavior, rows, "data", seed, 0)

    def gather(at: Array, after: Array) -> tuple[Array, ...]:
        beyond = window.last[at]
        return (
            rows.states[at],
            rows.actions[at],
            window.rewards[at],
            rows.next_states[beyond],
            rows.terminals[beyond],
            window.discounts[at],
            after,
        )

    @functools.lru_cache(maxsize=1)
    def feed(draw: int) -> fitting.Feed:
        last = window.last[split.train]
        after = next_actions(behavior, rows, "behavior", seed, draw, last) if every else None

        def at_positions(positions: Array) -> tuple[Array, ...]:
            then = logged[last[positions]] if after is None else after[positions]
            return gather(split.train[positions], then)

        return fitting.Feed(at_positions, np.arange(len(last)))

    judged = split.judged(training.ROWS_PER_LOOK)
    kind, beyond = split.judged_kind, window.last[judged]
    # A draw that training never sees.
    then = next_actions(behavior, rows, "behavior", seed, -1, beyond) if every else logged[beyond]
    held = [tf.constant(column) for column in gather(judged, then)]

    @compilation.function
    def judge() -> tuple[Tensor, Tensor]:
        return critics.errors(q, held, tf.float32)

    def look() -> dict[str, float]:
        squared, values = (x.numpy() for x in judge())
        return {
            kind: float(squared.mean()),
            "gap": float(np.abs(values[0] - values[1]).mean()),
            "mean": float(values.mean()),
        }

    weights = q.weights
    loop = fitting.Fit(
        weights,
        loss,
        weight_decay=2.0 * knobs.weight_decay,
        decay_biases=False,
        before_step=lambda: q.move_targets(config.target_rate),
    )
    training.fit(
        loop,
        lambda number: feed(number // _LOOKS_PER_DRAW if every else 0),
        len(split.train),
        1,
        [*weights, *q.target_weights],
        training.Schedule.of(knobs, config.q_steps)._replace(patience=0),
        look,
        seed,
        stage,
    )
    report = look()
    numbers = {"td_error": report[kind], "gap": report["gap"], "mean": report["mean"]}
    return numbers | {"judged": kind}
