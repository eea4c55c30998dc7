"""Makes data in the simulator: the five exploration settings of MOReL, section 5.

Source: Kidambi et al. 2020, section 5; Wu et al. 2019. Noisy sets are 40 % behaviour policy, 40 %
noisy behaviour policy and 20 % uniform random actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from offline_tf.numerics.seeds import generator as named_generator
from offline_tf.policies.foreign import ForeignPolicy
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec, Transitions

AnyPolicy = NumpyPolicy | ForeignPolicy
COMPONENTS = ("policy", "eps1", "eps3", "gauss1", "gauss3", "random")
_NOISE = {"eps1": 0.1, "eps3": 0.3, "gauss1": 0.1, "gauss3": 0.3}


@dataclasses.dataclass(frozen=True)
class Collected:
    """A collected data set.

    Attributes:
      transitions: in episode order.
      log_probs: [N] float32, log density of the drawn (unclipped) action under the episode's
        component; NaN where the component acts without noise.
      components: [N] uint8, index into COMPONENTS of the row's episode.
    """

    transitions: Transitions
    log_probs: Array
    components: Array


def budget(exploration: str, num_steps: int) -> dict[str, int]:
    """Returns component -> number of steps; they add up to num_steps."""
    if exploration == "pure":
        return {"policy": num_steps}
    if exploration == "random":
        return {"random": num_steps}
    pure, uniform = int(0.4 * num_steps), int(0.2 * num_steps)
    return {"policy": pure, exploration: num_steps - pure - uniform, "random": uniform}


def draw_actions(
    component: str,
    *,
    task: TaskSpec,
    policy: AnyPolicy | None,
    stochastic: bool,
    observations: Array,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Draws actions of one component.

    Args:
      component: one of COMPONENTS.
      task: for the bounds.
      policy: the behaviour policy; None only for "random". The density of a foreign one is unknown.
      stochastic: whether the behaviour policy draws from its Gaussian or acts by its mean.
      observations: [B, S].
      generator: draws.

    Returns:
      Unclipped actions [B, A] and log densities [B]; NaN where there is none.
    """
    count = len(observations)
    uniform_log_density = -float(np.log(task.action_high - task.action_low).sum())
    uniform = generator.uniform(task.action_low, task.action_high, (count, task.action_dim))
    uniform = uniform.astype(np.float32)
    if component == "random":
        return uniform, np.full(count, uniform_log_density)
    assert policy is not None
    if isinstance(policy, NumpyPolicy):
        mean = policy.mean(observations)
        std = np.exp(policy.log_std) if stochastic else np.zeros_like(policy.log_std)
    else:
        mean = policy.act(observations, generator, stochastic)
        std = np.zeros(task.action_dim, np.float32)
    if component.startswith("gauss"):
        std = np.sqrt(std**2 + _NOISE[component] ** 2)
    actions = mean + std * generator.standard_normal(mean.shape, dtype=np.float32)
    noise = _NOISE[component] if component.startswith("eps") else 0.0
    replaced = generator.uniform(size=count) < noise
    actions = np.where(replaced[:, None], uniform, actions).astype(np.float32)
    if not std.all() or not isinstance(policy, NumpyPolicy):
        return actions, np.full(count, np.nan)
    z = (actions - mean) / std
    log_density = -0.5 * np.sum(z * z + np.log(2 * np.pi), axis=1) - np.log(std).sum()
    if noise:
        inside = np.all((actions >= task.action_low) & (actions <= task.action_high), axis=1)
        uniform_part = np.where(inside, np.log(noise) + uniform_log_density, -np.inf)
        log_density = np.logaddexp(np.log1p(-noise) + log_density, uniform_part)
    return actions, log_density


