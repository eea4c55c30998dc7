"""All knobs of MOPP: one frozen dataclass per stage, each field with help, bounds and source.

Sources: "paper" is arXiv 2105.07351; file names are those of its authors' TF 1.15 code.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run: task, data, folder, evaluation."""

    env: str = shared_knobs.env_knob()
    physics: str = shared_knobs.physics_knob("the paper, D4RL")
    simulator: str = shared_knobs.simulator_knob()
    preset: str = knob(
        "default",
        "Set of knob values for the task and data set; flags that you give win over it. default: "
        "what works best here; authors: their published settings, with another implementation's where "
        "there are none, and with --algorithm=mbop MOPP's members and steps; authors-20k: the same "
        "with 20,000 steps. Tasks of yours have the default one only.",
    )
    algorithm: str = knob(
        "mopp",
        "What plans: mopp, or mbop (Argenson & Dulac-Arnold 2021), for comparison.",
        choices=("mopp", "mbop"),
    )
    seed: int = shared_knobs.seed_knob()
    workdir: str = knob("", "Run folder; empty: runs/ALGORITHM-ENV-DATASET-PRESET-seedN.")
    dataset: str = shared_knobs.dataset_knob("medium-ours")
    data_steps: int = shared_knobs.data_steps_knob(twice_for="medium-expert")
    data_dir: str = shared_knobs.data_dir_knob()
    models_from: str = knob(
        "",
        "Run folder whose fitted models are taken over; data and model flags must agree, but those of "
        "MOPP's Q need not: with others Q is fitted anew.",
    )
    eval_episodes: int = knob(
        20, "Episodes of the final evaluation, in one batch.", low=1, source="train_eval_planning"
    )
    inspection: bool = shared_knobs.inspection_knob()
    threads: int = shared_knobs.threads_knob()
    compile: str = shared_knobs.compile_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Models: what behaviour and dynamics networks share."""

    network: str = knob(
        "adm",
        "adm: autoregressive heads; mlp: independent outputs (ablation).",
        choices=("adm", "mlp"),
    )
    conditioning: str = knob(
        "teacher",
        "Heads are fitted on the true earlier dimensions (teacher: the paper's density) or on the "
        "model's own modes (mode: the authors' code).",
        choices=("teacher", "mode"),
        source="networks.py",
    )
    encoder_hidden: tuple[int, ...] = knob(
        (500,), "Hidden widths of the shared encoder (ReLU).", low=1, source="run_planning.sh"
    )
    latent_dim: int = knob(
        64,
        "Width of the encoding that the heads see; 0 (authors): 2 A for behaviour, S for dynamics, "
        "through which little passes where there are few observations.",
        low=0,
        source="networks.py: 0",
    )
    head_hidden: tuple[int, ...] = knob(
        (200, 100), "Hidden widths of each head (ReLU).", low=1, source="run_planning.sh"
    )
    mlp_hidden: tuple[int, ...] = knob(
        (500, 500),
        "Hidden widths of --network=mlp (ReLU); 350,350 has about as many weights as the ADM of "
        "the default presets.",
        low=1,
    )
    normalize: bool = knob(True, "Standardise inputs and dynamics targets (the authors do not).")
    batch_size: int = knob(512, "Rows per minibatch.", low=1, source="run_planning.sh")
    learning_rate: float = knob(1e-3, "Adam's first learning rate.", low=0.0, source="networks.py")
    final_rate_share: float = knob(
        0.0,
        "Last learning rate as a share of the first, reached along a cosine (authors: 1).",
        low=0.0,
        high=1.0,
    )
    weight_decay: float = knob(
        1e-5, "Factor of ||kernels||^2 in the losses.", low=0.0, source="mopp_agent.py"
    )
    holdout_share: float = shared_knobs.holdout_share_knob("reporting and thresholds")
    patience: int = knob(
        0,
        "Stop fitting after this many looks at held-out rows (one per 1000 steps) without a better "
        "one, and keep the best; 0: never. Not of Q.",
        low=0,
    )
    precision: str = shared_knobs.precision_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class DynamicsConfig:
    """Dynamics: ensemble of densities of the next state and the reward."""

    dynamics_members: int = knob(3, "Ensemble members K.", low=1, source="run_planning.sh, d_list")
    dynamics_orders: tuple[int, ...] = knob(
        (),
        "Which of the six orderings published for Hopper, one per member; empty: made from the "
        "seed.",
        low=0,
        high=5,
        source="run_planning.sh",
    )
    dynamics_steps: int = knob(20_000, "Adam steps (authors: 500000).", low=1)
    targets: str = knob(
        "delta",
        "Predict the change of the state (delta), or the next state itself (absolute: authors).",
        choices=("delta", "absolute"),
        source="get_offline_data.py",
    )
    reward_scaling: str = knob(
        "range",
        "Rewards of models and Q: none; range: divided by their range; minmax: to [0, 1] (authors; "
        "takes the alive bonus away).",
        choices=("none", "range", "minmax"),
        source="get_offline_data.py",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class BehaviorConfig:
    """Behaviour: ensemble of densities of the action."""

    behavior_members: int = knob(3, "Ensemble members K' (authors: 6 on Hopper).", low=1)
    behavior_steps: int = knob(20_000, "Adam steps (authors: 500000).", low=1)
    components: int = knob(
        1, "Gaussians per action dimension; more are an extension of the paper.", low=1, high=16
    )
    return_weighting: float = knob(
        0.0,
        "Weight of an episode's rows exp(w * standardised return), an extension; 0: all alike.",
        low=0.0,
        high=10.0,
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class QConfig:
    """Q: fitted Q evaluation of the behaviour policy."""

    q_hidden: tuple[int, ...] = knob((500, 500), "Hidden widths (ReLU).", low=1, source="networks")
    q_steps: int = knob(20_000, "Adam steps (authors: 500000).", low=1)
    discount: float = knob(0.99, "gamma.", low=0.0, high=1.0, source="mopp_agent.py")
    target_rate: float = knob(
        0.005, "Share of the way that target networks move per step.", low=0.0, high=1.0
    )
    q_return_steps: int = knob(
        1,
        "Logged steps whose rewards enter the target before it bootstraps; more than the authors' 1 "
        "converge in fewer steps.",
        low=1,
        high=1000,
        source="mopp_agent.py",
    )
    fqe_actions: str = knob(
        "data",
        "Next actions of the target: the logged ones (authors), or draws from the behaviour model.",
        choices=("data", "behavior"),
        source="mopp_agent.py",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Planner: guided roll-outs, pruning, averaging."""

    population: int = knob(100, "Candidate trajectories N.", low=1, source="run_planning.sh")
    horizon: int = knob(4, "Steps planned ahead H.", low=1, high=1000, source="run_planning.sh")
    sigma_max: float = knob(
        0.25,
        "sigma_M: largest standard deviation of a proposal, before the squash; 0: the model's own.",
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
    q_proposals: int = knob(10, "Proposals per step and candidate K_Q.", low=1, source="paper")
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
        3.0, "kappa of the weighted average.", low=0.0, source="paper sec. 4.4"
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
        "float32",
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


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Control flexibility: another reward, and constraints, at run time."""

    reward: str = knob(
        "",
        "MODULE:FUNCTION of (s [B,S], a [B,A], s' [B,S]) -> reward [B], in TensorFlow; see "
        "mopp_tf/objectives.py.",
    )
    reward_mode: str = knob(
        "add",
        "Whether it is added to the learned reward or replaces it.",
        choices=("add", "replace"),
    )
    reward_arg: float | None = knob(
        None, "Number handed to the reward function; None: its default."
    )
    constraint: str = knob(
        "",
        "MODULE:FUNCTION of (s, a, s') and --constraint_arg -> violation [B], positive where broken.",
    )
    constraint_arg: float | None = knob(None, "Number handed to the constraint function.")
    constraint_mode: str = knob(
        "hard",
        "hard: candidates that break it are pruned, unless all do, and then those that break it least "
        "stay; soft: they pay --constraint_weight per unit.",
        choices=("hard", "soft"),
    )
    constraint_weight: float = knob(
        100.0, "Price of a unit of violation, soft mode.", low=0.0, high=1e9
    )
    planner: tuple[str, ...] = knob(
        (),
        "Planner knobs that differ from the run's, KNOB=VALUE,...: Q was fitted to the old reward, so "
        "another objective wants max_q=false,terminal_value=false,sigma_max=1.",
    )

    def __post_init__(self) -> None:
        """Checks the bounds and the form of the function names."""
        check(self)
        for name in ("reward", "constraint"):
            value = getattr(self, name)
            if value and value.count(":") != 1:
                raise UserError(f"--{name}: expected MODULE:FUNCTION, got {value!r}")


def for_mbop(planner: PlannerConfig, mbop: MbopConfig) -> PlannerConfig:
    """The planner's knobs as MBOP acts on them: horizon and temperature are its own."""
    return dataclasses.replace(
        planner, horizon=mbop.mbop_horizon, inverse_temperature=mbop.mbop_inverse_temperature
    )


# What MBOP takes of the planner's knobs.
_MBOP_TAKES = (
    "population",
    "temperature_units",
    "terminal_value",
    "planner_termination",
    "planner_precision",
)


def changed_planner(
    planner: PlannerConfig, mbop: MbopConfig, changes: tuple[str, ...], algorithm: str = "mopp"
) -> tuple[PlannerConfig, MbopConfig]:
    """Returns the knobs with KNOB=VALUE changes.

    Args:
      planner, mbop: the knobs so far.
      changes: each KNOB=VALUE.
      algorithm: "mopp" or "mbop": whose knobs may change.

    Raises:
      UserError: the algorithm has no such knob (the nearest is named), or a value of the wrong type or
        out of bounds.
    """
    values: dict[str, Any] = {}
    old = dataclasses.asdict(planner)
    if algorithm == "mbop":
        old = {name: old[name] for name in _MBOP_TAKES} | dataclasses.asdict(mbop)
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator or name not in old:
            near = difflib.get_close_matches(name, old, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"--planner: expected KNOB=VALUE of {algorithm}'s planner, got {change!r}{hint}"
            )
        kind = type(old[name])
        try:
            values[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(
                f"--planner: expected {name} as {kind.__name__}, got {text!r}"
            ) from None
    of_mbop = {name: value for name, value in values.items() if hasattr(mbop, name)}
    others = {name: value for name, value in values.items() if name not in of_mbop}
    return dataclasses.replace(planner, **others), dataclasses.replace(mbop, **of_mbop)


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

STAGES: tuple[Any, ...] = (
    RunConfig,
    ModelConfig,
    DynamicsConfig,
    BehaviorConfig,
    QConfig,
    PlannerConfig,
    MbopConfig,
)
