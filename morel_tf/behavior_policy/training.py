"""Trains a behaviour policy in the real simulator; the binary and the tests call it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from absl import logging

from morel_tf.behavior_policy.sampler import OnlineSampler
from morel_tf.config import BehaviorConfig, PlannerConfig
from morel_tf.planning import npg_planner, policy_update
from offline_tf import tasks
from offline_tf.config import knobs
from offline_tf.datasets.formats import d4rl
from offline_tf.evaluation import policy_episodes
from offline_tf.models import compilation
from offline_tf.numerics import seeds
from offline_tf.policies import gaussian as policy_file
from offline_tf.policies.gaussian import raw_units
from offline_tf.run_folder import files, stopping
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import Array, SimulationSpec, TaskSpec, Transitions, UserError

_CHECKPOINTS = 20
_FREE_FLAGS = ("workdir", "threads")
_MEASURED_EPISODES = 100


def run(config: BehaviorConfig) -> dict[str, Any]:
    """Runs, or continues, the training.

    A checkpoint and a weight file are written every 5 % of num_steps; the final policy is
    policy.npz. Each file holds its policy's return, measured over 100 episodes with stochastic
    actions, and the command that makes exactly this policy.

    Args:
      config: the knobs.

    Returns:
      The summary, as in summary.json.

    Raises:
      UserError: bad input; nothing is written.
    """
    task = tasks.get(config.env)
    if not isinstance(task.simulation, SimulationSpec):
        raise UserError(
            f"--env: expected one of {', '.join(tasks.ROBOTS)}, which our own simulator trains, got "
            f"{config.env}"
        )
    settings = PlannerConfig(
        init_log_std=config.init_log_std,
        min_log_std=config.min_log_std,
        baseline_epochs=5,
        baseline_batch_size=512,
        baseline_weight_decay=0.0,
        cg_iterations=10,
    )
    folder = pathlib.Path(
        config.workdir or f"runs/behavior-{tasks.short_name(config.env)}-seed{config.seed}"
    )
    flags = dataclasses.asdict(config)
    defaults = knobs.of_older_runs([config])
    old = RunRecord.check_folder(folder, "behavior", flags, _FREE_FLAGS, defaults)
    if old is None and config.save_transitions and pathlib.Path(config.save_transitions).exists():
        raise UserError(f"--save_transitions: {config.save_transitions} exists; it is not replaced")
    threads = compilation.use_threads(config.threads)
    record = RunRecord.create_or_continue(folder, "behavior", flags, _FREE_FLAGS, defaults)
    record.note(module="morel_tf.train_behavior")
    record.note_commit()
    if (folder / "summary.json").exists():
        logging.info("%s is finished", folder)
        if config.save_transitions and not pathlib.Path(config.save_transitions).exists():
            finished = files.read_json(folder / "summary.json", "workdir")
            transitions = _Blocks(folder / "transitions").joined()
            d4rl.write(pathlib.Path(config.save_transitions), transitions, None, finished)
        return files.read_json(folder / "summary.json", "workdir")
    units = raw_units(task, settings.policy_velocity_scale)
    policy = npg_planner.new_policy(units, settings, config.seed)
    baseline = npg_planner.new_baseline(raw_units(task), settings, config.seed)
    natural_gradient = npg_planner.new_natural_gradient(policy, settings)
    simulator = Simulator(task, config.physics, config.simulators, threads)
    sampler = OnlineSampler(simulator, seeds.generator(config.seed, "behavior/start"))
    stage = record.stage("training")
    block_steps = config.simulators * config.steps_per_update
    updates = max(1, -(-config.num_steps // block_steps))
    every = max(1, updates // _CHECKPOINTS)
    state = _StateFile(folder / "sampler")
    stage.track([*policy.weights, *baseline.state])
    first = stage.restore()
    if first:
        sampler.restore(state.load(first))
    blocks = _Blocks(folder / "transitions") if config.save_transitions else None
    if blocks is not None:
        blocks.forget_after(first)
    for update in range(first, updates):
        if _reached(config, sampler):
            break
        stream = seeds.generator(config.seed, "behavior/sample", update)
        paths, physical = sampler.sample(policy.numpy(), config.steps_per_update, stream)
        if blocks is not None:
            blocks.add(update, task, simulator.task.max_episode_steps, paths, physical)
        try:
            report = policy_update.update(
                paths,
                natural_gradient=natural_gradient,
                baseline=baseline,
                discount=config.discount,
                gae_lambda=config.gae_lambda,
                kl_per_update=config.kl_per_update,
                generator=seeds.generator(config.seed, "behavior/baseline", update),
                bootstrap_targets=True,
            )
        except FloatingPointError as error:
            raise UserError(
                f"{stage.name}: {error} in update {update + 1}; try another --seed, or a smaller "
                "--kl_per_update, in another --workdir"
            ) from None
        done = update + 1
        recent = float(np.mean(sampler.recent_returns)) if sampler.recent_returns else 0.0
        stage.log(done, {"return": recent, "steps": sampler.steps, **dataclasses.asdict(report)})
        stage.progress(done, updates, "updates", f"return {recent:.1f}")
        is_due = done % every == 0 or done == updates or _reached(config, sampler)
        is_saved = is_due or stopping.asked()
        if is_saved:
            state.save(done, sampler.state())
        if is_due:
            about = _describe(
                config,
                task=task,
                policy=policy.numpy(),
                steps=sampler.steps,
                record=record,
                threads=threads,
            )
            policy_file.save(folder / "policies" / f"{sampler.steps}.npz", policy.numpy(), about)
        if is_saved:
            stage.save(done)
    return _finish(
        config,
        task=task,
        policy=policy.numpy(),
        sampler=sampler,
        record=record,
        blocks=blocks,
        threads=threads,
    )


def _reached(config: BehaviorConfig, sampler: OnlineSampler) -> bool:
    recent = sampler.recent_returns
    full = len(recent) == recent.maxlen
    if not full or config.target_return is None:
        return False
    return float(np.mean(recent)) >= config.target_return


def _describe(
    config: BehaviorConfig,
    *,
    task: TaskSpec,
    policy: policy_file.NumpyPolicy,
    steps: int,
    record: RunRecord,
    threads: int,
) -> dict[str, Any]:
    """What a policy's file says about it."""
    kinds = {
        name: policy_episodes.evaluate(
            policy,
            task=task,
            physics=config.physics,
            episodes=_MEASURED_EPISODES,
            stochastic=name == "stochastic",
            seed=config.seed,
            name="behavior",
            threads=threads,
        )
        for name in ("stochastic", "mean")
    }
    # num_steps decides about nothing but the end, so a checkpoint is the end of a shorter run.
    until = dataclasses.replace(config, num_steps=steps, target_return=None)
    command_flags = " ".join(
        f"--{field.name}={getattr(until, field.name)}"
        for field in dataclasses.fields(until)
        if field.name in ("env", "seed")
        or (
            field.name not in (*_FREE_FLAGS, "save_transitions")
            and getattr(until, field.name) != field.default
        )
    )
    return {
        "env": config.env,
        "physics": config.physics,
        "seed": config.seed,
        "steps": steps,
        "mean_return": kinds["stochastic"].mean,
        "std_return": kinds["stochastic"].std,
        "mean_action_return": kinds["mean"].mean,
        "episodes": _MEASURED_EPISODES,
        "command": f"python -m morel_tf.train_behavior {command_flags}",
        "commit": record.commits,
    }


