"""Toys with numbers that can be worked out by hand, and the small things that all tests need."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf.config import DynamicsConfig, PmdpConfig
from morel_tf.planning.pessimistic_mdp import PessimisticMdp
from offline_tf.models import networks
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies.gaussian import GaussianPolicy, Units
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Transitions

DT = 0.1
PUSH = 0.5


def change(states: Array, actions: Array) -> Array:
    """The cart's true s' - s: x moves by 0.1 v, v by 0.5 a."""
    return np.stack([DT * states[..., 1], PUSH * actions[..., 0]], axis=-1)


def reward(states: Any, actions: Any, next_states: Any, physics: str = "v2") -> Any:
    """1 + x' + 0.3 v - 0.1 a^2: it tells s, a and s' apart."""
    del physics
    return 1.0 + next_states[..., 0] + 0.3 * states[..., 1] - 0.1 * actions[..., 0] ** 2


def cart(bound: float = 10.0, limit: float | None = None, **changes: Any) -> TaskSpec:
    """A cart on a line, state (x, v), one force in [-1, 1]; it falls off where |x'| > bound."""
    spec = TaskSpec(
        name="cart",
        observation_names=("x", "v"),
        action_names=("force",),
        action_low=-np.ones(1, np.float32),
        action_high=np.ones(1, np.float32),
        dt=DT,
        max_episode_steps=50,
        velocity_indices=(1,),
        reward=reward,
        termination=lambda next_states: abs(next_states[..., 0]) > bound,
        alive_bonus=1.0,
        control_cost=0.1,
        velocity_limit=limit,
        finite_difference=((1, 0),),
        reference_returns=(0.0, 50.0),
    )
    return dataclasses.replace(spec, **changes)


def transitions(
    lengths: Sequence[int] = (20,) * 6,
    seed: int = 0,
    noise: Sequence[float] = (0.0, 0.0),
    limit: float = np.inf,
) -> Transitions:
    """Random actions on the cart; odd episodes end in a terminal state, even ones by a timeout.

    Observations clip v to +-limit; qpos and qvel are x and the true v.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Array]] = {"s": [], "a": [], "n": [], "terminals": [], "timeouts": []}
    for index, length in enumerate(lengths):
        state = rng.uniform(-1.0, 1.0, 2)
        for step in range(length):
            action = rng.uniform(-1.0, 1.0, 1)
            after = state + change(state, action) + rng.normal(size=2) * noise
            last = step == length - 1
            row = (state, action, after, last and index % 2 == 1, last and index % 2 == 0)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            state = after
    s, a, n = (np.array(columns[name], np.float32) for name in "san")
    bound = np.array([np.inf, limit], np.float32)
    return Transitions(
        observations=np.clip(s, -bound, bound),
        actions=a,
        rewards=reward(s, a, n).astype(np.float32),
        next_observations=np.clip(n, -bound, bound),
        terminals=np.array(columns["terminals"], bool),
        timeouts=np.array(columns["timeouts"], bool),
        qpos=s[:, :1].astype(np.float64),
        qvel=s[:, 1:].astype(np.float64),
    )


def unrecorded(data: Transitions) -> Transitions:
    """The data without the observations after terminal rows, as files without that column give them."""
    after = np.where(data.terminals[:, None], np.float32(np.nan), data.next_observations)
    return dataclasses.replace(data, next_observations=after)


def v0_columns(data: Transitions) -> dict[str, Array]:
    """D4RL v0's columns: no next_observations."""
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    return {name: getattr(data, name) for name in names}


def identity(width: int) -> Statistics:
    """Statistics that change nothing: 1 + 1e-8 is 1 in float32."""
    return Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))


