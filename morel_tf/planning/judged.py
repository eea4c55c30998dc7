"""Which policy planning keeps, how large its steps are, and when it ends: by the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import PlannerConfig
from offline_tf.judging import judge as judging
from offline_tf.judging.judge import MOSTLY_HALTED, Judge, Judgement
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.types import Array


class Kept(NamedTuple):
    """What planning ends with.

    Attributes:
      iteration: updates that the weights had seen; 0: the clone's.
      gain: lower bound of what the best planned policy earns more than the clone.
      judgement: of the policy that is kept.
      promise: of the policy that is kept; no spread counts for less than is usual, see `_Bound`.
    """

    iteration: int
    gain: float
    judgement: Judgement
    promise: float


class _Bound:
    """A lower bound, and whose was the highest.

    Few models are close to each other by chance at times, and of many policies one would be kept on
    which they are. So no spread counts for less than those so far do in the mean square.

    Attributes:
      centre, spread: of the best.
      squares, looks: of all spreads.
    """

    def __init__(self, bound: Callable[[float, float, int], float]) -> None:
        """Bound: see `judging.promise_of`."""
        self._bound = bound
        self.centre = tf.Variable(-np.inf, dtype=tf.float64, trainable=False)
        self.spread = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.squares = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.looks = tf.Variable(0, dtype=tf.int64, trainable=False)

    def see(self, values: Array) -> tuple[float, float]:
        """Values [M, E]: centre and spread, which counts from now on."""
        spread = judging.spread_of(values)
        if np.isfinite(spread):
            self.squares.assign_add(spread**2)
            self.looks.assign_add(1)
        return float(values.mean()), spread

    def of(self, centre: float, spread: float, models: int) -> float:
        """The bound, by what is usual now."""
        usual = float(np.sqrt(float(self.squares) / max(int(self.looks), 1)))
        return self._bound(centre, max(spread, usual), models)

    def of_best(self, models: int) -> float:
        """The best's, by what is usual now; none is -inf."""
        return self.of(float(self.centre), float(self.spread), models)

    def keep(self, centre: float, spread: float) -> None:
        """Makes them the best's."""
        self.centre.assign(centre)
        self.spread.assign(spread)


