"""Fitted Q evaluation of the behaviour policy (MOPP, section 4.2; Le et al. 2019).

The loss stands in `offline_tf.models.critics`; R_k are the discounted rewards of the k logged steps
from s to s', k = 1 in both papers. Where the behaviour is fitted to some episodes alone, k > 1 within
these alone: what was done elsewhere is not what the behaviour does.

Source: the authors' mopp_agent.py. Differs: targets start as copies (theirs are drawn anew);
terminal rows are there, with their reward and without a value beyond them, also where their next
observation was not recorded; a row that a time limit cut does bootstrap, with an action of the
behaviour model where none was logged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf.config import ModelConfig, QConfig
from mopp_tf.models import training
from mopp_tf.models.behavior import BehaviorModel
from mopp_tf.models.rows import Rows, windows
from offline_tf.models import compilation, critics, fitted_q_evaluation, minibatches, networks
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.large_columns import ColumnWriter, blocks, derive
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor

_ROWS_PER_CALL = 8192
_LOOKS_PER_DRAW = 5  # drawing for a million rows takes seconds; 5000 steps see 2.5 rows of each


def next_actions(
    behavior: BehaviorModel,
    *,
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
    is_drawn = np.ones(len(at), bool)
    if kind == "data":
        is_drawn = ~rows.has_next[at] & (rows.terminals[at] == 0.0)
    models = behavior.densities()

    @functools.partial(compilation.ForAnyLength, free={1: ()})
    def draw(states: Tensor, key: Tensor) -> Tensor:
        keys = tf.unstack(tf.random.split(key, len(models) + 1))
        inputs = behavior.inputs(states)
        draws = tf.stack([m.sample(inputs, k) for m, k in zip(models, keys, strict=False)])
        pick = tf.random.stateless_uniform(
            tf.shape(states)[:1], keys[-1], maxval=len(models), dtype=tf.int32
        )
        return networks.of_members(draws, pick)

    column, drawn_rows = ColumnWriter(), at[is_drawn]
    column.append(rows.next_actions[:0])
    for index, block in enumerate(blocks(len(drawn_rows), _ROWS_PER_CALL)):
        key = seeds.stateless(seed, f"fitted_q/actions/{number}", index)
        if block.stop > block.start:
            next_states = tf.constant(_next_states(rows, drawn_rows[block]))
            column.append(draw(next_states, key).numpy())
    drawn = column.finish()
    if is_drawn.all():
        return drawn
    position_in_drawn = np.cumsum(is_drawn) - 1

    def chosen(block: Array) -> Array:
        actions = np.array(rows.next_actions[at[block]])
        replaced = is_drawn[block]
        actions[replaced] = drawn[position_in_drawn[block][replaced]]
        return actions

    return derive(chosen, np.arange(len(at)))


def _next_states(rows: Rows, at: Array) -> Array:
    """Row numbers [n] -> s' that a value is asked of, [n, S]."""
    return critics.states_to_value(rows.states[at], rows.next_states[at], rows.terminals[at])


def fit(
    q: critics.QFunction,
    *,
    behavior: BehaviorModel,
    rows: Rows,
    split: Split,
    knobs: ModelConfig,
    config: QConfig,
    seed: int,
    stage: Stage,
    followed: Array | None = None,
) -> dict[str, Any]:
    """Fits the twins; goes on from the stage's last checkpoint.

    Args:
      q: changed in place.
      behavior: draws actions where none was logged, or everywhere.
      rows, split: the data.
      knobs, config: the knobs.
      seed: of minibatches and draws.
      stage: where checkpoints and metrics go.
      followed: [N] bool, rows of the episodes that the behaviour is fitted to; None: of all. Beyond
        other steps a target bootstraps at once, with a draw of the behaviour.

    Returns:
      On held-out rows, or training rows where "judged" says so: "td_error" (mean squared), "gap"
      (mean |Q_1 - Q_2|), "mean".
    """
    batches = _batches(behavior, rows, config, seed, followed)
    drawn_anew = config.fqe_actions == "behavior"

    @functools.lru_cache(maxsize=1)
    def feed_of(draw: int) -> minibatches.Feed:
        return minibatches.Feed(batches(split.train, draw), np.arange(len(split.train)))

    def feed(done: int) -> minibatches.Feed:
        return feed_of(done // training.STEPS_PER_LOOK // _LOOKS_PER_DRAW if drawn_anew else 0)

    judged, kind = split.judged(training.ROWS_PER_LOOK), split.judged_kind
    # A draw that training never sees.
    look = _judge(q, batches(judged, -1)(np.arange(len(judged))), kind)
    fitted_q_evaluation.fit(
        q,
        feed=feed,
        schedule=training.drawn_schedule(
            knobs,
            steps=config.q_steps,
            count=len(split.train),
            members=1,
            seed=seed,
            name=stage.name,
        ),
        look=look,
        stage=stage,
        steps_per_call=training.STEPS_PER_CALL,
        target_rate=config.target_rate,
        dtype=networks.product_dtype(knobs.precision),
        weight_decay=2.0 * knobs.weight_decay,
        rate_flag="learning_rate",
        # Q's fit never ends early; the checkpoints of all of MOPP's fits hold these variables.
        more_variables=EarlyStopping([], patience=0).variables,
    )
    report = look()
    return {
        "td_error": report[kind],
        "gap": report["gap"],
        "mean": report["mean"],
        "judged": kind,
    }


def _batches(
    behavior: BehaviorModel, rows: Rows, config: QConfig, seed: int, followed: Array | None = None
) -> Callable[[Array, int], Callable[[Array], critics.Batch]]:
    """Returns (row numbers [N], number of the draw) -> (positions in them [n] -> their windows).

    The draw decides about next actions where config.fqe_actions says that they are drawn.
    """
    window = windows(rows, config.q_return_steps, config.discount, followed)
    logged = None
    if config.fqe_actions == "data":
        logged = next_actions(behavior, rows=rows, kind="data", seed=seed, number=0)

    def of_rows(numbers: Array, draw: int) -> Callable[[Array], critics.Batch]:
        last = window.last[numbers]
        actions, action_rows = logged, last
        if actions is None:
            actions = next_actions(
                behavior, rows=rows, kind="behavior", seed=seed, number=draw, at=last
            )
            action_rows = np.arange(len(last))

        def gather(positions: Array) -> critics.Batch:
            first_rows, last_rows = numbers[positions], last[positions]
            return critics.Batch(
                states=rows.states[first_rows],
                actions=rows.actions[first_rows],
                rewards=window.rewards[first_rows],
                next_states=_next_states(rows, last_rows),
                terminals=rows.terminals[last_rows],
                discounts=window.discounts[first_rows],
                next_actions=actions[action_rows[positions]],
            )

        return gather

    return of_rows


def _judge(q: critics.QFunction, batch: critics.Batch, kind: str) -> Callable[[], dict[str, float]]:
    """Returns a function that gives the error, under the name `kind`, the twins' gap and mean."""
    rows = critics.Batch(*map(tf.constant, batch))

    @compilation.function
    def judge() -> tuple[Tensor, Tensor]:
        return critics.errors(q, rows, tf.float32)

    def look() -> dict[str, float]:
        squared_errors, values = (x.numpy() for x in judge())
        return {
            kind: float(squared_errors.mean()),
            "gap": float(np.abs(values[0] - values[1]).mean()),
            "mean": float(values.mean()),
        }

    return look
