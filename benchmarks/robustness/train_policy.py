"""Trains one policy with Stable-Baselines3 and keeps checkpoints; needs no TensorFlow.

PYTHON benchmarks/robustness/train_policy.py SAC Hopper-v4 --steps=100000 --every=20000 --output=FOLDER

PYTHON is an environment with requirements-policies.txt. Checkpoints are ALGO-ENV-STEPS-seedN.zip in
FOLDER; a JSON line tells the mean return of each over ten episodes. `ship_policy` makes a checkpoint
one of the behaviour policies in policies/.

With --physics=v2 the robot of Gymnasium's -v4 environment gets the masses and margins of OpenAI Gym's
-v2; this imports offline_tf.tasks.simulator, so run it as -m benchmarks.robustness.train_policy then.

With --keep-buffer the replay buffer is saved with the last checkpoint. It holds every step of the
training, in order: D4RL's replay sets are its first steps. The same command then goes on where it was
stopped, though not with the same random numbers. Without the flag it begins anew.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

_EPISODES = 10
_CRITICS = [256, 256]


def make(algorithm: str, environment: Any, seed: int, actor: list[int], buffer: int) -> Any:
    """The algorithm with its library's defaults but for the size of the actor, and TD3's rates.

    Args:
      algorithm: SAC, TD3 or PPO.
      environment: of Gymnasium.
      seed: of everything.
      actor: hidden widths; not PPO's.
      buffer: steps that the replay buffer holds.
    """
    import numpy as np
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    common: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if algorithm == "PPO":
        return sb3.PPO("MlpPolicy", environment, **common)
    networks = {"net_arch": {"pi": actor, "qf": _CRITICS}}
    common |= {"learning_starts": 5000, "policy_kwargs": networks, "buffer_size": buffer}
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


def steps_saved(folder: pathlib.Path, name: str) -> int:
    """The steps after which checkpoint and replay buffer were saved; 0: never.

    Args:
      folder: of the checkpoints.
      name: of its files, with {} for the steps.
    """
    told = folder / f"{name.format('buffer')}.json"
    return json.loads(told.read_text())["steps"] if told.exists() else 0


def save_buffer(model: Any, folder: pathlib.Path, name: str, steps: int) -> None:
    """Writes the replay buffer beside the one before; only then that one is given up."""
    buffer, told = (folder / f"{name.format('buffer')}{end}" for end in (".pkl", ".json"))
    new = folder / f"{name.format('buffer')}.new.pkl"
    model.save_replay_buffer(new)
    told.unlink(missing_ok=True)
    new.replace(buffer)
    partial = told.with_suffix(".partial")
    partial.write_text(json.dumps({"steps": steps}))
    partial.replace(told)


def make_environment(name: str, physics: str) -> Any:
    """One of Gymnasium's environments, with OpenAI Gym's old physics if wanted.

    Args:
      name: Gymnasium id; for v2 a robot's -v4, whose observations and rewards are those of -v2.
      physics: v2, or empty for the environment's own.
    """
    import gymnasium

    environment = gymnasium.make(name)
    if physics:
        from offline_tf.tasks import simulator

        robot = name.removesuffix("-v4")
        if robot not in ("Hopper", "Walker2d", "HalfCheetah"):  # Ant's observations differ
            raise SystemExit(
                f"--physics={physics}: expected Hopper-v4, Walker2d-v4, HalfCheetah-v4"
            )
        base: Any = environment.unwrapped
        simulator.make_v2(base.model, robot)
    return environment


def main() -> None:
    """Trains."""
    import stable_baselines3
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("algorithm", choices=("SAC", "TD3", "PPO"))
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=20_000, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actor", default="128,128", help="hidden widths; D4RL's: 256,256")
    parser.add_argument("--physics", choices=("", "v2"), default="", help="v2: OpenAI Gym's")
    parser.add_argument("--keep-buffer", action="store_true", help="save all steps too")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs", "policies"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    physics = arguments.physics and f"-{arguments.physics}"
    kind = f"{arguments.algorithm}-{arguments.env}{physics}-{{}}-seed{arguments.seed}"
    environment, judge = (make_environment(arguments.env, arguments.physics) for _ in range(2))
    done = steps_saved(arguments.output, kind) if arguments.keep_buffer else 0
    if not done:
        actor = [int(width) for width in arguments.actor.split(",")]
        model = make(
            arguments.algorithm, environment, arguments.seed, actor, max(arguments.steps, 1_000_000)
        )
    else:
        found_class = getattr(stable_baselines3, arguments.algorithm)
        path = arguments.output / f"{kind.format(done)}.zip"
        model = found_class.load(path, env=environment, device="cpu")
        model.load_replay_buffer(arguments.output / f"{kind.format('buffer')}.pkl")
        print(json.dumps({"going_on_from": done}), flush=True)
    began = time.monotonic()
    while done < arguments.steps:
        model.learn(arguments.every, reset_num_timesteps=False, log_interval=None)
        done += arguments.every
        name = kind.format(done)
        model.save(arguments.output / name)
        if arguments.keep_buffer:
            save_buffer(model, arguments.output, kind, done)
        found = returns(model, judge)
        line = {
            "name": name,
            "mean": sum(found) / len(found),
            "minutes": (time.monotonic() - began) / 60.0,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
