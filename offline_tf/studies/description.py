"""STUDY.toml: which runs a study has.

name = "three-seeds"           the folder is runs/studies/NAME, or `folder`
store = "s3://bucket/path"     where the run folders are kept; without it `folder` is all there is
[flags]                        of all runs
preset = "quick"
[[runs]]                       lists are multiplied: here four runs
algorithm = ["morel", "mopp"]
env = "hopper"
seed = [0, 1]
[search]                       instead of lists: see `search`
"""

from __future__ import annotations

import hashlib
import itertools
import pathlib
import re
import shlex
import tomllib
from typing import Any, NamedTuple

from offline_tf.studies import store
from offline_tf.studies.running import Job
from offline_tf.types import UserError

ALGORITHMS = {"morel": "morel_tf.train", "mopp": "mopp_tf.train", "mbop": "mopp_tf.train"}
_ENTRIES = ("name", "folder", "store", "flags", "runs", "search")
_OURS = ("workdir", "threads", "dry_run", "max_hours")  # flags that the study gives
_Flags = dict[str, Any]


class Search(NamedTuple):
    """What is searched on top of each run; see `search`.

    Attributes:
      space: flag -> its values: a list, or {"low", "high"} with "log" where wanted.
      candidates: how many are tried.
      warm_up: looks of the judge before a bad candidate may be stopped; -1: none is stopped.
    """

    space: dict[str, Any]
    candidates: int
    warm_up: int

    def example(self) -> _Flags:
        """Flags of a candidate: the first or lowest values."""
        return {
            flag: values[0] if isinstance(values, list) else values["low"]
            for flag, values in self.space.items()
        }


class Study(NamedTuple):
    """A study.

    Attributes:
      folder: everything of it lies there.
      runs: name -> algorithm and flags, without those that the study gives.
      search: None: there is nothing to search.
      store: URL where the run folders are kept, for machines that do not see `folder`; empty: none.
    """

    folder: pathlib.Path
    runs: dict[str, _Flags]
    search: Search | None
    store: str = ""

    def job(self, name: str, flags: _Flags, threads: int) -> Job:
        """A run as a job; `name` is of its folder."""
        here = pathlib.Path.cwd()
        words = words_of(flags) + [f"--threads={threads}"]
        url = f"{self.store}/{name}" if self.store else ""
        return Job(name, words, here / self.folder / name, here, url)


def words_of(flags: _Flags) -> list[str]:
    """A module and its flags, as they follow python -m."""
    rest = dict(flags)
    algorithm = rest.pop("algorithm")
    words = [ALGORITHMS[algorithm]] + (["--algorithm=mbop"] if algorithm == "mbop" else [])
    for name, value in rest.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no{name}")
        else:
            words.append(f"--{name}={value}")
    return words


def read(path: pathlib.Path) -> Study:
    """Reads a study.

    Raises:
      UserError: what is wrong with the file.
    """
    try:
        told = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"--study: expected a file that describes a study, found no {path}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--study: {path} is no TOML: {error}") from None
    _check_names(path, "at the top", told, _ENTRIES)
    name = told.get("name", path.stem)
    if not isinstance(name, str) or not name or pathlib.Path(name).name != name:
        raise UserError(f"--study: expected the name of a folder for name in {path}, got {name!r}")
    if not isinstance(told.get("folder", ""), str):
        raise UserError(f"--study: expected a path for folder in {path}, got {told['folder']!r}")
    url = store.check_url(told["store"], path) if "store" in told else ""
    if not isinstance(told.get("flags", {}), dict):
        raise UserError(f"--study: expected a table [flags] in {path}, got {told['flags']!r}")
    tables, common = told.get("runs", []), told.get("flags", {})
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise UserError(f"--study: expected [[runs]] in {path}, found none")
    every = [each for table in tables for each in _multiplied(path, common | table)]
    runs: dict[str, _Flags] = {}
    for name, flags in every:
        if [known for known, _ in every].count(name) > 1:  # the flags that differ are not in it
            digest = hashlib.sha256(shlex.join(words_of(flags)).encode()).hexdigest()
            name = f"{name}-{digest[:6]}"
        if name in runs:
            raise UserError(f"--study: {path} has the run {name} twice")
        runs[name] = flags
    folder = pathlib.Path(
        told.get("folder", pathlib.Path("runs", "studies", told.get("name", path.stem)))
    )
    return Study(folder, runs, _search(path, told.get("search")), url)


