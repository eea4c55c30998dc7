"""Line 5 of MOReL's Algorithm 1: natural policy gradient in the pessimistic MDP."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import PlannerConfig
from morel_tf.planning import pessimistic_mdp, policy_update
from morel_tf.planning.judged import Keeper
from morel_tf.planning.natural_gradient import NaturalGradient
from morel_tf.planning.pessimistic_mdp import PessimisticMdp, RollOut
from morel_tf.planning.policy_update import Paths
from morel_tf.planning.value_baseline import ValueBaseline
from morel_tf.planning.watch import Watch
from offline_tf import tasks
from offline_tf.judging.judge import Judge, Judgement
from offline_tf.models import compilation
from offline_tf.numerics import returns, seeds
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy, Units, data_units, raw_units
from offline_tf.run_folder import stopping
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, UserError

_SAVE_EVERY = 5
WIDTHS = ((64, 64), (256, 256))  # of policies, where --policy_hidden says nothing
_WIDE = 128


def units_of(task: TaskSpec, config: PlannerConfig, inputs: Statistics) -> Units:
    """What policy and value baseline work in; see PlannerConfig.policy_units.

    Args:
      task: bounds, velocities.
      config: the knobs.
      inputs: of the dynamics models, [S + A].
    """
    if config.policy_units == "data" or (
        config.policy_units == "auto" and task.name not in tasks.ROBOTS
    ):
        return data_units(task, Statistics(*(part[: task.state_dim] for part in inputs)))
    return raw_units(task, config.policy_velocity_scale)


def widths_of(config: PlannerConfig) -> tuple[tuple[int, ...], ...]:
    """Hidden widths that a policy may have, narrowest first: those given, or `WIDTHS`."""
    return (config.policy_hidden,) if config.policy_hidden else WIDTHS


def new_policy(
    units: Units, config: PlannerConfig, seed: int, hidden: tuple[int, ...] = ()
) -> GaussianPolicy:
    """Returns a random policy; its noise is --init_log_std or the least.

    Args:
      units: of its inputs and outputs.
      config: the noise, and the hidden widths.
      seed: of the weights.
      hidden: widths, where the configuration leaves them open; empty: the narrowest.
    """
    log_std = config.least_log_std if config.init_log_std is None else config.init_log_std
    return GaussianPolicy(
        units, hidden or widths_of(config)[0], log_std, seeds.generator(seed, "policy/init")
    )


def new_baseline(units: Units, config: PlannerConfig, seed: int) -> ValueBaseline:
    """Returns a fresh value baseline of the configured shape."""
    return ValueBaseline(
        units,
        hidden=config.baseline_hidden,
        learning_rate=config.baseline_learning_rate,
        weight_decay=config.baseline_weight_decay,
        epochs=config.baseline_epochs,
        batch_size=config.baseline_batch_size,
        generator=seeds.generator(seed, "baseline/init"),
    )


def new_natural_gradient(policy: GaussianPolicy, config: PlannerConfig) -> NaturalGradient:
    """Returns the natural gradient step with the configured settings.

    Without --min_log_std a policy that begins with less noise than the usual least may keep it.
    """
    least = np.full(policy.log_std.shape, config.least_log_std, np.float32)
    if config.min_log_std is None:
        least = np.minimum(least, policy.log_std.numpy() - np.log(policy.units.output_scale))
    return NaturalGradient(
        policy,
        cg_iterations=config.cg_iterations,
        cg_damping=config.cg_damping,
        fisher_share=_fisher_share(policy, config),
        min_log_std=least,
        max_log_std=config.max_log_std,
    )


def _fisher_share(policy: GaussianPolicy, config: PlannerConfig) -> float:
    if config.fisher_share is not None:
        return config.fisher_share
    return 0.05 if max(policy.hidden, default=0) > _WIDE else 0.25


def annealed_kl(config: PlannerConfig, iteration: int) -> float:
    """KL per update at an iteration (from 0): falls linearly to its final share."""
    progress = iteration / max(config.iterations, 1)
    return config.kl_per_update * (1.0 - (1.0 - config.kl_final_share) * progress)


def to_paths(block: RollOut) -> Paths:
    """Gives a roll-out the form that the update takes: numpy, with ends marked."""
    arrays = RollOut(*(x.numpy() for x in block))
    valid = arrays.valid
    last = valid & ~np.concatenate([valid[1:], np.zeros_like(valid[:1])])  # [T, K]
    times = np.broadcast_to(np.arange(len(valid), dtype=np.float32)[:, None], valid.shape)
    return Paths(
        observations=arrays.observations,
        actions=arrays.actions,
        rewards=arrays.rewards,
        next_observations=arrays.next_observations,
        times=np.ascontiguousarray(times),
        terminated=arrays.terminated,
        ended=last,
        valid=valid,
    )


def path_returns(block: RollOut) -> Array:
    """[K] undiscounted returns of a block's paths."""
    return np.where(block.valid.numpy(), block.rewards.numpy(), 0.0).sum(axis=0)


