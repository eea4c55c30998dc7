"""Whether two run folders hold the same results, to the bit, and where they part.

Seconds, paths, commands and commits are not compared, and nothing that changes from file to file
without meaning: TensorBoard's events and the SavedModel's graph, whose nodes have names of their own.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.run_folder import checkpoints, files
from offline_tf.types import UserError

# Entries of summaries and stages' results that the same run has anew each time.
_TIMES = re.compile(r"(^|_)(seconds|ms)(_|$)")
_PLACES = ("stages", "command", "commit", "commits", "export", "workdir")
_NOT_STATE = ("spent", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")
_FOLDERS = ("export", "inspection", "policies")
_SKIPPED = ("saved_model.pb", "fingerprint.pb", "manifest.json")
_ABOUT = "about"  # JSON in a policy file
_VARIABLES = "variables/variables"  # of a SavedModel: compared as tensors


class Difference(NamedTuple):
    """Where two runs part.

    Attributes:
      stage: whose result it is; a stage's fit counts to it.
      what: file, and in it the name of what differs.
    """

    stage: str
    what: str


def parts_of(folder: pathlib.Path) -> list[str]:
    """The stages of a finished run, and fits within them, in the order in which they ended.

    Raises:
      UserError: it is no finished run.
    """
    if not (folder / "summary.json").exists():
        raise UserError(f"--workdir: expected a finished run with summary.json at {folder}")
    ends: dict[str, int] = {}
    files = {path: path.stem for path in (folder / "stages").glob("*.json")}
    files |= {path: path.parent.name for path in (folder / "checkpoints").glob("*/checkpoint")}
    for path, name in files.items():
        ends[name] = max(ends.get(name, 0), path.stat().st_mtime_ns)
    return sorted(ends, key=lambda name: ends[name])


def differences(first: pathlib.Path, second: pathlib.Path) -> list[Difference]:
    """What two finished runs do not share.

    Args:
      first, second: run folders.

    Returns:
      In the order of the first run's parts; none where they are equal to the bit.

    Raises:
      UserError: one of them is no finished run.
    """
    names = parts_of(first)
    names += [name for name in parts_of(second) if name not in names]
    tables = files_in(first / "metrics") | files_in(second / "metrics")
    found = []
    for name in names:
        found += [Difference(name, what) for what in _of_weights(name, first, second)]
        for table in sorted(tables):
            if (stem := table.removesuffix(".csv")) == name or stem.rpartition(".")[0] == name:
                wrong = _of_table(f"metrics/{table}", first, second)
                found += [Difference(name, what) for what in wrong]
        wrong = _of_json(f"stages/{name}.json", first, second)
        found += [Difference(name, what) for what in wrong]
    for name in _FOLDERS:
        wrong = of_folder(first / name, second / name)
        found += [Difference(name, f"{name}/{what}") for what in wrong]
    found += [Difference("summary", what) for what in _of_json("summary.json", first, second)]
    return found


def _of_weights(name: str, first: pathlib.Path, second: pathlib.Path) -> list[str]:
    where = f"checkpoints/{name}"
    found = [checkpoints.in_folder(folder / where)[:1] for folder in (first, second)]
    if [] in found:
        return [f"{where}: in one of them only"] if any(found) else []
    return _of_tensors(where, [paths[0] for paths in found])


def _of_tensors(where: str, paths: list[str]) -> list[str]:
    readers = [tf.train.load_checkpoint(path) for path in paths]
    names = [
        {key for key in reader.get_variable_to_shape_map() if not key.startswith(_NOT_STATE)}
        for reader in readers
    ]
    if names[0] != names[1]:
        return [f"{where}: other variables"]
    for key in sorted(names[0]):
        one, other = (reader.get_tensor(key) for reader in readers)
        if np.asarray(one).tobytes() != np.asarray(other).tobytes():
            return [f"{where}: {key.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE')}"]
    return []


def _of_table(where: str, first: pathlib.Path, second: pathlib.Path) -> list[str]:
    texts = [_text(folder / where) for folder in (first, second)]
    rows = [[line.split(",") for line in text.splitlines()] for text in texts]
    columns = [row[:1] for row in rows]
    if columns[0] != columns[1] or len(rows[0]) != len(rows[1]):
        return [f"{where}: other columns or rows"]
    for one, other in zip(*rows, strict=True):
        for column, a, b in zip(rows[0][0], one, other, strict=True):
            if a != b and not _TIMES.search(column):
                return [f"{where}: {column} at step {one[0]}"]
    return []


def _of_json(where: str, first: pathlib.Path, second: pathlib.Path) -> list[str]:
    contents = [_text(folder / where) for folder in (first, second)]
    if not all(contents):
        return [f"{where}: in one of them only"] if any(contents) else []
    one, other = (leaves(json.loads(text)) for text in contents)
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    return [f"{where}: {keys[0]}"] if keys else []


def leaves(content: Any, name: str = "") -> dict[str, str]:
    """Every number and word of JSON under the path of its names, but times and places.

    As text, so that NaN equals NaN.
    """
    if not isinstance(content, dict):
        return {name: json.dumps(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        if key not in _PLACES and not _TIMES.search(key):
            found |= leaves(value, f"{name}.{key}" if name else key)
    return found


def of_folder(first: pathlib.Path, second: pathlib.Path) -> list[str]:
    """Names of files in which two folders differ; an export's variables are compared as tensors."""
    names = [files_in(folder) for folder in (first, second)]
    found = [f"{name}: in one of them only" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if name.endswith(".npz"):
            found += _of_arrays(name, first, second)
        elif not name.startswith(_VARIABLES):
            if (first / name).read_bytes() != (second / name).read_bytes():
                found.append(name)
        elif name.endswith(".index"):
            paths = [str(folder / _VARIABLES) for folder in (first, second)]
            found += _of_tensors(_VARIABLES, paths)
    return found


def _of_arrays(where: str, first: pathlib.Path, second: pathlib.Path) -> list[str]:
    """An npz file's arrays; what a policy's says of itself as `leaves`: it may name another commit."""
    one, other = (files.read_arrays(folder / where, "workdir") for folder in (first, second))
    if one.keys() != other.keys():
        return [f"{where}: other arrays"]
    for name in one:
        values = [arrays[name] for arrays in (one, other)]
        if name == _ABOUT:
            alike = len({str(leaves(json.loads(str(value)))) for value in values}) == 1
        else:
            kinds = {(value.dtype, value.shape, value.tobytes()) for value in values}
            alike = len(kinds) == 1
        if not alike:
            return [f"{where}: {name}"]
    return []


def files_in(folder: pathlib.Path) -> set[str]:
    """Paths of the files that are compared, relative to the folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in _SKIPPED]
    return {path.relative_to(folder).as_posix() for path in paths}


def _text(path: pathlib.Path) -> str:
    return path.read_text() if path.exists() else ""
