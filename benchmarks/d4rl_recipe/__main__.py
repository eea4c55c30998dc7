"""python -m benchmarks.d4rl_recipe hopper --training=FOLDER: a robot's data sets by D4RL's recipe.

FOLDER has the checkpoints and the replay buffer of a training with SAC:

PYTHON -m benchmarks.robustness.train_policy SAC Hopper-v4 --physics=v2 --steps=1000000 --every=10000
    --keep-buffer --actor=256,256 --output=FOLDER

PYTHON is an environment with requirements-policies.txt; this command needs the project's alone.

Each checkpoint runs 20 episodes with drawn actions and 20 with mean ones. Medium is the first
checkpoint whose mean return is that of D4RL's medium set within a tenth. Expert is the one nearest to
that of its expert set, or the last where none comes near. Both become policies of the package,
offline_tf/policies/ROBOT-KIND.npz.

The replay sets are written into the cache folder, with a record of all checkpoints. Then all sets are
made, measured and printed beside D4RL's. Episodes and collected sets that are there are not made again.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import Any

from benchmarks import published
from benchmarks.d4rl_recipe import checkpoints, making
from benchmarks.d4rl_recipe.checkpoints import Pick, Worth
from offline_tf import tasks
from offline_tf.datasets.formats import replay_buffer
from offline_tf.datasets.simulated import sac_kinds
from offline_tf.run_folder import files, provenance
from offline_tf.types import TaskSpec, UserError


def judged(
    training: checkpoints.Training, task: TaskSpec, arguments: argparse.Namespace
) -> list[Worth]:
    """What every checkpoint earns; known ones from the record, to which new ones are added."""
    path = making.record_file(task.name, arguments.data_dir)
    files.check_writable(path, "data_dir")
    known = []
    if path.exists():
        advice = "delete it; the episodes are then run again"
        stored = files.read_json(path, "data_dir", advice)
        known = [Worth(**one) for one in stored["checkpoints"]]

    def tell(worth: Worth) -> None:
        known.append(worth)
        files.write_json(path, {"checkpoints": [one._asdict() for one in known]})
        print(
            f"{worth.steps} steps: {worth.mean:.0f} +- {worth.std:.0f}, by mean actions "
            f"{worth.mean_of_mean_actions:.0f}",
            flush=True,
        )

    return checkpoints.judge(
        training,
        task,
        known=tuple(known),
        episodes=arguments.episodes,
        threads=arguments.threads,
        tell=tell,
    )


def _of_pick(pick: Pick) -> dict[str, Any]:
    return {"steps": pick.worth.steps, "target": pick.target, "matches": pick.matches}


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Picks, ships, writes and measures; returns the record.

    Raises:
      UserError: the training's files are missing or damaged, or it has no medium checkpoint.
    """
    task = tasks.get(arguments.env)
    training = checkpoints.find(arguments.training, task.name, arguments.training_seed)
    found = judged(training, task, arguments)
    targets = published.D4RL_DATA[task.name]
    picks = {
        "medium-sac": checkpoints.medium(found, targets["medium"].mean, arguments.tolerance),
        "expert-sac": checkpoints.expert(found, targets["expert"].mean, arguments.tolerance),
    }
    interrupted = replay_buffer.read(training.buffer, task, training.steps).interrupted_after
    abouts = {}
    for kind, pick in picks.items():
        how = "matches" if pick.matches else "does not match"
        print(f"{kind}: {pick.worth.steps} steps; {how} D4RL's {pick.target:g} (quoted)")
        abouts[kind] = making.ship(
            pick,
            kind,
            training=training,
            interrupted_after=interrupted,
            task=task,
            threads=arguments.threads,
        )
    medium_steps = picks["medium-sac"].worth.steps
    for kind, steps in (("medium-replay-sac", medium_steps), ("full-replay-sac", training.steps)):
        making.write_replay(
            kind,
            steps,
            training=training,
            task=task,
            about=abouts["medium-sac"],
            data_dir=arguments.data_dir,
        )
    print(making.HEADER)
    sets = []
    for kind in making.SETS:
        measured = making.measure(
            kind,
            task=task,
            steps=arguments.steps,
            seed=arguments.seed,
            data_dir=arguments.data_dir,
            threads=arguments.threads,
        )
        print(making.row(measured), flush=True)
        quoted = measured.quoted and measured.quoted._asdict()
        sets.append(measured._asdict() | {"quoted": quoted, "ratio": measured.ratio})
    return {
        "commit": provenance.commit(),
        "quoted_from": published.D4RL_DATA_SOURCE,
        "training": {"steps": training.steps, "interrupted_after": interrupted},
        "policies": abouts,
        "picks": {kind: _of_pick(pick) for kind, pick in picks.items()},
        "checkpoints": [one._asdict() for one in found],
        "sets": sets,
    }


def main(words: list[str] | None = None) -> int:
    """Makes, prints and records."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.d4rl_recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("env", choices=tuple(sac_kinds.ENVIRONMENTS))
    parser.add_argument(
        "--training", type=pathlib.Path, required=True, help="train_policy's folder"
    )
    parser.add_argument("--training_seed", type=int, default=0, help="train_policy's --seed")
    parser.add_argument("--data_dir", default="", help="default: $OFFLINE_TF_DATA or ~/.cache")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each collected set")
    parser.add_argument("--seed", type=int, default=0, help="of the collected sets")
    parser.add_argument("--episodes", type=int, default=checkpoints.EPISODES, help="per checkpoint")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=checkpoints.TOLERANCE,
        help="share of D4RL's mean return by which a policy's may differ",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--numbers", type=pathlib.Path, help="JSON file of all robots' numbers")
    arguments = parser.parse_args(words)
    try:
        found = make(arguments)
        if arguments.numbers:
            before = {}
            if arguments.numbers.exists():
                before = files.read_json(arguments.numbers, "numbers", "give another file")
            files.write_json(arguments.numbers, before | {arguments.env: found})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
