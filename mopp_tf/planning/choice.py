"""Whether to plan at all, and how: the judge compares planners with the clone that they begin from.

A planner whose proposals leave the data ends below its own clone, and its models do not tell. Models
that nothing was planned in do. A decision is dear, so they compare from few starts and over few steps;
whole episodes are asked of the chosen one alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from mopp_tf import objectives, planner_config
from mopp_tf.config import PlannerConfig
from mopp_tf.models.rows import RewardScale
from mopp_tf.planning.planner import Planner
from mopp_tf.planning.rollout import Models
from offline_tf.judging.judge import MOSTLY_HALTED, Judge, gain, spread_of
from offline_tf.models import compilation, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Tensor

STAGE, PROMISE = "choice", "promise"
CLONE = "clone"
PAPER_SIGMA = 0.25  # sigma_M in units of the bounds
_MIDDLE = (0.25, 0.75)  # of an episode
# What is changed -> why it may help; for --select=offline and the command tune. Names are flags.
MORE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"horizon": 8}, "looks further ahead"),
    ({"horizon": 2}, "trusts its models for fewer steps"),
    ({"inverse_temperature": 10.0}, "follows the best candidates more closely"),
    ({"inverse_temperature": 1.0}, "averages more of them"),
    ({"terminal_value": False}, "does not trust Q beyond the horizon"),
    ({"q_proposals": 10}, "looks for a higher Q"),
    ({"plan_mix": 0.3}, "moves more smoothly"),
)


def few_starts(
    judge: Judge, *, states: Array, bounds: Array, split: Split, count: int, steps: int, seed: int
) -> Judge:
    """The judge with few starts and steps: starts of episodes, and states in the middle of others.

    Args:
      judge: all of it.
      states: [N, S] of the data, as the judge's models see them.
      bounds: [E, 2] of the episodes.
      split: the rows that the behaviour is fitted to; held-out ones give the middles.
      count: of starts, at least 2.
      steps: at most; the task's time limit is not exceeded.
      seed: of the middles.
    """
    rows = split.held_out if len(split.held_out) else split.train
    episode = bounds[np.searchsorted(bounds[:, 0], rows, side="right") - 1]  # [n, 2]
    passed = (rows - episode[:, 0]) / (episode[:, 1] - episode[:, 0])
    middles = rows[(passed >= _MIDDLE[0]) & (passed <= _MIDDLE[1])]
    middles = middles if len(middles) else rows
    wanted = count // 2
    drawn = seeds.generator(seed, "choice/middles").choice(
        middles, size=wanted, replace=len(middles) < wanted
    )
    starts = np.resize(judge.starts, (count - wanted, judge.starts.shape[1]))
    task, limit = judge.models.task, judge.models.task.max_episode_steps
    task = dataclasses.replace(task, max_episode_steps=min(steps, limit))
    models, first = judge.models._replace(task=task), np.concatenate([starts, states[drawn]])
    if judge.rows is not None:  # pieces of a log begin anywhere: none has steps behind it
        log_rows = np.concatenate([np.resize(judge.rows, count - wanted), drawn])
        return Judge(models, first, rows=log_rows)
    begun = bounds[np.searchsorted(bounds[:, 0], drawn, side="right") - 1, 0]
    # Of an episode that is longer than the time limit the last step counts.
    behind = np.minimum(drawn - begun, limit - 1)
    return Judge(models, first, passed=np.concatenate([np.zeros(count - wanted, np.int64), behind]))


def to_the_end(judge: Judge, count: int) -> Judge:
    """The judge with its first starts of episodes alone, up to the time limit."""
    rows = None if judge.rows is None else judge.rows[:count]
    return Judge(judge.models, judge.starts[:count], judge.error, rows, judge.passed[:count])


def judged_by(
    judge: Judge,
    *,
    task: TaskSpec,
    models: Models,
    scale: RewardScale,
    limit: float,
    seed: int,
    after_halt: Array | None = None,
    reward: objectives.Reward | None = None,
) -> Callable[[PlannerConfig], dict[str, Any]]:
    """Returns knobs -> what the judge says of a planner with them.

    Args:
      judge: see `few_starts`.
      task, models, limit: of the planner.
      scale: of its rewards.
      seed: of its draws.
      after_halt: [T, E] what is paid to the clone in whole episodes, see `clones.episodes_go_on`; None:
        as to others.
      reward: of the task, for planners with --planner_reward=task.

    Returns:
      A function; its numbers are those of `Judgement.numbers`, "kept_share", "fallback" and "least",
      the lists of `Judgement.least`; of a clone that is paid beyond HALT "least_alone", the same
      without that.
    """

    def judge_one(knobs: PlannerConfig) -> dict[str, Any]:
        planner = Planner(
            task,
            models=models,
            knobs=knobs,
            limit=limit,
            objective=objectives.of_task(
                task, scale, reward if knobs.planner_reward == "task" else None
            ),
            dtype=networks.product_dtype(knobs.planner_precision),
        )
        decide = compilation.compiled(planner.decide, in_parts=True)

        def act(
            observations: Tensor, plan: Tensor, key: Tensor
        ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            decision = decide(observations, plan, key)
            told = {"kept_share": decision.kept_share, "fallback": decision.fallback}
            return decision.action, decision.plan, told

        paid = None
        if after_halt is not None and knobs.plan == "never":
            steps = judge.models.task.max_episode_steps
            beyond = after_halt[steps] if steps < len(after_halt) else 0.0
            paid = after_halt[:steps] - beyond
        judgement = judge.run(compilation.function(planner.initial_plan), act, seed, paid)
        least = {"least": judgement.least.tolist()}
        if paid is not None:
            least["least_alone"] = judge.unpaid(judgement, paid).tolist()
        return judgement.numbers() | dict(judgement.decisions) | least

    return judge_one


def changed(knobs: PlannerConfig, changes: dict[str, Any]) -> PlannerConfig:
    """The knobs with the changes of a candidate."""
    now = dataclasses.replace(knobs, **changes)
    return planner_config.for_clone(now) if now.plan == "never" else now


class Comparison:
    """Candidates, what the judge says of each, and how much each gains over the clone.

    Few models agree on a difference by chance at times, so no spread of one counts for less than the
    median of all candidates' does. What the cloned episodes earned counts beyond HALT only where most
    roll-outs of a candidate halt; else HALT costs both the same.

    Attributes:
      changes: name -> knobs that differ.
    """

    def __init__(
        self,
        knobs: PlannerConfig,
        judge_one: Callable[[PlannerConfig], dict[str, Any]],
        record: RunRecord,
    ) -> None:
        """Judges the clone.

        Args:
          knobs: of the planner.
          judge_one: see `judged_by`.
          record: the run folder; stages "judged_CANDIDATE", whose results are read where they are.
        """
        self.changes: dict[str, dict[str, Any]] = {}
        self._judged: dict[str, dict[str, Any]] = {}
        self._differences: dict[str, Array] = {}  # from the clone, [M, E]
        self._knobs = knobs
        self._judge_one = judge_one
        self._record = record
        self._of_clone: dict[bool, Array] = {}  # whether it is paid beyond HALT -> [M, E]
        self.add(CLONE, {"plan": "never"})

    def add(self, name: str, changes: dict[str, Any]) -> None:
        """Judges a candidate."""
        stage = self._record.stage(f"judged_{name}")
        if not stage.complete:
            stage.finish(self._judge_one(changed(self._knobs, changes)))
        numbers = dict(stage.result)
        least = np.array(numbers.pop("least"))  # [M, E]
        alone = np.array(numbers.pop("least_alone", least))  # [M, E]
        if name == CLONE:
            self._of_clone = {True: least, False: alone}
        else:
            by_episodes = numbers["halted_share"] > MOSTLY_HALTED
            self._differences[name] = least - self._of_clone[by_episodes]
        self.changes[name] = changes
        self._judged[name] = numbers
        logging.info(
            "choice: %.1f promised of %s, gain over the clone %.1f or more",
            numbers["promise"],
            name,
            self.gain(name),
        )

    def changed(self, changes: dict[str, Any]) -> PlannerConfig:
        """The knobs of a candidate with these changes."""
        return changed(self._knobs, changes)

    def knows(self, changes: dict[str, Any]) -> bool:
        """Whether a planner with the same knobs was judged."""
        knobs = self.changed(changes)
        return any(self.changed(each) == knobs for each in self.changes.values())

    def gain(self, name: str) -> float:
        """Over the clone, see `judge.gain`; of the clone 0."""
        if name == CLONE:
            return 0.0
        usual = np.median([spread_of(difference) for difference in self._differences.values()])
        return gain(self._differences[name], float(usual))

    def judged(self) -> dict[str, dict[str, Any]]:
        """Name -> the judge's numbers, and "gain"."""
        return {name: each | {"gain": self.gain(name)} for name, each in self._judged.items()}

    def best(self, *, planner: bool = False) -> str:
        """The candidate that gains most; the first one wins ties.

        Args:
          planner: whether the clone does not count.
        """
        names = [name for name in self.changes if not (planner and name == CLONE)]
        best = names[0]
        for name in names[1:]:
            if self.gain(name) > self.gain(best):
                best = name
        return best


