"""Makes the data sets in a cache folder, each once; the same table gives the same rows.

On one kind of CPU: another rounds a policy's products otherwise, and its episodes then part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from benchmarks.robustness import behaviour
from benchmarks.robustness.data_sets import DataSet
from offline_tf import tasks
from offline_tf.datasets.formats import columns, d4rl
from offline_tf.datasets.simulated import collection, generated
from offline_tf.numerics import seeds
from offline_tf.run_folder import locks
from offline_tf.types import Array, TaskSpec, Transitions, UserError

FOLDER = pathlib.Path("runs", "robustness", "data")
NEORL2 = "NEORL2_DATA"  # the variable that names the folder of NeoRL-2's files
_NEORL2_FILE = "DMSD-high-100000-train.npz"
# Goes up where the making, a plant or a controller changes; the table and the policies are seen.
_VERSION = 1


class Missing(UserError):
    """A set cannot be made here, for want of data or of a package; other sets can."""


def tag(data_set: DataSet) -> str:
    """What tells apart data of one name: changes with the set's line and its policies, not its half."""
    line = dataclasses.asdict(data_set)
    del line["split"]
    digest = hashlib.blake2b(json.dumps([_VERSION, line]).encode(), digest_size=4)
    for path in behaviour.files_of(data_set):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def file_of(data_set: DataSet, folder: pathlib.Path) -> pathlib.Path:
    """Where a set lies, made or not."""
    return folder / f"{data_set.name}-{tag(data_set)}.hdf5"


def load_or_make(
    data_set: DataSet, folder: pathlib.Path = FOLDER, neorl2: str = "", threads: int = 1
) -> pathlib.Path:
    """Returns the set's file; makes it first where it is not there.

    Args:
      data_set: a line of the table.
      folder: of the cache.
      neorl2: folder of NeoRL-2's files; empty: $NEORL2_DATA.
      threads: of the simulators.

    Raises:
      Missing: NeoRL-2's data or a plant's package are not here.
      UserError: a policy is not here.
    """
    path = file_of(data_set, folder)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(path.with_suffix(".lock")):
        if not path.exists():
            write(path, data_set, _made(data_set, neorl2, threads))
    return path


def _made(data_set: DataSet, neorl2: str, threads: int) -> Transitions:
    if not data_set.parts:
        return from_neorl2(neorl2)
    try:
        return make(data_set, tasks.get(data_set.env), threads)
    except UserError as error:
        if "No module named" not in str(error):
            raise
        raise Missing(f"{data_set.name}: {error}; see requirements-plants.txt") from None


def make(data_set: DataSet, task: TaskSpec, threads: int = 1) -> Transitions:
    """Collects a set: the parts one after the other, then all episodes in random order."""
    if data_set.cut:
        task = dataclasses.replace(task, max_episode_steps=data_set.cut)
    rows = row_counts(data_set)
    collected = None
    for index, part in enumerate(data_set.parts):
        found = collection.collect(
            task,
            physics=data_set.physics,
            policy=behaviour.of_part(part, task),
            exploration="pure",
            num_steps=rows[index],
            seed=1000 * data_set.seed + index,
            threads=threads,
        ).transitions
        collected = found if collected is None else generated.joined(collected, found)
    assert collected is not None
    return shuffled(collected, data_set.seed)


def row_counts(data_set: DataSet) -> list[int]:
    """Rows of each part; they add up to those of the set."""
    ends = np.cumsum([part.share for part in data_set.parts])
    edges = np.round(ends / ends[-1] * data_set.rows).astype(int)
    return [int(count) for count in np.diff([0, *edges])]


def shuffled(data: Transitions, seed: int) -> Transitions:
    """The episodes in random order."""
    count = len(data.episode_bounds())
    return episodes(data, seeds.generator(seed, "robustness/episodes").permutation(count))


def episodes(data: Transitions, numbers: Array) -> Transitions:
    """Some of the episodes, in the order of `numbers`."""
    bounds = data.episode_bounds()
    rows = np.concatenate([np.arange(*bounds[number]) for number in numbers])
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(data):
        values = getattr(data, field.name)
        chosen[field.name] = None if values is None else values[rows]
    return Transitions(**chosen)


def from_neorl2(folder: str = "") -> Transitions:
    """Reads NeoRL-2's DMSD (CC BY 4.0, not shipped).

    Raises:
      Missing: it is not here.
    """
    path = pathlib.Path(folder or os.environ.get(NEORL2, ""), _NEORL2_FILE)
    if not path.is_file():
        raise Missing(
            f"dmsd-neorl2: expected NeoRL-2's {_NEORL2_FILE} in the folder that --neorl2 or "
            f"${NEORL2} names, found none; it is published as polixir/neorl2_dataset"
        )
    with np.load(path, allow_pickle=False) as file:
        named = {
            "observations": file["obs"],
            "next_observations": file["next_obs"],
            "actions": file["action"],
            "rewards": file["reward"].ravel(),
            "terminals": file["done"].ravel().astype(bool),
            "timeouts": file["truncated"].ravel().astype(bool),
        }
    named["terminals"] &= ~named["timeouts"]  # an episode of 100 steps has met its time limit
    return columns.from_columns(named, str(path))


def write(path: pathlib.Path, data_set: DataSet, data: Transitions) -> None:
    """Writes a set in its layout; says in the file what it is made of."""
    attributes: dict[str, Any] = {
        "set": data_set.name,
        "split": data_set.split,
        "physics": data_set.physics,
        "made_of": json.dumps([part.name for part in data_set.parts]),
    }
    left_out = ("next_observations", "infos/qpos", "infos/qvel") if data_set.v0 else ()
    d4rl.write(path, data, attributes=attributes, left_out=left_out)


def told(path: pathlib.Path) -> str:
    """A line about a set that is there."""
    data = d4rl.read(path)
    found = data.episode_returns()
    return (
        f"{path.stem}: {len(data):,} rows, {len(found):,} episodes, return {found.mean():.0f} +- "
        f"{found.std():.0f}, best tenth {found[best_tenth(data)].mean():.0f}"
    )


def best_tenth(data: Transitions) -> Array:
    """Numbers of the episodes with the highest returns: a tenth of them, at least two."""
    found = data.episode_returns()
    return np.sort(np.argsort(-found, kind="stable")[: max(round(0.1 * len(found)), 2)])