def hinged_ensemble(
    task: TaskSpec,
    gains: Sequence[float] = (0.0, 1.0),
    edge: float = 1.0,
    log_std: float | None = None,
) -> GaussianEnsemble:
    """Members that know the cart for |x| <= edge; beyond, x' of member i is off by gain * (|x| - edge).

    Their disagreement, with unit weights, is (max gain - min gain) * max(|x| - edge, 0).
    """
    covariance = "fixed" if log_std is None else "learned"
    config = DynamicsConfig(
        ensemble_size=len(gains), dynamics_hidden=(6,), covariance=covariance, precision="float32"
    )
    made = GaussianEnsemble(task, config, identity(3), identity(2), seed=0)
    # Hidden units: relu of v, -v, a, -a, x - edge, -x - edge; inputs are (x, v, a).
    first = np.zeros((3, 6), np.float32)
    first[1, :2], first[2, 2:4], first[0, 4:] = (1, -1), (1, -1), (1, -1)
    bias = np.array([0, 0, 0, 0, -edge, -edge], np.float32)
    for member, gain in zip(made.members, gains, strict=True):
        last = np.zeros((6, 2 if log_std is None else 4), np.float32)
        last[:2, 0], last[2:4, 1], last[4:, 0] = (DT, -DT), (PUSH, -PUSH), gain
        offset = np.zeros(last.shape[1], np.float32)
        offset[2:] = 0.0 if log_std is None else log_std
        for variable, value in zip(
            networks.variables(member), (first, bias, last, offset), strict=True
        ):
            variable.assign(value)
    return made


def pessimistic(
    task: TaskSpec,
    ensemble: GaussianEnsemble,
    threshold: float = np.inf,
    halt_reward: float = -7.0,
    halted_reward: float = 0.0,
    **config: Any,
) -> PessimisticMdp:
    """A P-MDP of the cart, with unit weights."""
    weights = np.ones(task.state_dim, np.float32)
    return PessimisticMdp(
        task,
        "v2",
        ensemble,
        weights,
        threshold=threshold,
        halt_reward=halt_reward,
        halted_reward=halted_reward,
        config=PmdpConfig(**config),
    )


def plain_units(state_dim: int, action_dim: int) -> Units:
    """A policy whose network sees and says what the task does."""
    states, actions = np.zeros(state_dim, np.float32), np.zeros(action_dim, np.float32)
    return Units(states, states + 1, actions, actions + 1)


def linear_policy(
    kernel: Array, bias: Sequence[float], log_std: float = -30.0, input_scale: Array | None = None
) -> GaussianPolicy:
    """mean = (scale * s) @ kernel + bias; without noise unless log_std is given."""
    kernel = np.asarray(kernel, np.float32)
    units = plain_units(*kernel.shape)
    if input_scale is not None:
        units = units._replace(input_scale=np.asarray(input_scale, np.float32))
    policy = GaussianPolicy(units, (), log_std)
    policy.weights[0].assign(kernel)
    policy.weights[1].assign(np.asarray(bias, np.float32))
    return policy


def numpy_forward(model: Any, inputs: Array) -> Array:
    """A Keras MLP in numpy, float64."""
    hidden = np.asarray(inputs, np.float64)
    kinds = {
        "relu": lambda x: np.maximum(x, 0.0),
        "tanh": np.tanh,
        "linear": lambda x: x,
    }
    for layer in model.layers:
        kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
        hidden = kinds[layer.activation.__name__](hidden @ kernel + bias)
    return hidden


def bits(variables: Sequence[tf.Variable]) -> bytes:
    """All bits of some variables."""
    return b"".join(v.numpy().tobytes() for v in variables)


def record(folder: Any, seed: int = 0) -> RunRecord:
    """A run folder without a run."""
    return RunRecord.create_or_continue(folder, "toy", {"seed": seed})


class Killed(Exception):
    """What a test raises where a run is killed."""


def dying(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, which raises Killed at its `call`-th call (from 1) before it does anything."""
    calls = 0

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return function(*args, **kwargs)

    return wrapped


class OldGym:
    """An environment with the interface of OpenAI Gym 0.23 and mujoco_py."""

    def __init__(self):
        self.unwrapped = self
        self.sim = types.SimpleNamespace(
            data=types.SimpleNamespace(qpos=np.zeros(9), qvel=np.zeros(9))
        )

    def reset(self, seed=None):
        return self._get_obs()

    def _get_obs(self):
        return np.concatenate([self.sim.data.qpos[1:], self.sim.data.qvel])

    def set_state(self, qpos, qvel):
        self.sim.data.qpos, self.sim.data.qvel = qpos, qvel

    def step(self, action):
        return self._get_obs(), 1.0, True, {}