def compare_more(comparison: Comparison, minutes: float) -> None:
    """Judges each of MORE on top of the best planner so far.

    Args:
      comparison: with a planner in it.
      minutes: a candidate that would not be done by then, if it took as long as the longest before,
        is not begun.
    """
    began, longest = time.monotonic(), 0.0
    for changes, _ in MORE if minutes else ():
        best, now = comparison.best(planner=True), time.monotonic()
        of_candidate = comparison.changes[best] | changes
        if comparison.knows(of_candidate):
            continue
        if "q_proposals" in changes and not comparison.changed(of_candidate).max_q:
            continue
        if now - began + longest > 60.0 * minutes:
            logging.info("choice: %s is left for another time", changes)
            continue
        comparison.add(
            "_".join(f"{k}_{v}" for k, v in of_candidate.items() if k != "plan"), of_candidate
        )
        longest = max(longest, time.monotonic() - now)


def choose_or_load(
    knobs: PlannerConfig,
    judge_one: Callable[[PlannerConfig], dict[str, Any]],
    record: RunRecord,
    more_minutes: float = 0.0,
) -> dict[str, Any]:
    """Judges the candidates, or reads what was chosen; a killed run judges only what is missing.

    Args:
      knobs: of the planner; `plan` says which candidates there are, and whether there is a choice.
      judge_one: see `judged_by`.
      record: the run folder; stages "judged_CANDIDATE" and "choice".
      more_minutes: for MORE, where there is a choice.

    Returns:
      "chosen", the candidate that gains most over the clone, which stays where none surely gains;
      "knobs", its changes; "changes", see `Comparison`; "candidates", see `judged`.
    """
    stage = record.stage(STAGE)
    if stage.complete:
        return stage.result
    comparison, chosen = Comparison(knobs, judge_one, record), CLONE
    if knobs.plan == "always":
        chosen = "planner"
        comparison.add(chosen, {"plan": "always"})
    elif knobs.plan == "auto":
        if knobs.max_q:
            comparison.add("max_q", {"plan": "always"})
        comparison.add("no_max_q", {"plan": "always", "max_q": False})
        if knobs.sigma_max:
            best = comparison.changes[comparison.best(planner=True)]
            comparison.add("half_sigma", best | {"sigma_max": 0.5 * knobs.sigma_max})
            # Where actions were held in the data, their own spread lets a planner change nothing.
            if knobs.sigma_max < 0.5 * PAPER_SIGMA:
                comparison.add("paper_sigma", best | {"sigma_max": PAPER_SIGMA})
        compare_more(comparison, more_minutes)
        chosen = comparison.best()
        logging.info("choice: %s", chosen)
    result = {
        "chosen": chosen,
        "knobs": comparison.changes[chosen],
        "changes": comparison.changes,
        "candidates": comparison.judged(),
    }
    return stage.finish(result, 0.0)  # the candidates' own stages have the time


