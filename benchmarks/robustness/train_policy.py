"""Trains one policy with Stable-Baselines3 and keeps checkpoints; needs no TensorFlow.

PYTHON benchmarks/robustness/train_policy.py SAC Hopper-v4 --steps=100000 --every=20000 --output=FOLDER

PYTHON is an environment with requirements-policies.txt. Checkpoints are ALGO-ENV-STEPS-seedN.zip in
FOLDER; a JSON line tells the mean return of each over ten episodes. `ship_policy` makes a checkpoint
one of the behaviour policies in policies/.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

_EPISODES = 10
_NETWORKS = {"net_arch": {"pi": [128, 128], "qf": [256, 256]}}


def make(algorithm: str, environment: Any, seed: int) -> Any:
    """The algorithm with its library's defaults but for the size of the actor, and TD3's rates."""
    import numpy as np
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    common: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if algorithm == "PPO":
        return sb3.PPO("MlpPolicy", environment, **common)
    common |= {"learning_starts": 5000, "policy_kwargs": _NETWORKS}
    if algorithm == "SAC":
        return sb3.SAC("MlpPolicy", environment, **common)
    width = environment.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(width), 0.1 * np.ones(width))
    return sb3.TD3(
        "MlpPolicy",
        environment,
        learning_rate=1e-3,
        batch_size=256,
        train_freq=1,
        gradient_steps=1,
        action_noise=noise,
        **common,
    )


def returns(model: Any, environment: Any) -> list[float]:
    """Returns of ten episodes under mean actions."""
    found = []
    for episode in range(_EPISODES):
        observation, _ = environment.reset(seed=1000 + episode)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    return found


def main() -> None:
    """Trains."""
    import gymnasium
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("algorithm", choices=("SAC", "TD3", "PPO"))
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=20_000, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs", "policies"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = make(arguments.algorithm, gymnasium.make(arguments.env), arguments.seed)
    judge = gymnasium.make(arguments.env)
    began, done = time.monotonic(), 0
    while done < arguments.steps:
        model.learn(arguments.every, reset_num_timesteps=False, log_interval=None)
        done += arguments.every
        name = f"{arguments.algorithm}-{arguments.env}-{done}-seed{arguments.seed}"
        model.save(arguments.output / name)
        found = returns(model, judge)
        line = {
            "name": name,
            "mean": sum(found) / len(found),
            "minutes": (time.monotonic() - began) / 60.0,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