class Keeper:
    """Keeps the policy that likely gains most over the clone, by what the judge's models say.

    Policy and clone are compared model by model and start by start: what a model gets wrong of both
    falls out. So it takes less to prefer one than to promise what it earns: one comparison in three may
    show less. The bound orders policies; of the best of many it is no bound of the true gain. Where
    none has more than nothing the clone is kept.

    Where most roll-outs of either meet HALT, the models do not know what it earns, and the clone's
    episodes speak for the clone: beyond HALT it earns what they did.

    Without a better policy for a while, planning goes back to the best with smaller steps, then ends.

    With --judge_keeps=promise it keeps the policy that is promised most, and compares that one alone
    with the clone in the end; one comparison in five may show less, and only the policy's own HALT
    makes the episodes speak.

    Attributes:
      variables: what checkpoints must hold.
    """

    def __init__(
        self,
        policy: GaussianPolicy,
        config: PlannerConfig,
        worth: Callable[[], Judgement] | None = None,
    ) -> None:
        """Copies the policy, the clone; nothing is judged yet.

        Args:
          policy: planned with.
          config: the knobs.
          worth: what the clone is worth by its episodes, see `start.worth_of`; None: nobody says.
        """
        self._policy = policy
        self._first = [weight.numpy() for weight in policy.weights]
        self._config = config
        self._worth = worth
        self._of_clone: dict[bool, Judgement] = {}  # whether its episodes speak for it -> judgement
        self._best = [tf.Variable(weight, trainable=False) for weight in policy.weights]
        self._promise, self._gain = _Bound(judging.promise_of), _Bound(judging.likely_gain_of)
        self._models = tf.Variable(2, dtype=tf.int64, trainable=False)
        self._iteration = tf.Variable(0, dtype=tf.int64, trainable=False)  # of the best
        self._since = tf.Variable(0, dtype=tf.int64, trainable=False)  # patience runs from here
        self._halvings = tf.Variable(0, dtype=tf.int64, trainable=False)
        promise, gain = (
            [each.centre, each.spread, each.squares, each.looks]
            for each in (self._promise, self._gain)
        )
        self.variables = [
            *self._best,
            *promise,
            self._models,
            self._iteration,
            self._since,
            self._halvings,
            *(gain if self._by_gain else []),
        ]

    @property
    def kl_share(self) -> float:
        """Share of the KL per update that is left."""
        return 0.5 ** int(self._halvings)

    @property
    def is_over(self) -> bool:
        """Whether planning is to end."""
        return int(self._halvings) > self._config.judge_halvings

    @property
    def promise(self) -> float:
        """Of the best policy; none is -inf."""
        return self._promise.of_best(int(self._models))

    @property
    def gain(self) -> float:
        """Of the best planned policy over the clone; none is -inf."""
        return self._gain.of_best(int(self._models))

    @property
    def _by_gain(self) -> bool:
        return self._config.judge_keeps == "gain"

    def look(self, judge: Judge, done: int) -> dict[str, float]:
        """Judges the present policy, which may be kept, or be replaced by the best.

        Args:
          judge: says what policies earn.
          done: updates so far.

        Returns:
          Numbers for the log, see `Judgement.numbers`, and "best_promise", of the policy that would be
          kept (-inf before there is one), and "kl_share"; where it is what decides, "gain" over the
          clone, whose own is 0.
        """
        judgement = judge.policy(self._policy.numpy())
        self._models.assign(len(judgement.least))
        promised = self._promise.see(judgement.least)
        numbers = judgement.numbers()
        if not self._by_gain:
            is_better = self._promise.of(*promised, int(self._models)) > self.promise
        elif done:
            gained = self._gain.see(self._difference(judge, judgement))
            numbers["gain"] = self._gain.of(*gained, int(self._models))
            if is_better := numbers["gain"] > self.gain:
                self._gain.keep(*gained)
        else:
            self._of_clone[False], numbers["gain"], is_better = judgement, 0.0, False
        if is_better:
            self._promise.keep(*promised)
            self._iteration.assign(done)
            self._since.assign(done)
            for best, weight in zip(self._best, self._policy.weights, strict=True):
                best.assign(weight)
        elif done - int(self._since) >= self._config.judge_patience:
            self._since.assign(done)
            self._halvings.assign_add(1)
            self.take_best()
            logging.info(
                "planning: no better policy than that of iteration %d, %.1f %s; %s",
                int(self._iteration),
                self.gain if self._by_gain else self.promise,
                "likely gained over the clone" if self._by_gain else "promised",
                "planning ends" if self.is_over else "back to it with half the step",
            )
        numbers["promise"] = self._promise.of(*promised, int(self._models))
        return numbers | {"best_promise": self.promise, "kl_share": self.kl_share}

    def take_best(self) -> int:
        """Gives the policy its best weights; returns the updates that they had seen."""
        self._take(self._best)
        return int(self._iteration)

    def take_best_or_first(self, judge: Judge) -> Kept:
        """Gives the policy its best weights, or the clone's where these do not likely gain over it.

        Args:
          judge: of the best policy.
        """
        iteration = self.take_best()
        best = judge.policy(self._policy.numpy())
        gained = self.gain if self._by_gain else judging.gain(self._difference(judge, best))
        if iteration and gained > 0.0:
            return Kept(iteration, gained, best, self.promise)
        if iteration:
            logging.info(
                "planning: the policy of iteration %d does not likely gain over the clone (%.1f or "
                "more); the clone is kept",
                iteration,
                gained,
            )
        self._take(self._first)
        nothing_seen = self._by_gain and not iteration
        clone = self._clone(judge, by_episodes=False)
        promise = self._promise.of(clone.centre, clone.spread, len(clone.least))
        return Kept(0, 0.0 if nothing_seen else gained, clone, promise)

    def _difference(self, judge: Judge, judgement: Judgement) -> Array:
        """[M, E] what a policy earns more than the clone."""
        halted = float(judgement.halted.mean())
        if self._by_gain:
            halted = max(halted, float(self._clone(judge, by_episodes=False).halted.mean()))
        by_episodes = halted > MOSTLY_HALTED and self._worth is not None
        return judgement.least - self._clone(judge, by_episodes).least

    def _clone(self, judge: Judge, by_episodes: bool) -> Judgement:
        if by_episodes not in self._of_clone:
            judged = self._worth() if by_episodes and self._worth else judge.policy(self._clones())
            self._of_clone[by_episodes] = judged
        return self._of_clone[by_episodes]

    def _clones(self) -> NumpyPolicy:
        """The clone's policy; the present weights stay."""
        now = [weight.numpy() for weight in self._policy.weights]
        self._take(self._first)
        clone = self._policy.numpy()
        self._take(now)
        return clone

    def _take(self, weights: Sequence[Array | tf.Variable]) -> None:
        for weight, value in zip(self._policy.weights, weights, strict=True):
            weight.assign(value)
