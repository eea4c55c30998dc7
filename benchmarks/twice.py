"""Every command run twice, with other work on the cores: do both leave the same bits?

python -m benchmarks.twice

The second run has another process beside it that keeps a core busy. Compared are run folders as by
`offline_tf.repro`, and all other files byte by byte, but for times and places within them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import h5py
import numpy as np

from offline_tf.run_folder import comparison, provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "twice.json")
_BUSY = "while True: sum(range(10 ** 6))"
_SMALL = [
    "--env=hopper",
    "--data_dir={data}",
    "--threads=1",
    "--data_steps=6000",
    "--judge_steps=500",
    "--judge_starts=4",
]
_MOREL = ["--ensemble_size=2", "--dynamics_steps=500", "--iterations=6", "--paths_per_member=8"]
_MOREL += ["--bc_steps=500", "--eval_every=3", "--eval_episodes=2", "--final_episodes=3"]
_MOREL += ["--horizon=100", "--judge_every=3"]
_MOPP = ["--dynamics_steps=200", "--behavior_steps=200", "--q_steps=200", "--eval_episodes=1"]
_MOPP += ["--judge_plan_starts=2", "--judge_plan_steps=5", "--judge_promise_starts=2"]
# Name -> (what follows "python -m", what it leaves). {own}: a folder of its own; {data}: a shared one;
# {NAME}: that of an earlier entry.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "collect": (
        ["offline_tf.collect", "--env=hopper", "--num_steps=6000", "--output={own}/d.hdf5"],
        "d.hdf5",
    ),
    "convert": (
        [
            "offline_tf.datasets.convert",
            "--dataset={collect}/d.hdf5",
            "--form=minari",
            "--output={own}/m",
        ],
        "m",
    ),
    "doctor": (
        ["offline_tf.datasets.doctor", "--dataset={collect}/d.hdf5", "--output={own}/r"],
        "r",
    ),
    "train": (
        ["morel_tf.train", "--dataset={collect}/d.hdf5", *_SMALL, *_MOREL, "--workdir={own}/run"],
        "run",
    ),
    "mopp": (
        ["mopp_tf.train", "--dataset={collect}/d.hdf5", *_SMALL, *_MOPP, "--workdir={own}/run"],
        "run",
    ),
    "mbop": (
        [
            "mopp_tf.train",
            "--algorithm=mbop",
            "--dataset={collect}/d.hdf5",
            *_SMALL,
            *_MOPP,
            "--workdir={own}/run",
        ],
        "run",
    ),
    "behavior": (
        [
            "morel_tf.train_behavior",
            "--env=hopper",
            "--num_steps=60000",
            "--workdir={own}/run",
            "--threads=1",
        ],
        "run",
    ),
    "evaluate": (
        ["morel_tf.evaluate", "--workdir={train}/run", "--episodes=3"],
        "{train}/run/evaluation.json",
    ),
    "mopp_evaluate": (
        ["mopp_tf.evaluate", "--workdir={mopp}/run", "--episodes=1", "--output={own}/e.json"],
        "e.json",
    ),
    "inspect": (["morel_tf.inspect", "--workdir={train}/run"], "{train}/run/inspection"),
    "export": (["morel_tf.export", "--workdir={train}/run", "--output={own}/x"], "x"),
    "predict": (
        [
            "offline_tf.predict",
            "--export={train}/run",
            "--input={collect}/d.hdf5",
            "--output={own}/a.csv",
        ],
        "a.csv",
    ),
    "report": (["offline_tf.report", "--workdir={train}/run", "--output={own}/r.html"], "r.html"),
    "render": (
        ["offline_tf.render", "--workdir={train}/run", "--steps=20", "--output={own}/film"],
        "film",
    ),
}
_PLACES = re.compile(rb"(made \d{4}-\d\d-\d\d|/[^\s\"'<>]*/(?:once|again)/)")


def _same_file(first: pathlib.Path, second: pathlib.Path) -> bool:
    if first.suffix == ".hdf5":
        return _same_hdf5(first, second)
    contents = [_PLACES.sub(b"", path.read_bytes()) for path in (first, second)]
    if first.suffix == ".json":
        leaves = [comparison.leaves(json.loads(content)) for content in contents]
        return leaves[0] == leaves[1]
    return contents[0] == contents[1]


def _same_hdf5(first: pathlib.Path, second: pathlib.Path) -> bool:
    def values(path: pathlib.Path) -> dict[str, bytes]:
        found: dict[str, bytes] = {}

        def keep(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = np.asarray(item).tobytes()

        with h5py.File(path) as file:
            file.visititems(keep)
        return found

    return values(first) == values(second)


def differences(first: pathlib.Path, second: pathlib.Path) -> list[str]:
    """Names of what two commands did not leave alike: run folders, folders or files."""
    if (first / "summary.json").exists():
        return [f"{d.stage}: {d.what}" for d in comparison.differences(first, second)]
    if first.is_dir():
        return _of_folder(first, second)
    return [] if _same_file(first, second) else [first.name]


def _of_folder(first: pathlib.Path, second: pathlib.Path) -> list[str]:
    if (first / "saved_model.pb").exists():
        return comparison.of_folder(first, second)
    names = [comparison.files_in(folder) for folder in (first, second)]
    found = [f"{name}: in one of them only" for name in sorted(names[0] ^ names[1])]
    return found + [n for n in sorted(names[0] & names[1]) if not _same_file(first / n, second / n)]


def run_all(root: pathlib.Path, busy: bool) -> None:
    """Runs the commands that are not done, one after another."""
    beside = subprocess.Popen([sys.executable, "-c", _BUSY]) if busy else None
    try:
        for name, (words, _) in COMMANDS.items():
            done = root / name / "done"
            if done.exists():
                continue
            (root / name).mkdir(parents=True, exist_ok=True)
            folders = {each: str(root / each) for each in COMMANDS} | {
                "own": str(root / name),
                "data": str(root / "data"),
            }
            command = [sys.executable, "-m", *(word.format(**folders) for word in words)]
            with (root / f"{name}.log").open("wb") as log:
                status = subprocess.run(command, stdout=log, stderr=log).returncode
            if status not in (0, 1):  # the doctor warns
                raise RuntimeError(f"{name} ended with {status}, see {root / name}.log")
            done.touch()
    finally:
        if beside:
            beside.kill()
            beside.wait()


def main() -> int:
    """Runs and compares; returns how many commands differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs", "twice"))
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    roots = [(arguments.folder / name).absolute() for name in ("once", "again")]
    for root, busy in zip(roots, (False, True), strict=True):
        run_all(root, busy)
    found = {}
    for name, (_, left) in COMMANDS.items():
        places = []
        for root in roots:
            folders = {each: str(root / each) for each in COMMANDS}
            places.append(root / name / left.format(**folders))
        found[name] = differences(*places)
        print(f"{name}: {found[name] or 'the same'}", flush=True)
    write_json(arguments.record, {"commit": provenance.commit(), "commands": found})
    return sum(map(bool, found.values()))


if __name__ == "__main__":
    sys.exit(main())