def path_statistics(block: RollOut) -> dict[str, float]:
    """Numbers of a block that catch most errors: P-MDP return, HALT share and step, disagreement."""
    valid, unknown = block.valid.numpy(), block.unknown.numpy()  # [H, K]
    halted = unknown.any(axis=0)  # [K]
    lengths = valid.sum(axis=0)  # [K]
    disagreement = block.disagreement.numpy()[valid]
    return {
        "pmdp_return": float(path_returns(block).mean()),
        "halt_share": float(halted.mean()),
        "halt_step": float(lengths[halted].mean()) if halted.any() else float(len(valid)),
        "path_length": float(lengths.mean()),
        "disagreement_mean": float(disagreement.mean()),
        "disagreement_max": float(disagreement.max()),
    }


def baseline_in(pmdp: PessimisticMdp, config: PlannerConfig, seed: int) -> ValueBaseline:
    """A new baseline in the units of the P-MDP's states, velocities scaled by its own knob."""
    scaled = dataclasses.replace(config, policy_velocity_scale=config.baseline_velocity_scale)
    return new_baseline(units_of(pmdp.task, scaled, pmdp.ensemble.inputs), config, seed)


def path_sampler(
    pmdp: PessimisticMdp, policy: GaussianPolicy, first_rows: Array, states: Array, seed: int
) -> Callable[[int], RollOut]:
    """Returns iteration -> fresh paths [T, K], cut after the last step of the longest.

    Every member drives `paths_per_member` paths, all members from the same start states.

    Args:
      pmdp, policy, first_rows, states, seed: see `plan`.
    """
    size = pmdp.ensemble.size
    members = np.repeat(np.arange(size, dtype=np.int32), pmdp.config.paths_per_member)  # [K]
    groups = 2 if len(members) % 2 == 0 else 1
    whole = compilation.compiler() == "xla"

    def in_groups(
        first: Tensor, member: Tensor, noise_seed: Tensor, rows: Tensor | None = None
    ) -> RollOut:
        return pessimistic_mdp.roll_out_in_groups(
            pmdp,
            policy=policy,
            starts=first,
            member=member,
            seed=noise_seed,
            rows=rows,
            groups=groups,
            whole=whole,
        )

    roll_out = compilation.compiled(in_groups, in_parts=True)

    def sample(iteration: int) -> RollOut:
        chosen = pessimistic_mdp.start_rows(
            first_rows, len(states), pmdp, seeds.generator(seed, "planning/starts", iteration)
        )
        block = roll_out(
            tf.constant(np.tile(states[chosen].astype(np.float32), (size, 1))),
            tf.constant(members),
            seeds.stateless(seed, "planning/actions", iteration),
            None if pmdp.given is None else tf.constant(np.tile(chosen, size).astype(np.int32)),
        )
        steps = int(block.valid.numpy().any(axis=1).sum())
        return RollOut(*(column[:steps] for column in block))

    return sample


def log_promise_beside_truth(
    stage: Stage, block: RollOut, members: int, true: dict[str, float], done: int
) -> None:
    """Logs what the P-MDP promised beside what the simulator returned, and distributions.

    Args:
      stage: of planning.
      block: the update's paths, [T, K].
      members: M; their paths from one start are no independent draws.
      true: numbers of the evaluation.
      done: updates.
    """
    by_start = path_returns(block).reshape(members, -1).mean(axis=0)
    promised = returns.with_interval("pmdp_return", by_start)
    stage.log(done, promised | true, "evaluation")
    valid = block.valid.numpy()  # [T, K]
    stage.histograms(
        done,
        {
            "path_return": path_returns(block),
            "path_length": valid.sum(axis=0),
            "disagreement": block.disagreement.numpy()[valid],
            "action": block.actions.numpy()[valid],
        },
    )


