"""USAD, the unknown state-action detector (MOReL, section 4): unknown iff disc(s,a) > threshold.

disc(s,a) = max_{i,j} || w * (f_i(s,a) - f_j(s,a)) ||_2, where w names the space: standardised
deltas, the observation's own units, or the authors' (velocities times 0.02).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import UsadConfig
from offline_tf.datasets import velocities
from offline_tf.models import compilation, disagreement
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.numerics import large_columns, standardize
from offline_tf.numerics.rank_statistics import auroc, rank_correlation
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

_AUTHORS_VELOCITY_SCALE = 0.02
_WORST_SHARE = 0.05
_ROWS_JUDGED = 100_000


class Calibration(NamedTuple):
    """The detector's threshold and what it was made from.

    Attributes:
      threshold: unknown iff the disagreement is above; inf for naive model-based RL.
      space: "delta", "observation" or "authors".
      mean, std, maximum: of the disagreement over the data.
      rejected: share of the data that the threshold calls unknown.
      beta_max: (maximum - mean) / std, the beta at which all data are known.
    """

    threshold: float
    space: str
    mean: float
    std: float
    maximum: float
    rejected: float
    beta_max: float


def space_weights(task: TaskSpec, ensemble: GaussianEnsemble, space: str) -> Array:
    """[S] factors that turn differences of standardised deltas into the named space."""
    scale = ensemble.mask * (ensemble.deltas.scale + standardize.EPSILON)  # [S]
    if space == "delta":
        return ensemble.mask.astype(np.float32)
    if space == "authors":
        scale = scale.copy()
        scale[list(task.velocity_indices)] *= _AUTHORS_VELOCITY_SCALE
    return scale.astype(np.float32)


def disagreement_of(ensemble: GaussianEnsemble, outputs: Tensor, weights: Array) -> Tensor:
    """Raw member outputs [M, B, width], [S] -> [B] disagreement in the space of the weights."""
    return disagreement.largest_pairwise_distance(ensemble.means(outputs) * weights)


def batched(
    ensemble: GaussianEnsemble,
    *,
    weights: Array,
    states: Array,
    actions: Array,
    rows: Array | None = None,
    batch_size: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Disagreement of many pairs.

    Args:
      ensemble, weights: the detector.
      states, actions: [N, S], [N, A].
      rows: [n] which of them; None: all.
      batch_size: pairs per call.
      progress: told pairs done and in all.

    Returns:
      [n] float32.
    """
    rows = np.arange(len(states)) if rows is None else rows

    @compilation.ForAnyLength
    def chunk(s: Tensor, a: Tensor) -> Tensor:
        return disagreement_of(ensemble, ensemble.bind()(s, a), weights)

    out = np.empty(len(rows), np.float32)
    for part in large_columns.blocks(len(rows), batch_size):
        at = rows[part]
        out[part] = chunk(tf.constant(states[at]), tf.constant(actions[at])).numpy()
        if progress:
            progress(part.stop, len(rows))
    return out


def calibrate(values: Array, config: UsadConfig, maxima: Array | None = None) -> Calibration:
    """Sets the threshold from the disagreement over the data.

    auto: of the held-out episodes at most a share meets HALT, walked with their own actions; beta:
    mean + beta * std, at most the maximum (paper: beta is at most beta_max); max: max / coef
    (authors); quantile; none: infinity.

    Args:
      values: [N] disagreement of all pairs of the data.
      config: the rule.
      maxima: the largest value of each held-out episode, or of all where none is held out, for the
        auto rule; None: every pair counts as an episode.
    """
    maxima = values if maxima is None else maxima
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    maximum = float(values.max())
    threshold = {
        "auto": disagreement.threshold_that_cuts(maxima, config.cut_share, config.threshold_margin),
        "beta": min(mean + config.beta * std, maximum),
        "max": maximum / config.pessimism_coef,
        "quantile": float(np.quantile(values, config.threshold_quantile)),
        "none": float("inf"),
    }[config.threshold_rule]
    return Calibration(
        threshold=threshold,
        space=config.disagreement_space,
        mean=mean,
        std=std,
        maximum=maximum,
        rejected=float((values > threshold).mean()),
        beta_max=(maximum - mean) / (std + 1e-12),
    )


def _numbers(calibration: Calibration) -> dict[str, float]:
    return {k: v for k, v in calibration._asdict().items() if isinstance(v, float)}


def load(record: RunRecord) -> dict[str, Calibration]:
    """Reads the calibrations of a run from its folder."""
    detectors = record.stage("usad").result["detectors"]
    return {name: Calibration(**values) for name, values in detectors.items()}


