"""An ensemble of Gaussian dynamics models (MOReL, sections 4 and 5); judges use it too.

P(.|s,a) = N(f(s,a), Sigma),  f(s,a) = s + mask * (shift + scale * MLP(standardised s, a))
with shift and scale of the data's s' - s, and mask = 0 where the data never changes; shift and mask
are those of the authors' nn_dynamics.py, the paper's formula has neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from offline_tf.models import devices, fitting, minibatches, networks, training_loop
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.numerics import seeds, standardize
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, UserError

tfd = tfp.distributions
_STATE_BOUND = _ACTION_BOUND = 100.0  # authors' sampling.py, large_value
_STEP_BOUND = 10.0  # standard deviations of the data's steps, where those are larger
_LOG_STD_BOUNDS = (-5.0, 1.0)
_STEPS_PER_CALL = 250
_STEPS_PER_LOOK = 1000
_PASSES, _LEAST_STEPS, _MOST_STEPS = 40, 15_000, 50_000
_NARROW, _WIDE, _MANY_ROWS = (256, 256), (512, 512), 500_000
_CONSTANT = 1e-8
_ROWS_JUDGED = 100_000


class Settings(Protocol):
    """The knobs of an ensemble; `morel_tf.config.DynamicsConfig` explains each."""

    @property
    def ensemble_size(self) -> int: ...  # noqa: D102
    @property
    def dynamics_hidden(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dynamics_epochs(self) -> int: ...  # noqa: D102
    @property
    def dynamics_steps(self) -> int | None: ...  # noqa: D102
    @property
    def dynamics_patience(self) -> int: ...  # noqa: D102
    @property
    def dynamics_batch_size(self) -> int: ...  # noqa: D102
    @property
    def dynamics_learning_rate(self) -> float: ...  # noqa: D102
    @property
    def dynamics_final_rate_share(self) -> float: ...  # noqa: D102
    @property
    def covariance(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102


def data_statistics(
    task: TaskSpec,
    scale: str,
    states: Array,
    actions: Array,
    next_states: Array,
    *,
    usable: Array | None = None,
) -> tuple[standardize.Statistics, standardize.Statistics]:
    """Statistics of concatenated (s, clipped a), [S + A], and of s' - s, [S].

    Args:
      task: for the action bounds.
      scale: "std" or "mad".
      states, actions, next_states: the data, [N, S], [N, A], [N, S].
      usable: [N] bool, rows whose next state is known; None: all.
    """
    count = len(states)
    of_states = standardize.statistics(states, scale, usable)
    of_actions = standardize.statistics_of(
        lambda rows: task.clip_actions(actions[rows]), count, scale, usable
    )
    changes = standardize.statistics_of(
        lambda rows: next_states[rows] - states[rows], count, scale, usable
    )
    inputs = standardize.Statistics(
        np.concatenate([of_states.shift, of_actions.shift]),
        np.concatenate([of_states.scale, of_actions.scale]),
    )
    return inputs, changes


def hidden_of(given: Sequence[int], rows: int) -> tuple[int, ...]:
    """Hidden widths: those given, or by the number of rows."""
    return tuple(given) or (_NARROW if rows < _MANY_ROWS else _WIDE)


class GaussianEnsemble(tf.Module):
    """M Keras networks that predict the standardised change of state.

    Attributes:
      members: the Keras networks.
      hidden: widths of their layers.
      inputs, deltas: Statistics of concatenated (s, a) and of s' - s.
      mask: [S], 0 where the data's change is constant, and where the task says what comes.
      predicted: positions of the dimensions of which the task says nothing.
      step_bound: [S], of a step's change.
      noise_std: [S] variable, the residuals' standard deviation in standardised deltas, the
        maximum-likelihood Sigma given f; used where roll-outs sample under a fixed Sigma.
    """

    def __init__(
        self,
        task: TaskSpec,
        config: Settings,
        inputs: standardize.Statistics,
        deltas: standardize.Statistics,
        seed: int,
        *,
        hidden: Sequence[int] = (),
    ) -> None:
        """Draws the members' first weights; nothing is fitted yet.

        Args:
          task: bounds and dimensions.
          config: the knobs.
          inputs, deltas: of the data, see `data_statistics`.
          seed: of the weights, one stream per member.
          hidden: widths, see `hidden_of`; empty: those of the knobs.
        """
        super().__init__()
        self._low, self._high = task.action_low, task.action_high
        self.learned = config.covariance == "learned"
        self.hidden = tuple(hidden) or config.dynamics_hidden
        self.state_dim = task.state_dim
        self.inputs = inputs
        self.deltas = deltas
        # Told is the past, and what nobody in the loop decides.
        is_told = np.array(task.becomes or (-1,) * task.state_dim) >= 0
        self.predicted = np.flatnonzero(~is_told)
        self.mask = ((self.deltas.scale >= _CONSTANT) & ~is_told).astype(np.float32)
        widest = np.abs(self.deltas.shift) + _STEP_BOUND * self.deltas.scale  # [S]
        self.step_bound = np.maximum(_STATE_BOUND, widest).astype(np.float32)
        width = task.state_dim * (2 if self.learned else 1)
        with devices.scope():
            self.members = [
                networks.mlp(
                    task.state_dim + task.action_dim,
                    hidden=self.hidden,
                    output_dim=width,
                    activation="relu",
                    generator=seeds.generator(seed, "dynamics/init", member),
                    name=f"dynamics_{member}",
                )
                for member in range(config.ensemble_size)
            ]
        self.noise_std = tf.Variable(tf.ones([task.state_dim]), trainable=False)

    @property
    def size(self) -> int:
        """M."""
        return len(self.members)

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables that the export and a checkpoint need."""
        return [*networks.variables(*self.members), self.noise_std]

    def standardise_inputs(self, states: Tensor, actions: Tensor, bounded: bool = True) -> Tensor:
        """[B, S], [B, A] -> [B, S + A]; clips actions first, to the bounds or to +-100 (authors)."""
        low, high = (self._low, self._high) if bounded else (-_ACTION_BOUND, _ACTION_BOUND)
        joined = tf.concat([states, tf.clip_by_value(actions, low, high)], axis=-1)  # [B, S + A]
        return (joined - self.inputs.shift) / (self.inputs.scale + standardize.EPSILON)

    def distribution(self, outputs: Tensor) -> tfp.distributions.Distribution:
        """[B, width] network outputs -> Gaussian over standardised deltas [B, S]."""
        mean = outputs[..., : self.state_dim]  # [B, S]
        if not self.learned:
            return tfd.MultivariateNormalDiag(mean, tf.ones_like(mean))
        log_std = tf.clip_by_value(outputs[..., self.state_dim :], *_LOG_STD_BOUNDS)
        return tfd.MultivariateNormalDiag(mean, tf.exp(log_std))

    def bind(
        self, dtype: tf.DType = tf.float32, bounded: bool = True
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns (states [B, S], actions [B, A]) -> raw member outputs [M, B, width].

        Weights are read once, so that the function is cheap inside a loop of a graph. Rows that are no
        numbers give NaN. `bounded`: see `standardise_inputs`.
        """
        forwards = [networks.bind(member, dtype) for member in self.members]

        def predict(states: Tensor, actions: Tensor) -> Tensor:
            inputs = self.standardise_inputs(states, actions, bounded)  # [B, S + A]
            cast = tf.cast(inputs, dtype)
            outputs = tf.stack([forward(cast) for forward in forwards])  # [M, B, width]
            return networks.nan_unless_bounded(inputs, outputs)

        return predict

    def next_states(self, states: Tensor, deltas: Tensor) -> Tensor:
        """States [.., B, S] after standardised deltas [.., B, S].

        A step is bounded to +-100, or, where the data's steps are larger, to ten of their standard
        deviations around zero and beyond their mean.

        Differs: the authors bound the state itself to +-100, which would cut a user's own units.
        """
        change = self.mask * (deltas * (self.deltas.scale + _CONSTANT) + self.deltas.shift)
        return states + tf.clip_by_value(change, -self.step_bound, self.step_bound)

    def means(self, outputs: Tensor) -> Tensor:
        """[.., width] -> [.., S] standardised mean deltas."""
        return outputs[..., : self.state_dim]

    def noise(self, outputs: Tensor) -> Tensor:
        """[B, width] -> [B, S], the standard deviation to sample with, in standardised deltas."""
        if self.learned:
            return tf.exp(tf.clip_by_value(outputs[..., self.state_dim :], *_LOG_STD_BOUNDS))
        return self.noise_std + tf.zeros_like(outputs)


def fit(
    ensemble: GaussianEnsemble,
    *,
    states: Array,
    actions: Array,
    next_states: Array,
    split: Split,
    config: Settings,
    names: tuple[str, ...],
    seed: int,
    stage: Stage,
    own_rows: Sequence[Array] | None = None,
) -> dict[str, float]:
    """Fits all members by maximum likelihood; goes on from the stage's last checkpoint.

    With --dynamics_epochs=0 the fit ends where the held-out error, looked at every 1000 steps, has not
    been lower for --dynamics_patience steps, and the best weights are kept.

    Args:
      ensemble: changed in place.
      states, actions, next_states: the data, [N, S], [N, A], [N, S].
      split: training and held-out rows.
      config: the knobs.
      names: of the S dimensions, for the report.
      seed: of the minibatch orders, one stream per member and epoch.
      stage: where checkpoints and metrics go.
      own_rows: of each member, positions in the training rows that it draws its minibatches from,
        with --dynamics_epochs=0; None: all of them.

    Returns:
      Held-out error: "mse" and per dimension "mse/<name>", in standardised deltas.

    Raises:
      UserError: the fit diverged; checkpoints from before are kept.
    """
    weights = networks.variables(*ensemble.members)
    optimiser = fitting.Fit(weights, loss=_likelihood_loss(ensemble, config.precision))
    patience = _patience(config, split)
    stopping = EarlyStopping(weights, patience)
    stage.track([*weights, *optimiser.adam.moments, *(stopping.variables if patience else [])])

    def gather(rows: Array) -> tuple[Tensor, Tensor]:
        changes = next_states[rows] - states[rows]  # [n, S]
        return (
            ensemble.standardise_inputs(tf.constant(states[rows]), tf.constant(actions[rows])),
            tf.constant(ensemble.deltas.normalize(changes) * ensemble.mask),
        )

    feed = minibatches.Feed(gather, split.train)
    inputs, targets = gather(split.judged(_ROWS_JUDGED))

    def report(done: int, losses: list[Array]) -> dict[str, float]:
        error = held_out_error(ensemble, inputs, targets, names)["mse"]
        stopping.note(done, error)
        return {"loss": training_loop.mean_loss(losses), f"{split.judged_kind}_mse": error}

    done = training_loop.fit(
        optimiser,
        feed=lambda epoch: feed,
        schedule=_schedule(ensemble.size, len(split.train), config, seed, own_rows),
        report=report,
        stage=stage,
        steps_per_call=_STEPS_PER_CALL,
        rate_flag="dynamics_learning_rate",
        is_over=stopping.is_over,
    )
    stopping.take_best(done, stage.name)
    return held_out_error(ensemble, inputs, targets, names, update_noise=True)


def _likelihood_loss(
    ensemble: GaussianEnsemble, precision: str
) -> Callable[[list[tuple[Tensor, ...]]], list[Tensor]]:
    """Mean -log p(targets | inputs) / S of each member, for `fitting.Fit`."""
    dtype = networks.product_dtype(precision)

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        losses = []
        for member, (inputs, targets) in zip(ensemble.members, batches, strict=True):
            gaussian = ensemble.distribution(networks.bind(member, dtype)(inputs))
            losses.append(-tf.reduce_mean(gaussian.log_prob(targets)) / ensemble.state_dim)
        return losses

    return loss


def steps_of(config: Settings, count: int) -> int:
    """Adam steps of a fit to `count` rows, at most; without --dynamics_steps forty passes.

    Forty passes, but at least 15,000 and at most 50,000 steps: twelve passes over a million rows.
    """
    if config.dynamics_steps is not None:
        return config.dynamics_steps
    passes = _PASSES * count // config.dynamics_batch_size
    return min(max(passes, _LEAST_STEPS), _MOST_STEPS)


def _patience(config: Settings, split: Split) -> int:
    """Adam steps without a lower held-out error after which the fit ends; 0: it never does."""
    if config.dynamics_epochs or not len(split.held_out):
        return 0
    return config.dynamics_patience


def _schedule(
    members: int,
    count: int,
    config: Settings,
    seed: int,
    own_rows: Sequence[Array] | None = None,
) -> training_loop.Schedule:
    """Epochs over `count` rows, or so many steps; each member has its own order.

    The rate falls along a cosine.
    """
    size = config.dynamics_batch_size
    rates = functools.partial(
        fitting.cosine, config.dynamics_learning_rate, config.dynamics_final_rate_share
    )

    def streams(first: int) -> list[np.random.Generator]:
        return [seeds.generator(seed, f"dynamics/order/{m}", first) for m in range(members)]

    if config.dynamics_epochs:
        return training_loop.by_epochs(
            config.dynamics_epochs,
            lambda epoch: minibatches.shuffled_batches(streams(epoch), count, size),
            rates,
        )

    def drawn(done: int, steps: int) -> Array:
        if own_rows is None:
            return minibatches.drawn_batches(streams(done), count, steps, size)
        by_member = [
            rows[minibatches.drawn_batches([stream], len(rows), steps, size)[:, 0]]
            for rows, stream in zip(own_rows, streams(done), strict=True)
        ]
        return np.stack(by_member, axis=1).astype(np.int32)

    return training_loop.by_steps(steps_of(config, count), _STEPS_PER_LOOK, drawn, rates)


def resampled(rows: Array, bounds: Array, members: int, seed: int) -> list[Array]:
    """Positions in `rows` of as many episodes as there are, drawn with replacement for each member.

    Members that were shown the same rows err alike where the rows mislead. Members that were shown
    other episodes of the same kind disagree there.

    Args:
      rows: [n] ascending row numbers.
      bounds: [E, 2] first and one past the last row of each episode.
      members: M.
      seed: of the draws.

    Returns:
      M arrays of positions; an episode that was drawn twice is in it twice.
    """
    episode = np.searchsorted(bounds[:, 0], rows, side="right") - 1  # [n]
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    pieces = np.split(np.arange(len(rows)), first[1:])
    chosen = []
    for member in range(members):
        stream = seeds.generator(seed, "dynamics/episodes", member)
        drawn = stream.integers(len(pieces), size=len(pieces))
        chosen.append(np.concatenate([pieces[index] for index in drawn]))
    return chosen


def fit_or_load(
    ensemble: GaussianEnsemble,
    *,
    data: tuple[Array, Array, Array],
    split: Split,
    config: Settings,
    names: tuple[str, ...],
    seed: int,
    record: RunRecord,
    other: RunRecord | None = None,
    stage: str = "dynamics",
    own_rows: Sequence[Array] | None = None,
) -> None:
    """Fits the models, or reads them where this run, or `other`, has fitted them.

    Args:
      ensemble: changed in place.
      data: states [N, S], actions [N, A], next states [N, S].
      split: training and held-out rows.
      config: the knobs.
      names: of the S dimensions.
      seed: of the minibatch orders.
      record: this run; stage "<stage>_fit" keeps checkpoints, "<stage>" the fitted weights.
      other: a run whose fitted models are taken over; the caller has checked that they fit.
      stage: name of the stage.
      own_rows: see `fit`.
    """

    def fit_here(fitting_stage: Stage) -> dict[str, object]:
        states, actions, next_states = data
        report = fit(
            ensemble,
            states=states,
            actions=actions,
            next_states=next_states,
            split=split,
            config=config,
            names=names,
            seed=seed,
            stage=fitting_stage,
            own_rows=own_rows,
        )
        statistics = {
            name: [part.astype(float).tolist() for part in values]
            for name, values in (("inputs", ensemble.inputs), ("deltas", ensemble.deltas))
        }
        return {
            split.judged_kind: report,
            "split_seed": seed,
            "hidden": list(ensemble.hidden),
            "statistics": statistics,
        }

    record.fit_or_load(stage, ensemble.weights, fit_here, other)


def split_seed(record: RunRecord, stage: str = "dynamics") -> int:
    """Which seed chose the held-out episodes of a run's models, taken over or not."""
    return record.stage(stage).result["split_seed"]


def fitted_statistics(
    record: RunRecord,
) -> tuple[standardize.Statistics, standardize.Statistics]:
    """Those of a run's models, from its folder: of (s, a), [S + A], and of s' - s, [S]."""
    stored = record.stage("dynamics").result["statistics"]
    inputs, deltas = (
        standardize.Statistics(*(np.array(part, np.float32) for part in stored[name]))
        for name in ("inputs", "deltas")
    )
    return inputs, deltas


def load(task: TaskSpec, config: Settings, seed: int, record: RunRecord) -> GaussianEnsemble:
    """Rebuilds the fitted ensemble of a run from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    final = record.stage("dynamics")
    if not final.complete:
        raise UserError(
            f"--workdir: the models of {record.folder} are not fitted yet; train it first"
        )
    hidden = final.result.get("hidden", ())  # runs of old have the knob's
    ensemble = GaussianEnsemble(task, config, *fitted_statistics(record), seed, hidden=hidden)
    final.track(ensemble.weights)
    final.restore()
    return ensemble


def held_out_error(
    ensemble: GaussianEnsemble,
    inputs: Tensor,
    targets: Tensor,
    names: tuple[str, ...],
    update_noise: bool = False,
) -> dict[str, float]:
    """Mean squared error of the members on rows; held-out ones, where there are.

    Args:
      ensemble: the models.
      inputs, targets: of these rows, standardised, [n, S + A] and [n, S].
      names: of the S dimensions.
      update_noise: whether to set the ensemble's noise_std to the residuals' standard deviation.

    Returns:
      "mse" and "mse/<name>" per dimension, means over members.
    """
    errors = [
        tf.reduce_mean(tf.square(ensemble.means(networks.bind(member)(inputs)) - targets), axis=0)
        for member in ensemble.members
    ]
    by_name = tf.reduce_mean(tf.stack(errors), axis=0).numpy()  # [S]
    if update_noise:
        ensemble.noise_std.assign(np.sqrt(by_name))
    # What the task says of the next state costs no error, and says nothing of the models.
    judged = by_name[ensemble.predicted] if len(ensemble.predicted) else by_name
    report = {"mse": float(judged.mean())}
    return report | {f"mse/{name}": float(v) for name, v in zip(names, by_name, strict=True)}
