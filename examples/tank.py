"""A plant that is no robot: two tanks in a row, from a CSV log to an exported controller.

./run.sh python examples/tank.py tank.csv       writes the log of 200 batches under a crude controller
./run.sh doctor --env=examples/tank.py:TANK --dataset=tank.csv
./run.sh train --env=examples/tank.py:TANK --dataset=tank.csv
./run.sh mopp --env=examples/tank.py:TANK --dataset=tank.csv --encoder_hidden=64 --head_hidden=32 \
    --q_hidden=64 --dynamics_steps=3000 --behavior_steps=2000 --q_steps=5000
./run.sh python examples/tank.py judge RUN/export         runs an export in the equations below

Water is pumped into the upper tank, runs into the lower one and from there to a consumer whose
demand changes. The lower level is to be kept at 0.5 m; the plant trips when the upper tank
overflows. The task below names what the log holds and the pump's bounds, and nothing else: reward
and trips are learned from the log, and no simulator is declared, so nothing but the log is used.
"""

from __future__ import annotations

import csv
import pathlib
import sys

import numpy as np

from offline_tf.types import TaskSpec

STEPS = 200
TANK = TaskSpec(
    name="tank",
    observation_names=("upper_level", "lower_level", "demand"),
    action_names=("pump",),
    action_low=np.zeros(1, np.float32),
    action_high=np.ones(1, np.float32),
    dt=5.0,
    max_episode_steps=STEPS,
)


def flow(level: float) -> float:
    """Water that leaves a tank through its pipe in a step, m."""
    return 0.1 * float(np.sqrt(max(level, 0.0)))


def step(state: np.ndarray, pump: float, noise: float) -> np.ndarray:
    """One control step of 5 s; levels in m, demand and pump in [0, 1]."""
    upper, lower, demand = state
    passed = min(flow(upper), upper)
    upper = upper + 0.12 * pump - passed
    lower = max(lower + passed - 0.1 * demand, 0.0)
    return np.array([upper, lower, np.clip(demand + noise, 0.1, 0.9)])


def reward(state: np.ndarray, pump: float) -> float:
    """What the log pays: a euro per step at the wanted level, less for deviation and for pumping."""
    return 1.0 - 4.0 * abs(state[1] - 0.5) - 0.1 * pump


def start(generator: np.random.Generator) -> np.ndarray:
    """Levels and demand at the beginning of a batch."""
    return np.array([*generator.uniform(0.2, 0.8, 2), generator.uniform(0.2, 0.8)])


def main(path: pathlib.Path, batches: int = 200, seed: int = 0) -> None:
    """Writes the log."""
    generator = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        names = TANK.observation_names
        rows.writerow(
            ["episode", *names, "pump", "reward", *(f"next_{name}" for name in names), "terminal"]
        )
        for batch in range(batches):
            state = start(generator)
            gain, wobble = generator.uniform(0.2, 2.0), 0.0
            for _ in range(STEPS):
                # The operators' controller looks at the lower level only, and is often too weak.
                wobble = 0.8 * wobble + generator.normal(0.0, 0.15)
                pump = float(np.clip(0.5 + gain * (0.5 - state[1]) + wobble, 0.0, 1.0))
                following = step(state, pump, generator.normal(0.0, 0.02))
                tripped = following[0] > 1.0
                paid = reward(following, pump) - 10.0 * tripped
                values = [*state, pump, paid, *following]
                rows.writerow([batch, *(f"{value:.6f}" for value in values), int(tripped)])
                if tripped:
                    break
                state = following


def judge(folder: pathlib.Path, batches: int = 100, seed: int = 5) -> tuple[float, int]:
    """Runs an exported controller, either algorithm's, and returns (mean return, trips)."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    generator = np.random.default_rng(seed)
    states = np.stack([start(generator) for _ in range(batches)])
    runs, returns, plan = np.ones(batches, bool), np.zeros(batches), None
    for number in range(STEPS):
        observation = tf.constant(states, tf.float32)
        if "plan" in model.signatures:
            if plan is None:
                plan = model.signatures["initial_plan"](observation=observation)["plan"]
            key = tf.constant([seed, number])
            found = model.signatures["plan"](observation=observation, plan=plan, seed=key)
            plan = found["plan"]
        else:
            found = model.signatures["serving_default"](observation=observation)
        pump = found["action"].numpy()[:, 0]
        for index in np.flatnonzero(runs):
            following = step(states[index], pump[index], generator.normal(0.0, 0.02))
            tripped = following[0] > 1.0
            returns[index] += reward(following, pump[index]) - 10.0 * tripped
            states[index], runs[index] = following, not tripped
    return float(returns.mean()), int((~runs).sum())


if __name__ == "__main__":
    if sys.argv[1:2] == ["judge"]:
        mean, trips = judge(pathlib.Path(sys.argv[2]))
        print(f"100 batches: mean return {mean:.1f}, {trips} trips")
    else:
        main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tank.csv"))