def _progress_note(numbers: dict[str, float], true: dict[str, float]) -> str:
    shown = {"P-MDP return": numbers["pmdp_return"], "HALT share": numbers["halt_share"]}
    shown |= {k: v for k, v in true.items() if not k.endswith(("_low", "_high"))}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def plan(
    pmdp: PessimisticMdp,
    *,
    policy: GaussianPolicy,
    first_rows: Array,
    states: Array,
    config: PlannerConfig,
    seed: int,
    stage: Stage,
    evaluate: Callable[[NumpyPolicy, int], dict[str, float]],
    keep_paths: Callable[[RollOut, int], None] = lambda block, iteration: None,
    judge: Judge | None = None,
    worth: Callable[[], Judgement] | None = None,
) -> dict[str, float]:
    """Improves the policy in the P-MDP; goes on from the stage's last checkpoint.

    With a judge the policy is kept that --judge_keeps names, and planning may end early; see `Keeper`.

    Args:
      pmdp: where to plan.
      policy: changed in place.
      first_rows: [E], of the data's episodes.
      states: [N, S] of the data.
      config: the knobs.
      seed: of start states, actions and minibatches, one stream per iteration.
      stage: where checkpoints and metrics go.
      evaluate: (policy, iteration) -> numbers for the log, empty where nothing is due.
      keep_paths: (paths, iteration), told of every update's paths.
      judge: decides which policy is kept; None: the last one is.
      worth: what the clone is worth that planning begins with, see `start.worth_of`; None: its
        episodes do not speak for it.

    Returns:
      Of the final policy: numbers of fresh paths in the P-MDP, see `path_statistics`; "iterations" that
      were done; with a judge "kept_iteration" and its numbers, see `Judgement.numbers`, and the "gain"
      over the clone, see `Keeper.take_best_or_first`.

    Raises:
      UserError: an update is not finite; checkpoints from before are kept.
    """
    baseline = baseline_in(pmdp, config, seed)
    natural_gradient = new_natural_gradient(policy, config)
    sample = path_sampler(pmdp, policy, first_rows, states, seed)
    keeper, watched = Keeper(policy, config, worth), Watch()
    stage.track([*policy.weights, *baseline.state, *(keeper.variables if judge else [])])
    first = stage.restore()
    if stage.complete:
        return dict(stage.result)

    def update(block: RollOut, iteration: int, kl: float) -> policy_update.UpdateReport:
        try:
            return policy_update.update(
                to_paths(block),
                natural_gradient=natural_gradient,
                baseline=baseline,
                discount=config.discount,
                gae_lambda=config.gae_lambda,
                kl_per_update=kl,
                generator=seeds.generator(seed, "planning/baseline", iteration),
            )
        except FloatingPointError as error:
            raise UserError(
                f"{stage.name}: {error} in iteration {iteration + 1}; look at the data with "
                "offline_tf.datasets.doctor and at the task's reward function, or lower "
                "--kl_per_update, then train in another --workdir"
            ) from None

    def look(done: int) -> None:
        if judge is not None:
            stage.log(done, keeper.look(judge, done), "judge")

    if not first:
        look(0)
    done = first
    for iteration in range(first, config.iterations):
        if keeper.is_over:
            break
        done = iteration + 1
        kl = annealed_kl(config, iteration) * keeper.kl_share
        block = sample(iteration)
        report = update(block, iteration, kl)
        numbers = path_statistics(block) | dataclasses.asdict(report) | {"kl_target": kl}
        stage.log(done, numbers)
        for words in watched.look(numbers | {"return_spread": float(path_returns(block).std())}):
            logging.warning("%s: %s", stage.name, words)
        if true := evaluate(policy.numpy(), done):
            log_promise_beside_truth(stage, block, pmdp.ensemble.size, true, done)
        keep_paths(block, done)
        stage.progress(done, config.iterations, "iterations", _progress_note(numbers, true))
        if done % config.judge_every == 0 or done == config.iterations:
            look(done)
        if done % _SAVE_EVERY == 0 or done == config.iterations or stopping.asked():
            stage.save(done)
    final: dict[str, float] = {"iterations": done}
    if judge is not None:
        kept = keeper.take_best_or_first(judge)
        final |= {"kept_iteration": kept.iteration, "gain": kept.gain}
        judged = kept.judgement.numbers()
        told = ("expected", "models_apart", "halted_share", "limits_broken")
        final |= {name: judged[name] for name in told if name in judged}
        final["promise"] = kept.promise
    final = path_statistics(sample(config.iterations)) | final
    if judge is not None:  # last, so that nothing is left to do once the best policy is on disk
        stage.save(done, may_stop=False, number=done + 1)
    return dict(stage.finish(final))
