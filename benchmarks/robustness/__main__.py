"""python -m benchmarks.robustness; see the package."""

from __future__ import annotations

import argparse
import pathlib
import sys

from benchmarks import robustness
from benchmarks.robustness import making
from benchmarks.robustness.data_sets import BY_NAME, SETS, SPLITS, DataSet
from offline_tf.types import UserError


def chosen(split: str, names: str) -> list[DataSet]:
    """The sets that --split and --sets name.

    Raises:
      UserError: there is no such set.
    """
    wanted = [name for name in names.split(",") if name]
    if unknown := [name for name in wanted if name not in BY_NAME]:
        raise UserError(f"--sets: expected some of {', '.join(BY_NAME)}, got {unknown[0]}")
    every = [BY_NAME[name] for name in wanted] or list(SETS)
    return [data_set for data_set in every if split in ("", data_set.split)]


def make_data(sets: list[DataSet], folder: pathlib.Path, neorl2: str) -> dict[str, pathlib.Path]:
    """Returns name -> file; a set that cannot be made here is told and left out."""
    made = {}
    for data_set in sets:
        try:
            made[data_set.name] = making.load_or_make(data_set, folder, neorl2)
        except UserError as error:
            print(f"left out: {error}", flush=True)
    return made


def main() -> int:
    """Returns the number of runs that failed."""
    parser = argparse.ArgumentParser(
        description=robustness.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=("", *SPLITS), default="")
    parser.add_argument("--sets", default="", help="names; empty: all")
    parser.add_argument("--what", default="data")
    parser.add_argument("--folder", type=pathlib.Path, default=making.FOLDER, help="of the data")
    parser.add_argument("--neorl2", default="", help="folder of NeoRL-2's data")
    arguments = parser.parse_args()
    sets = chosen(arguments.split, arguments.sets)
    files = make_data(sets, arguments.folder, arguments.neorl2)
    for path in files.values():
        print(making.told(path), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