class _Recorder:
    """Columns of a block of simulators in step order, cut into episodes afterwards."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Array]] = {}

    def add(self, **values: Array) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def stacked(self) -> dict[str, Array]:
        return {name: np.stack(values) for name, values in self.columns.items()}


def _collect_component(
    component: str,
    *,
    simulator: environments.AnySimulator,
    policy: AnyPolicy | None,
    stochastic: bool,
    num_steps: int,
    generator: np.random.Generator,
    progress: Callable[[int], None],
) -> list[dict[str, Array]]:
    """Runs whole episodes until num_steps are there; returns the episodes, the last one cut.

    Episodes are numbered when they start and kept in that order, so that short ones, which end
    first, are not over-represented.
    """
    task, count = simulator.task, simulator.count
    simulator.reset(generator)
    recorder = _Recorder()
    number = np.arange(count)
    started = np.zeros(count, np.int64)
    finished: dict[int, tuple[int, int, int]] = {}
    contiguous, length, step = 0, 0, 0
    while length < num_steps:
        observations = simulator.observations()
        drawn, log_probs = draw_actions(
            component,
            task=task,
            policy=policy,
            stochastic=stochastic,
            observations=observations,
            generator=generator,
        )
        actions = task.clip_actions(drawn)
        qpos, qvel = simulator.qpos.copy(), simulator.qvel.copy()
        rewards, terminated = simulator.step(actions)
        recorder.add(
            observations=observations,
            actions=actions,
            rewards=rewards.astype(np.float32),
            next_observations=simulator.observations(),
            terminals=terminated,
            qpos=qpos,
            qvel=qvel,
            log_probs=log_probs.astype(np.float32),
        )
        step += 1
        ended = terminated | (simulator.elapsed >= task.max_episode_steps)
        for k in np.flatnonzero(ended):
            finished[int(number[k])] = (int(k), int(started[k]), step)
            number[k] = number.max() + 1
            started[k] = step
        simulator.reset(generator, ended)
        if ended.any():
            while contiguous in finished:
                length += finished[contiguous][2] - finished[contiguous][1]
                contiguous += 1
        # Between what is kept, which waits for whole episodes, and what was stepped.
        progress((min(length, num_steps) + min(step * count, num_steps)) // 2)
    columns = recorder.stacked()
    if not columns["qpos"].shape[2]:  # an environment that does not tell its physical state
        del columns["qpos"], columns["qvel"]
    episodes, remaining = [], num_steps
    for index in range(contiguous):
        path, start, end = finished[index]
        end = int(min(end, start + remaining))
        episode = {name: values[start:end, path] for name, values in columns.items()}
        episode["timeouts"] = np.zeros(end - start, bool)
        episode["timeouts"][-1] = not episode["terminals"][-1]
        episodes.append(episode)
        remaining -= end - start
        if not remaining:
            break
    return episodes


def collect(
    task: TaskSpec,
    *,
    physics: str,
    policy: AnyPolicy | None,
    exploration: str,
    num_steps: int,
    seed: int,
    stochastic: bool = True,
    simulators: int = 128,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Collects a data set.

    Args:
      task: the task.
      physics: "v2", "v4" or "v5".
      policy: the behaviour policy; None only for exploration "random".
      exploration: one of names.EXPLORATIONS.
      num_steps: N.
      seed: the same seed gives the same data on one machine.
      stochastic: whether the behaviour policy draws from its Gaussian.
      simulators: how many run together; part of what the seed means.
      threads: of the simulators; does not change the data.
      progress: called with the steps done, roughly, after each step of the simulators.

    Returns:
      The transitions with actions clipped to the bounds, episodes of all components shuffled.
    """
    simulator = environments.make_simulator(
        task, physics, min(simulators, max(1, num_steps // 100)), threads
    )
    episodes: list[dict[str, Array]] = []
    codes: list[int] = []
    done_before = 0

    def report(done: int) -> None:
        if progress:
            progress(done_before + done)

    for component, steps in budget(exploration, num_steps).items():
        if not steps:
            continue
        stream = named_generator(seed, f"collect/{task.name}/{exploration}/{component}")
        component_episodes = _collect_component(
            component,
            simulator=simulator,
            policy=policy,
            stochastic=stochastic,
            num_steps=steps,
            generator=stream,
            progress=report,
        )
        episodes += component_episodes
        codes += [COMPONENTS.index(component)] * len(component_episodes)
        done_before += steps
    order = named_generator(seed, f"collect/{task.name}/{exploration}/order")
    permutation = order.permutation(len(episodes))

    def column(name: str) -> Array:
        return np.concatenate([episodes[i][name] for i in permutation])

    components = np.concatenate(
        [np.full(len(episodes[i]["rewards"]), codes[i], np.uint8) for i in permutation]
    )
    names = [f.name for f in dataclasses.fields(Transitions) if f.name in episodes[0]]
    transitions = Transitions(**{name: column(name) for name in names})
    return Collected(transitions, column("log_probs"), components)