def _finish(
    config: BehaviorConfig,
    *,
    task: TaskSpec,
    policy: policy_file.NumpyPolicy,
    sampler: OnlineSampler,
    record: RunRecord,
    blocks: _Blocks | None,
    threads: int,
) -> dict[str, Any]:
    summary = _describe(
        config, task=task, policy=policy, steps=sampler.steps, record=record, threads=threads
    )
    policy_file.save(record.folder / "policy.npz", policy, summary)
    if blocks is not None:
        d4rl.write(pathlib.Path(config.save_transitions), blocks.joined(), None, summary)
    write_json(record.folder / "summary.json", summary)
    logging.info("%s", json.dumps(summary, indent=2))
    return summary


class _StateFile:
    """The sampler's state beside the checkpoints, one file per update that has a checkpoint."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def save(self, update: int, state: dict[str, Array]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "partial.npz"
        np.savez(partial, **state)  # type: ignore[arg-type]
        partial.replace(self._folder / f"{update}.npz")

    def load(self, update: int) -> dict[str, Array]:
        return files.read_arrays(self._folder / f"{update}.npz", "workdir")


class _Blocks:
    """Transitions seen in training, one file per update until the end joins them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def forget_after(self, update: int) -> None:
        for path in self._folder.glob("*.npz"):
            if not path.stem.isdigit() or int(path.stem) >= update:
                path.unlink()

    def add(
        self,
        update: int,
        task: TaskSpec,
        limit: int,
        paths: policy_update.Paths,
        physical: dict[str, Array],
    ) -> None:
        over = paths.terminated | (paths.times + 1 >= limit)
        partial = self._folder / "partial.npz"
        np.savez(
            partial,
            observations=paths.observations,
            actions=task.clip_actions(paths.actions),
            rewards=paths.rewards.astype(np.float32),
            next_observations=paths.next_observations,
            terminals=paths.terminated,
            timeouts=over & ~paths.terminated,
            **physical,  # type: ignore[arg-type]
        )
        partial.replace(self._folder / f"{update:08d}.npz")

    def joined(self) -> Transitions:
        """All steps of simulator 0, then of simulator 1, ...; a piece cut at the end is a timeout."""
        paths = sorted(self._folder.glob("*.npz"))
        blocks = [files.read_arrays(path, "workdir") for path in paths]
        columns = {}
        for name in blocks[0]:
            block = np.concatenate([arrays[name] for arrays in blocks])
            columns[name] = np.ascontiguousarray(np.swapaxes(block, 0, 1))
        columns["timeouts"][:, -1] |= ~columns["terminals"][:, -1]
        return Transitions(**{k: v.reshape(-1, *v.shape[2:]) for k, v in columns.items()})
