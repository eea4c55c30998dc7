"""The knobs of planning, MOPP's and MBOP's; `config.STAGES` lists them among a run's.

Sources: see config.py.
"""

from __future__ import annotations

import dataclasses

from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Planner: guided roll-outs, pruning, averaging."""

    plan: str = knob(
        "auto",
        "always: plan; never: act by the clone, the mean of the behaviour members' modes; auto: the "
        "planner that gains most over the clone by the judge (whole, without max-Q, or with half of "
        "sigma_M), the clone where none surely gains; always without a judge.",
        choices=("auto", "always", "never"),
    )
    population: int = knob(100, "Candidate trajectories N.", low=1, source="run_planning.sh")
    horizon: int = knob(4, "Steps planned ahead H.", low=1, high=1000, source="run_planning.sh")
    sigma_max: float | None = knob(
        None,
        "sigma_M: largest standard deviation of a proposal, before the squash; 0: the model's own in "
        "each state; none: the median of those in held-out rows, at most 0.25.",
        low=0.0,
        source="paper sec. 4.2",
    )
    noise: str = knob(
        "before",
        "Where the boosted noise enters: before the squash (authors) or after it (clipped).",
        choices=("before", "after"),
        source="mopp_agent.py",
    )
    proposals: str = knob(
        "modes",
        "Dimensions of a proposal are drawn around the modes of the earlier ones (authors), or "
        "given the earlier draws (ancestral).",
        choices=("modes", "ancestral"),
        source="mopp_agent.py",
    )
    max_q: bool = knob(True, "Keep the best of the proposals by Q; off: one proposal, no Q.")
    q_proposals: int = knob(
        3,
        "Proposals per step and candidate K_Q; the paper has 10.",
        low=1,
        source="a prototype fell with ten draws and one Q network, not with three and two",
    )
    q_of_proposals: str = knob(
        "min",
        "Q of a proposal: the twins' minimum, their mean, or the first network (authors).",
        choices=("min", "mean", "first"),
        source="mopp_agent.py",
    )
    plan_mix: float = knob(
        0.0,
        "beta: share of the previous plan in an action.",
        low=0.0,
        high=1.0,
        source="run_planning.sh",
    )
    inverse_temperature: float = knob(
        3.0,
        "kappa of the weighted average; inf: the best candidate alone.",
        low=0.0,
        source="paper sec. 4.4",
        infinite=True,
    )
    temperature_units: str = knob(
        "relative",
        "kappa acts on returns divided by their standard deviation among the kept (relative), or "
        "on returns (absolute: authors).",
        choices=("relative", "absolute"),
    )
    terminal_value: bool = knob(True, "Add the value of the last state.", source="mopp_agent.py")
    value_noise: str = knob(
        "common",
        "The actions that value last states have one noise for all candidates (common), so that states "
        "alone tell them apart, or each candidate its own (own: authors).",
        choices=("common", "own"),
        source="mopp_agent.py: own",
    )
    planner_termination: str = knob(
        "task",
        "A predicted termination ends a candidate's rewards and value (task), or not (none: "
        "authors).",
        choices=("task", "none"),
    )
    planner_reward: str = knob(
        "auto",
        "The reward of a candidate's steps: models, what the dynamics models predict (the paper); "
        "task, the task's own, declared or learned apart; auto: the models' unless they miss more than "
        "one per cent of the variance of held-out rewards and the task's misses less.",
        choices=("auto", "models", "task"),
        source="dmsd-own of the bench: the models know the states and half of the reward",
        older="models",
    )
    prune: bool = knob(True, "Prune uncertain trajectories.")
    uncertainty_limit: float = knob(
        0.0, "L; 0: the quantile below, of held-out data.", low=0.0, source="run_planning.sh"
    )
    uncertainty_quantile: float = knob(
        0.9,
        "Quantile of held-out disagreement that L is set to.",
        low=0.0,
        high=1.0,
        source="mopp_agent.py",
    )
    uncertainty_units: str = knob(
        "delta",
        "Disagreement in standardised changes, or in raw states with scaled reward (authors).",
        choices=("delta", "raw"),
    )
    least_kept: float = knob(
        0.2,
        "N_m / N: with fewer survivors the fallback chooses.",
        low=0.0,
        high=1.0,
        source="mopp_agent.py",
    )
    fallback: str = knob(
        "fill",
        "Too few survivors: fill up with the least uncertain (paper), or replace all by the N_m "
        "least uncertain (authors).",
        choices=("fill", "replace"),
        source="paper sec. 4.3; mopp_agent.py",
    )
    planner_precision: str = knob(
        "auto",
        "Products in planning and export: float32, bfloat16, or auto (bfloat16 where this CPU has "
        "it); an export for another machine may want float32.",
        choices=shared_knobs.PRECISIONS,
    )
    uncertainty_penalty: float = knob(
        0.0,
        "lambda: reward taken per unit of disagreement, the whole of it, in steps above L, where the "
        "fallback is used.",
        low=0.0,
        high=1e9,
        source="mopp_agent.py",
    )

    def __post_init__(self) -> None:
        """Checks the bounds, and what excludes each other."""
        check(self)
        if self.noise == "after" and self.proposals == "ancestral":
            raise UserError("--noise: expected before with --proposals=ancestral, got after")
        if self.uncertainty_penalty and not self.prune:
            raise UserError(
                "--uncertainty_penalty: expected 0 with --noprune, which knows no limit L, got "
                f"{self.uncertainty_penalty:g}"
            )

    @property
    def least(self) -> int:
        """N_m, at least 1."""
        return max(1, round(self.least_kept * self.population))


@dataclasses.dataclass(frozen=True)
class ChoiceConfig:
    """Choice: how the judge compares planners with their clone."""

    judge_plan_starts: int = knob(
        6,
        "States that each model of the judge rolls a planner out from: starts of episodes, and as many "
        "in the middle of held-out ones.",
        low=2,
    )
    judge_plan_steps: int = knob(
        200, "Steps of these roll-outs; a decision takes milliseconds a row.", low=1
    )
    select: str = shared_knobs.select_knob("horizons, temperatures, values and spreads are judged")
    select_minutes: float = shared_knobs.select_minutes_knob()
    judge_promise_starts: int = knob(
        4,
        "Starts of episodes from which each model rolls the chosen planner out up to the time limit, "
        "for its promise; of the clone, which is quick, all --judge_starts.",
        low=2,
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class MbopConfig:
    """MBOP: its own knobs (used with --algorithm=mbop)."""

    mbop_sigma: float = knob(
        0.1, "Standard deviation of the noise on actions.", low=0.0, source="mbop_agent.py sweep"
    )
    mbop_mix: float = knob(0.0, "beta: share of the previous plan in an action.", low=0.0, high=1.0)
    mbop_horizon: int = knob(
        8,
        "Steps planned ahead, and rewarded in the value network's targets; in place of --horizon.",
        low=1,
        high=1000,
        source="development on hopper-medium-ours, seed 101",
    )
    mbop_inverse_temperature: float = knob(
        0.3,
        "kappa; in place of --inverse_temperature.",
        low=0.0,
        source="development on hopper-medium-ours, seed 101",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


def for_clone(planner: PlannerConfig) -> PlannerConfig:
    """The planner's knobs where nothing is planned: the clone's own path is the only candidate."""
    return dataclasses.replace(planner, plan="never", population=1, max_q=False)


def for_mbop(planner: PlannerConfig, mbop: MbopConfig) -> PlannerConfig:
    """The planner's knobs as MBOP acts on them: horizon and temperature are its own."""
    return dataclasses.replace(
        planner, horizon=mbop.mbop_horizon, inverse_temperature=mbop.mbop_inverse_temperature
    )