def calibrate_or_load(
    task: TaskSpec,
    *,
    ensemble: GaussianEnsemble,
    weights: Array,
    data: Transitions,
    states: tuple[Array, Array],
    held_out: Array,
    config: UsadConfig,
    record: RunRecord,
) -> dict[str, Calibration]:
    """Calibrates every detector there is, each on what it will receive.

    "planning" sees the models' states in the P-MDP; a deployed detector sees "observation"s, or, with
    the previous observation, states restored by finite differences ("history"). The three differ only
    where velocities were restored. Rows held out from the fit count too: they are 2 % by default. Rows
    whose next state is not known do not: the models have seen nothing of them.

    Args:
      task: names what is clipped.
      ensemble, weights: the detector.
      data: the data set.
      states: states and next states that the models were fitted on, [N, S] each.
      held_out: rows for the report on error prediction; their next states are known.
      config: the rule.
      record: the run folder; stage "usad".

    Returns:
      Detector name -> Calibration.
    """
    stage = record.stage("usad")
    if stage.complete:
        return load(record)
    stage.restart()
    received = {"planning": states[0]}
    if states[0] is not data.observations and _rows_that_differ(states[0], data.observations).any():
        received["observation"] = data.observations
        received["history"] = velocities.restore(task, data, use_recorded=False)[0]
    calibrations, prediction = {}, {}
    known = data.next_known  # [N]
    rows = held_out if len(held_out) else np.flatnonzero(known)[:20_000]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS_JUDGED)).astype(np.int64)]
    of_states = np.zeros(len(data), np.float32)  # [N]
    for name, inputs in received.items():
        # Most rows are the same for all detectors; only those that differ are computed again.
        differ = np.arange(len(data))
        if name != "planning":
            differ = np.flatnonzero(_rows_that_differ(inputs, states[0]))
        values = of_states.copy()
        if len(differ):
            values[differ] = batched(
                ensemble,
                weights=weights,
                states=inputs,
                actions=data.actions,
                rows=differ,
                progress=lambda done, total: stage.progress(done, total, "pairs"),
            )
        if name == "planning":
            of_states = values
        episodes = np.sort(held_out) if len(held_out) else np.flatnonzero(known)
        maxima = disagreement.episode_maxima(values[episodes], episodes, data.episode_bounds())
        calibrations[name] = calibrate(values[known], config, maxima)
        prediction[name] = error_prediction(
            ensemble, weights, inputs[rows], data.actions[rows], states[1][rows] - states[0][rows]
        )
    for name in ("observation", "history"):
        calibrations.setdefault(name, calibrations["planning"])
    for name, c in calibrations.items():
        logging.info(
            "usad/%s: threshold %.4g, rejects %.3g %% of the data (beta_max %.1f)",
            name,
            c.threshold,
            100 * c.rejected,
            c.beta_max,
        )
    planning = calibrations["planning"]
    if config.threshold_rule == "beta" and config.beta > planning.beta_max:
        logging.warning(
            "--beta=%g: the data's largest disagreement is %.1f standard deviations above the mean; "
            "it is the threshold",
            config.beta,
            planning.beta_max,
        )
    for name, numbers in prediction.items():
        logging.info(
            "usad/%s: against the error on %s rows, rank correlation %.2f, AUROC of the worst 5 %% "
            "%.2f",
            name,
            "held-out" if len(held_out) else "training",
            numbers["rank_correlation"],
            numbers["auroc"],
        )
    stage.log(1, {f"{n}/{k}": v for n, c in calibrations.items() for k, v in _numbers(c).items()})
    stage.finish(
        {
            "detectors": {name: c._asdict() for name, c in calibrations.items()},
            "error_prediction": prediction,
        }
    )
    return calibrations


def _rows_that_differ(first: Array, second: Array) -> Array:
    """[N, S], [N, S] -> [N] bool."""
    return large_columns.derive(lambda one, other: (one != other).any(axis=1), first, second)


def error_prediction(
    ensemble: GaussianEnsemble,
    weights: Array,
    received: Array,
    actions: Array,
    changes: Array,
) -> dict[str, float]:
    """How well disagreement tells the error of the models on held-out pairs.

    The error is that of the members' mean, in the detector's space.

    Args:
      ensemble, weights: the detector.
      received: [n, S], what the detector sees.
      actions: [n, A].
      changes: [n, S], the true s' - s.

    Returns:
      "rank_correlation", and "auroc" of finding the worst 5 % errors.
    """
    outputs = ensemble.bind()(tf.constant(received), tf.constant(actions))  # [M, n, width]
    values = disagreement_of(ensemble, outputs, weights).numpy()  # [n]
    target = ensemble.deltas.normalize(changes) * ensemble.mask  # [n, S]
    mean = tf.reduce_mean(ensemble.means(outputs), axis=0).numpy()  # [n, S]
    errors = np.linalg.norm((mean - target) * weights, axis=1)  # [n]
    worst = errors > np.quantile(errors, 1.0 - _WORST_SHARE)
    return {"rank_correlation": rank_correlation(values, errors), "auroc": auroc(values, worst)}
