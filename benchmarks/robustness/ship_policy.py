"""python -m benchmarks.robustness.ship_policy ZIP NAME: makes a checkpoint a behaviour policy.

Writes policies/NAME.npz, which needs no torch, with what the file says of itself: algorithm, steps,
seed, versions, the command that trained it, and its mean return over 100 episodes in the physics where
it was trained: Gymnasium's v4, or with v2 in its name OpenAI Gym's.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import zipfile
from typing import Any

from benchmarks.robustness import behaviour, simulate
from offline_tf import tasks
from offline_tf.policies import foreign
from offline_tf.types import UserError

_PHYSICS = "v4"  # of the environment's own
_ACTOR = (128, 128)  # train_policy's
_NAME = re.compile(r"(\w+)-((\w+)-v\d+)(?:-(v2))?-(\d+)-seed(\d+)")


def about(
    path: pathlib.Path, steps_per_checkpoint: int, actor: tuple[int, ...] = _ACTOR
) -> dict[str, Any]:
    """What a checkpoint's name and its file tell.

    Args:
      path: of the checkpoint.
      steps_per_checkpoint: the training's --every.
      actor: hidden widths; PPO's are its library's.

    Raises:
      UserError: it is not called ALGO-ENV-STEPS-seedN.zip, or ALGO-ENV-v2-STEPS-seedN.zip.
    """
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise UserError(f"expected a file ALGO-ENV-STEPS-seedN.zip, got {path.name}")
    algorithm, environment, robot, physics, steps, seed = match.groups()
    # Old physics are the project's, which a script by its path does not find.
    module = "benchmarks.robustness.train_policy"
    script = f"-m {module}" if physics else f"{module.replace('.', '/')}.py"
    command = f"python {script} {algorithm} {environment}"
    command += f" --steps={steps} --every={steps_per_checkpoint} --seed={seed}"
    if actor != _ACTOR and algorithm != "PPO":
        command += f" --actor={','.join(map(str, actor))}"
    command += f" --physics={physics}" if physics else ""
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("system_info.txt").decode().splitlines()
    versions = dict(line.removeprefix("- ").split(": ", 1) for line in lines if ": " in line)
    kept = ("Python", "Stable-Baselines3", "PyTorch", "Numpy", "Gymnasium")
    return {
        "algorithm": algorithm,
        "env": robot.lower(),
        "physics": physics or _PHYSICS,
        "steps": int(steps),
        "seed": int(seed),
        "versions": {name: versions[name] for name in kept if name in versions},
        "command": command,
    }


def main() -> None:
    """Writes and tells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("zip", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--every", type=int, required=True, help="the training's --every")
    arguments = parser.parse_args()
    task = tasks.get(about(arguments.zip, arguments.every)["env"])
    policy = foreign.read_sb3(arguments.zip, task)
    told = about(arguments.zip, arguments.every, policy.hidden_widths)
    found = simulate.returns(
        lambda observations, generator: policy.act(observations, generator, False),
        task=task,
        physics=told["physics"],
    )
    told |= {"mean_return": float(found.mean()), "std_return": float(found.std(ddof=1))}
    foreign.save_mlp(behaviour.FOLDER / f"{arguments.name}.npz", policy, told)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
