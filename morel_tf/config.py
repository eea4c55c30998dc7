"""All knobs of MOReL: one frozen dataclass per stage, each field with help, bounds and source."""

from __future__ import annotations

import dataclasses
from typing import Any

from offline_tf.config import shared_knobs
from offline_tf.config.judge_config import JudgeConfig
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.names import EXPLORATIONS
from offline_tf.types import UserError


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run: task, data, folder, evaluation."""

    env: str = shared_knobs.env_knob()
    physics: str = shared_knobs.physics_knob("both papers, D4RL")
    simulator: str = shared_knobs.simulator_knob()
    preset: str = knob(
        "default",
        "Set of knob values for the task; flags that you give win over it. default: rules that follow "
        "from your data, and on the kinds with -ours tuned; rules: on all data; tuned: constants "
        "chosen on those kinds; paper: near the paper, gaps filled from other implementations; "
        "authors: what their published code has for D4RL's hopper-medium; fast: Hopper in seven "
        "minutes; quick: Hopper in five.",
    )
    seed: int = shared_knobs.seed_knob()
    workdir: str = knob(
        "",
        "Run folder; empty: runs/morel-ENV-PRESET-seedN, for other data than the default's "
        "runs/morel-ENV-DATA-PRESET-seedN; naive_mbrl instead of morel without a detector.",
    )
    dataset: str = shared_knobs.dataset_knob("", if_empty="make --exploration's")
    columns: tuple[str, ...] = shared_knobs.columns_knob()
    observation_keys: tuple[str, ...] = shared_knobs.observation_keys_knob()
    exploration: str = knob(
        "pure",
        "Kind of data to make when --dataset is empty: the paper's five, and random.",
        choices=EXPLORATIONS,
        source="paper sec. 5",
    )
    data_steps: int = shared_knobs.data_steps_knob(twice_for="medium-expert", source="paper sec. 5")
    data_dir: str = shared_knobs.data_dir_knob()
    dynamics_from: str = knob(
        "", "Run folder whose fitted dynamics are taken over; data and dynamics flags must agree."
    )
    eval_every: int = knob(
        25,
        "Planner iterations between evaluations in the real simulator (for the log only); a fifth of "
        "that in the last tenth of the iterations.",
        low=1,
    )
    eval_episodes: int = knob(20, "Episodes per evaluation during planning.", low=1)
    final_episodes: int = knob(100, "Episodes of the final evaluation.", low=1)
    select: str = shared_knobs.select_knob(
        "steps, thresholds, starts and noises are planned with, on the same models,"
    )
    select_minutes: float = shared_knobs.select_minutes_knob()
    inspection: bool = shared_knobs.inspection_knob()
    threads: int = shared_knobs.threads_knob()
    devices: str = shared_knobs.devices_knob()
    compile: str = shared_knobs.compile_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_devices(self.devices)


@dataclasses.dataclass(frozen=True)
class DynamicsConfig:
    """Dynamics: the ensemble of Gaussian models."""

    ensemble_size: int = knob(
        4, "Ensemble members M.", low=1, high=64, source="run_morel.py configs"
    )
    dynamics_hidden: tuple[int, ...] = knob(
        (),
        "Hidden widths of each member (ReLU); empty: 256,256 for less than 500,000 rows, which takes "
        "a third of the time, else 512,512.",
        low=1,
        source="run_morel.py configs: 512,512",
    )
    dynamics_epochs: int = knob(
        0, "Passes over the data; 0: --dynamics_steps, ended early by --dynamics_patience.", low=0
    )
    dynamics_steps: int | None = knob(
        None,
        "Adam steps at most, with --dynamics_epochs=0; none: forty passes over the data, but at least "
        "15000 and at most 50000.",
        low=1,
    )
    dynamics_patience: int = knob(
        10_000,
        "With --dynamics_epochs=0 the fit ends after so many Adam steps without a lower held-out "
        "error, and the best weights are kept; 0: it never does.",
        low=0,
    )
    dynamics_batch_size: int = knob(
        256, "Rows per minibatch.", low=1, source="d4rl_hopper_medium.txt"
    )
    dynamics_learning_rate: float = knob(1e-3, "Adam's first learning rate.", low=0.0)
    dynamics_final_rate_share: float = knob(
        0.0,
        "Last learning rate as a share of the first, reached along a cosine.",
        low=0.0,
        high=1.0,
    )
    covariance: str = knob(
        "fixed",
        "Sigma of the Gaussian: identity in standardised deltas, or a learned diagonal.",
        choices=("fixed", "learned"),
    )
    scale: str = knob(
        "std",
        "Spread used to standardise: std (paper) or mad (authors).",
        choices=("std", "mad"),
        source="paper sec. 5; nn_dynamics.py",
    )
    velocities: str = knob(
        "restored",
        "What the models see where observations clip velocities: observed, or restored true ones.",
        choices=("observed", "restored"),
    )
    holdout_share: float | None = shared_knobs.holdout_share_knob("reporting and thresholds")
    precision: str = shared_knobs.precision_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class UsadConfig:
    """USAD: the unknown state-action detector."""

    threshold_rule: str = knob(
        "auto",
        "Threshold of the disagreement: auto (a --cut_share of held-out episodes meets HALT); over all "
        "of the data beta (mean + beta * std), max (max / coef), quantile; or none (naive "
        "model-based RL).",
        choices=("auto", "beta", "max", "quantile", "none"),
        source="paper appendix, from memory; run_morel.py",
    )
    cut_share: float = knob(
        0.1,
        "Of the auto rule: share of held-out episodes that may be above the threshold, before its "
        "margin, when they are walked with their own actions.",
        low=0.0,
        high=1.0,
    )
    threshold_margin: float = knob(1.5, "Factor on the threshold of the auto rule.", low=0.0)
    beta: float = knob(
        5.0,
        "beta of the beta rule; a threshold above all of the data is cut to their maximum, as in the "
        "paper.",
        low=0.0,
        source="paper's grid 0..25, from memory",
    )
    pessimism_coef: float = knob(1.0, "coef of the max rule.", low=1e-6, source="run_morel.py")
    threshold_quantile: float = knob(
        0.999, "Quantile of the quantile rule, a share.", low=0.0, high=1.0
    )
    disagreement_space: str = knob(
        "delta",
        "Units of the disagreement: standardised deltas, the observation's own units, or the "
        "authors' (velocities times 0.02).",
        choices=("delta", "observation", "authors"),
        source="gym_hopper.py",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class PmdpConfig:
    """Pessimistic MDP: HALT, start states, roll-outs."""

    halt: str = knob(
        "absorbing",
        "At an unknown pair: absorbing (pay once, and the data's mean cost for the steps left; "
        "terminate), or truncate (the authors' code: no "
        "penalty, and where there is a detector no termination flag, for HALT and for falls).",
        choices=("absorbing", "truncate"),
        source="paper sec. 4; model_based_npg.py",
    )
    halt_offset: float = knob(
        50.0,
        "Reward of HALT below the data's least reward, in reward units.",
        low=0.0,
        source="JVP15/MOReL, stated as the paper's for Hopper",
    )
    horizon: int = knob(
        1000, "Longest path in the model, steps; not beyond the task's time limit.", low=1
    )
    paths_per_member: int = knob(20, "Paths per update and ensemble member.", low=1)
    start_mix: float | None = knob(
        None,
        "Share of start states drawn from all data instead of episode starts; none: 0, and 1 of a "
        "plant's log, whose pieces begin anywhere.",
        low=0.0,
        high=1.0,
    )
    rollout_noise: str = knob(
        "none",
        "Roll-outs follow the mean, or sample the Gaussian.",
        choices=("none", "sample"),
        source="nn_dynamics.py: none",
    )
    model_actions: str = knob(
        "clipped",
        "What the models get for an action that the policy draws beyond its bounds: the bound "
        "(clipped: what a robot executes), or the draw (drawn: authors).",
        choices=("clipped", "drawn"),
        source="sampling.py: drawn",
    )
    rollout_precision: str = knob(
        "float32",
        "The models' products in roll-outs: float32, bfloat16, or auto (bfloat16 where the CPU has "
        "it); the detector is calibrated in float32.",
        choices=shared_knobs.PRECISIONS,
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class CloningConfig:
    """Behaviour cloning: the planner's start."""

    bc_share: float | None = knob(
        None,
        "Share of the episodes that are cloned, those with the highest returns first; none: that of 1, "
        "1/2, 1/4, 1/10 whose clone is worth most to the judge, a smaller one by 5 % at least; all "
        "without a judge.",
        low=0.0,
        high=1.0,
    )
    bc_steps: int = knob(
        10_000, "Adam steps, with --bc_epochs=0; 0 starts from a random policy.", low=0
    )
    bc_restarts: int = knob(
        2,
        "Rounds at most after --bc_steps, each twice as long as the one before and begun at the whole "
        "learning rate, while the last one lowered the held-out error; none with --bc_epochs, or where "
        "no rows are held out.",
        low=0,
        high=6,
        older=0,
    )
    bc_loss: str = knob(
        "censored",
        "Of an action that stands at its bound: censored, the clone's mean may lie beyond, as what is "
        "executed is the bound; or squared, it shall be there.",
        choices=("squared", "censored"),
        source="behavior_cloning.py: squared",
        older="squared",
    )
    bc_held_out: str = knob(
        "always",
        "Rows that say when a clone's fit ends and how wide the first noise is: those of the cloned "
        "episodes that are held out (split), or where there are none those of every tenth cloned "
        "episode (always). With --bc_epochs, and where nothing is held out, all are cloned.",
        choices=("always", "split"),
        older="split",
    )
    bc_epochs: int = knob(
        0, "Passes over the data; 0: --bc_steps (authors: 5).", low=0, source="run_morel.py"
    )
    bc_batch_size: int = knob(256, "Rows per minibatch.", low=1, source="run_morel.py")
    bc_learning_rate: float = knob(
        1e-3, "Adam's learning rate.", low=0.0, source="behavior_cloning.py"
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Planner: model-based natural policy gradient."""

    iterations: int = knob(400, "Policy updates.", low=1)
    policy_hidden: tuple[int, ...] = knob(
        (),
        "Hidden widths of the policy (tanh); empty: 64,64, or 256,256 where a clone so wide misses "
        "held-out actions by 2 % less. Where no rows are held out for clones: 64,64.",
        low=1,
        source="gaussian_mlp.py: 64,64",
    )
    policy_velocity_scale: float = knob(
        0.1,
        "Factor on the velocities that the policy sees, where they are raw.",
        low=0.0,
        source="gym_hopper.py: 0.02",
    )
    baseline_velocity_scale: float = knob(
        1.0,
        "The same for the value baseline.",
        low=0.0,
        source="gym_hopper.py: 0.02",
    )
    policy_units: str = knob(
        "auto",
        "What policy and value baseline work in: raw (authors: the task's own units), data "
        "(observations standardised by the data, actions in halves of their range), or auto (raw for "
        "the four robots, data for other tasks).",
        choices=("auto", "raw", "data"),
        source="gaussian_mlp.py: raw",
    )
    init_log_std: float | None = knob(
        None,
        "First log standard deviation of the actions, in their --policy_units; none: that of the "
        "data around their clone, within the two bounds below.",
    )
    min_log_std: float | None = knob(
        None,
        "Least log standard deviation, in the same units (authors: -2); none: -3, or that of the data "
        "around their clone where it is less.",
        source="hopper_v3_morel.txt",
    )
    max_log_std: float = knob(
        1.0, "Greatest log standard deviation, in the same units.", source="gaussian_mlp.py"
    )
    discount: float = knob(0.999, "gamma.", low=0.0, high=1.0, source="authors' configs")
    gae_lambda: float = knob(0.97, "lambda of GAE.", low=0.0, high=1.0, source="authors' configs")
    kl_per_update: float = knob(
        0.015,
        "Mean KL per update, nats (the authors' normalized step is twice this).",
        low=0.0,
        source="authors' configs: 0.01",
    )
    kl_final_share: float = knob(
        0.0, "Last KL per update as a share of the first, reached linearly.", low=0.0, high=1.0
    )
    cg_iterations: int = knob(20, "Conjugate gradient steps.", low=1, source="authors' configs")
    cg_damping: float = knob(
        1e-3, "Added to the Fisher matrix.", low=0.0, source="authors' configs"
    )
    judge_every: int = knob(
        10, "Updates between judgements, where there is a judge (--judge_members).", low=1
    )
    judge_keeps: str = knob(
        "gain",
        "The policy that planning keeps: the one that likely gains most over the clone (gain: one "
        "comparison in three may show less), or that is promised most (promise: one in twenty).",
        choices=("gain", "promise"),
        older="promise",
    )
    judge_patience: int = knob(
        50,
        "After so many updates without a better policy, see --judge_keeps, the best one is taken up "
        "again and the KL per update halved, --judge_halvings times; then planning ends.",
        low=1,
    )
    judge_halvings: int = knob(1, "How often; 0 ends planning at the first time.", low=0, high=20)
    fisher_share: float | None = knob(
        None,
        "Share of the samples that Fisher-vector products use; none: 0.25, and 0.05 of a policy wider "
        "than 128, whose products take longer.",
        low=1e-3,
        high=1.0,
    )
    baseline_hidden: tuple[int, ...] = knob(
        (128, 128), "Hidden widths of the value baseline (ReLU).", low=1, source="mlp_baseline.py"
    )
    baseline_learning_rate: float = knob(
        1e-3, "Adam's learning rate for the baseline.", low=0.0, source="run_morel.py"
    )
    baseline_weight_decay: float = knob(1e-3, "L2 of the baseline.", low=0.0, source="run_morel.py")
    baseline_epochs: int = knob(
        1, "Passes over the samples per update.", low=1, source="run_morel.py"
    )
    baseline_batch_size: int = knob(256, "Rows per minibatch.", low=1, source="run_morel.py")

    def __post_init__(self) -> None:
        """Checks the bounds, and that the noise starts within its own."""
        check(self)
        least = self.least_log_std
        first = least if self.init_log_std is None else self.init_log_std
        if not least <= first <= self.max_log_std:
            raise UserError(
                f"--init_log_std: expected a number between --min_log_std and --max_log_std "
                f"({least:g}, {self.max_log_std:g}), got {first:g}"
            )

    @property
    def least_log_std(self) -> float:
        """--min_log_std, or what it is where the data ask for no less."""
        return -3.0 if self.min_log_std is None else self.min_log_std


STAGES: tuple[Any, ...] = (
    RunConfig,
    DynamicsConfig,
    UsadConfig,
    PmdpConfig,
    JudgeConfig,
    CloningConfig,
    PlannerConfig,
)


@dataclasses.dataclass(frozen=True)
class BehaviorConfig:
    """Behaviour policy: natural policy gradient in the real simulator."""

    env: str = shared_knobs.env_knob()
    physics: str = shared_knobs.physics_knob()
    seed: int = knob(0, "Random seed.", low=0, high=2**31 - 1)
    target_return: float | None = knob(
        None, "Stop when the mean return of the last 100 episodes (stochastic actions) is there."
    )
    num_steps: int = knob(5_000_000, "Stop after this many environment steps.", low=1)
    workdir: str = knob("", "Run folder; empty: runs/behavior-ENV-seedN.")
    save_transitions: str = knob("", "HDF5 file for every transition seen; empty: not saved.")
    simulators: int = knob(64, "Simulators that run together.", low=1)
    steps_per_update: int = knob(160, "Control steps per simulator and update.", low=2)
    kl_per_update: float = knob(0.02, "Mean KL per update, nats.", low=0.0)
    init_log_std: float = knob(-0.3, "First log standard deviation of the actions.")
    min_log_std: float = knob(-1.2, "Least log standard deviation; higher explores longer.")
    discount: float = knob(0.995, "gamma.", low=0.0, high=1.0)
    gae_lambda: float = knob(0.97, "lambda of GAE.", low=0.0, high=1.0)
    threads: int = shared_knobs.threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
