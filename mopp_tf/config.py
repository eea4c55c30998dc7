"""All knobs of a run: one frozen dataclass per stage, each field with help, bounds and source.

Those of planning stand in planner_config.py, those of another objective in control_config.py.

Sources: "paper" is arXiv 2105.07351; file names are those of its authors' TF 1.15 code.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mopp_tf.planner_config import ChoiceConfig, MbopConfig, PlannerConfig
from offline_tf.config import shared_knobs
from offline_tf.config.judge_config import JudgeConfig
from offline_tf.config.knobs import check, knob


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run: task, data, folder, evaluation."""

    env: str = shared_knobs.env_knob()
    physics: str = shared_knobs.physics_knob("the paper, D4RL")
    simulator: str = shared_knobs.simulator_knob()
    preset: str = knob(
        "default",
        "Set of knob values for the task and data set; flags that you give win over it. default: rules "
        "that follow from your data, and on the kinds with -ours tuned; rules: on all data; tuned: "
        "constants chosen on those kinds; authors: their published settings, with another "
        "implementation's where there are none, and with --algorithm=mbop MOPP's members and steps; "
        "authors-20k: the same with 20,000 steps. Tasks of yours have default and rules only, which "
        "are the same there.",
    )
    algorithm: str = knob(
        "mopp",
        "What plans: mopp, or mbop (Argenson & Dulac-Arnold 2021), for comparison.",
        choices=("mopp", "mbop"),
    )
    seed: int = shared_knobs.seed_knob()
    workdir: str = knob("", "Run folder; empty: runs/ALGORITHM-ENV-DATASET-PRESET-seedN.")
    dataset: str = shared_knobs.dataset_knob("medium-ours")
    columns: tuple[str, ...] = shared_knobs.columns_knob()
    observation_keys: tuple[str, ...] = shared_knobs.observation_keys_knob()
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
    devices: str = shared_knobs.devices_knob()
    compile: str = shared_knobs.compile_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_devices(self.devices)


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
        (256, 256),
        "Hidden widths of the shared encoder (ReLU); authors: 500.",
        low=1,
        source="development on hopper-medium-ours, seed 100 (docs/results/chosen.md)",
    )
    latent_dim: int = knob(
        64,
        "Width of the encoding that the heads see; 0 (authors): 2 A for behaviour, S for dynamics, "
        "through which little passes where there are few observations.",
        low=0,
        source="networks.py: 0",
    )
    head_hidden: tuple[int, ...] = knob(
        (64,),
        "Hidden widths of each head (ReLU); authors: 200,100.",
        low=1,
        source="development on hopper-medium-ours, seed 100: with a wide encoding small heads do",
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
    holdout_share: float | None = shared_knobs.holdout_share_knob("reporting and thresholds")
    patience: int | None = knob(
        None,
        "Stop fitting after this many looks at held-out rows (one per 1000 steps) without a better "
        "one, and keep the best; none: 5 where rows are held out; 0: never. Not of Q.",
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
    dynamics_steps: int = knob(
        8_000, "Adam steps at most (authors: 500000); a cut for time.", low=1
    )
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

    behavior_share: float | None = knob(
        None,
        "Share of the episodes that the model is fitted to, those with the highest returns first; "
        "none: that of 1, 1/2, 1/4, 1/10 whose clone is worth most to the judge, a smaller one by 5 % "
        "at least; all without a judge.",
        low=0.0,
        high=1.0,
    )
    behavior_members: int = knob(3, "Ensemble members K' (authors: 6 on Hopper).", low=1)
    behavior_steps: int = knob(
        10_000,
        "Adam steps at most (authors: 500000).",
        low=1,
        source="hopper-narrow of the bench: the clone has 2659 after 5,000 steps, 2684 after 12,000",
    )
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

    q_hidden: tuple[int, ...] = knob(
        (256, 256), "Hidden widths (ReLU); authors: 500,500.", low=1, source="as encoder_hidden"
    )
    q_steps: int = knob(
        10_000,
        "Adam steps (authors: 500000); enough at the target rate and return steps of the defaults.",
        low=1,
    )
    discount: float = knob(0.99, "gamma.", low=0.0, high=1.0, source="mopp_agent.py")
    target_rate: float = knob(
        0.02,
        "Share of the way that target networks move per step; authors: 0.005.",
        low=0.0,
        high=1.0,
        source="development: with 0.005 so few steps leave Q far from its fixed point",
    )
    q_return_steps: int = knob(
        10,
        "Logged steps whose rewards enter the target before it bootstraps; more than the authors' 1 "
        "converge in fewer steps.",
        low=1,
        high=1000,
        source="development: held-out correlation of Q with what followed is 0.88 with 1, 0.93 with 10",
    )
    fqe_actions: str = knob(
        "auto",
        "Next actions of the target: the logged ones (data: authors), draws from the behaviour model "
        "(behavior), or these only where that is fitted to a share of the episodes (auto).",
        choices=("auto", "data", "behavior"),
        source="mopp_agent.py",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


STAGES: tuple[Any, ...] = (
    RunConfig,
    ModelConfig,
    DynamicsConfig,
    JudgeConfig,
    BehaviorConfig,
    QConfig,
    PlannerConfig,
    ChoiceConfig,
    MbopConfig,
)