def _multiplied(path: pathlib.Path, table: _Flags) -> list[tuple[str, _Flags]]:
    """Every run of a table, with its name."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in table.items()}
    for key, values in lists.items():
        if not values or not all(isinstance(value, (str, int, float)) for value in values):
            raise UserError(
                f"--study: expected a value or a list of values for {key} in {path}, got "
                f"{table[key]!r}; of a flag with commas write a string"
            )
        if key in _OURS:
            raise UserError(f"--study: {key} in {path} is given by the study; leave it out")
    unknown = [value for value in lists.get("algorithm", []) if value not in ALGORITHMS]
    if "algorithm" not in lists or unknown:
        got = repr(unknown[0]) if unknown else "none"
        raise UserError(
            f"--study: expected algorithm = one of {', '.join(ALGORITHMS)} in [[runs]] of {path}, "
            f"got {got}"
        )
    told_apart = [key for key in lists if len(lists[key]) > 1 or key in ("env", "dataset", "seed")]
    found = []
    for combination in itertools.product(*lists.values()):
        flags = dict(zip(lists, combination, strict=True))
        found.append((name_of(flags, told_apart), flags))
    return found


def name_of(flags: _Flags, told_apart: list[str]) -> str:
    """A name for a folder, of the algorithm and the flags that tell runs apart."""
    words = [flags["algorithm"]]
    for key in told_apart:
        value = flags[key]
        if key in ("env", "dataset"):
            words.append(pathlib.Path(str(value).rpartition(":")[2]).stem)
        elif key != "algorithm":
            words.append(f"{key}{'' if key == 'seed' else '='}{value}")
    return re.sub(r"[^\w.=-]+", "_", "-".join(words))


def _search(path: pathlib.Path, table: Any) -> Search | None:
    if table is None:
        return None
    _check_names(path, "under [search]", table, ("space", "candidates", "warm_up"))
    space = table.get("space")
    if not isinstance(space, dict) or not space:
        raise UserError(f"--study: expected flags under [search.space] in {path}, found none")
    for flag, values in space.items():
        if flag in _OURS:
            raise UserError(f"--study: {flag} in {path} is given by the study; leave it out")
        is_range = isinstance(values, dict) and {"low", "high"} <= set(values) <= {
            "low",
            "high",
            "log",
        }
        if not is_range and not (isinstance(values, list) and values):
            raise UserError(
                f"--study: expected a list, or {{low = .., high = ..}}, for {flag} under "
                f"[search.space] in {path}, got {values!r}"
            )
        if is_range and not _is_range(values):
            raise UserError(
                f"--study: expected numbers with low < high, and low > 0 with log, for {flag} in "
                f"{path}, got {values!r}"
            )
    numbers = {
        "candidates": (table.get("candidates", 20), 1),
        "warm_up": (table.get("warm_up", 3), -1),
    }
    for name, (value, least) in numbers.items():
        if type(value) is not int or value < least:
            raise UserError(f"--study: expected {name} of {least} or more in {path}, got {value!r}")
    return Search(space, numbers["candidates"][0], numbers["warm_up"][0])


def _is_range(values: dict[str, Any]) -> bool:
    low, high = values["low"], values["high"]
    if any(type(bound) not in (int, float) for bound in (low, high)):
        return False
    return low < high and (low > 0 or not values.get("log", False))


def _check_names(path: pathlib.Path, where: str, table: Any, known: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise UserError(f"--study: expected a table {where} in {path}, got {table!r}")
    if unknown := [key for key in table if key not in known]:
        raise UserError(
            f"--study: expected {', '.join(known)} {where} of {path}, got {unknown[0]!r}"
        )