def promise_or_load(
    knobs: PlannerConfig,
    judge_one: Callable[[PlannerConfig], dict[str, Any]],
    chosen: dict[str, Any],
    record: RunRecord,
    judge_clone: Callable[[PlannerConfig], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the judge says of whole episodes of the chosen candidate, or reads it.

    Args:
      knobs: of the planner.
      judge_one: see `judged_by`, of a judge `to_the_end`.
      chosen: see `choose_or_load`.
      record: the run folder; stage "promise".
      judge_clone: the same, with what its episodes earn beyond HALT.

    Returns:
      The judge's numbers, and where the clone is chosen its "worth" and "worth_centre", see
      `clones.Chosen`.
    """
    stage = record.stage(PROMISE)
    if stage.complete:
        return stage.result
    planner = changed(knobs, chosen["knobs"])
    numbers = judge_one(planner)
    for name in ("least", "least_alone"):
        numbers.pop(name, None)
    if judge_clone is not None and chosen["chosen"] == CLONE:
        of_clone = judge_clone(planner)
        numbers["worth"] = of_clone["promise"]
        numbers["worth_centre"] = float(np.mean(of_clone["least"]))
    logging.info("promise: %.1f for whole episodes of %s", numbers["promise"], chosen["chosen"])
    return stage.finish(numbers)
