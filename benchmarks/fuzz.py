"""Damaged and hostile files for every reader: none may crash it, hang it, fill the memory or run code.

python -m benchmarks.fuzz --inputs=1000000

Input N is a sound file of some format with a few random changes; it follows from N alone. Each is read
in a process with limits on time and memory. It must be read, or refused with a UserError. What is not
goes into the record with its number, and --only=N reads that one again, with the traceback. Started
again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import pathlib
import pickle
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import h5py
import numpy as np

from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.formats import d4rl, minari
from offline_tf.export import prediction_files
from offline_tf.policies import foreign, foreign_normalizer, gaussian
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Transitions, UserError

_RECORD = pathlib.Path("results", "tables", "fuzz.json")
_BATCH = 2000  # inputs of a process
_SECONDS = 10  # of an input
_GIB = 1 << 30
_MEMORY = 2 * _GIB  # of an input
_ROWS = 60
_MARK = "code_ran"
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      name: in the record.
      suffix: of the file.
      make: writes a sound one.
      read: reads one; raises UserError where it is refused.
    """

    name: str
    suffix: str
    make: Callable[[pathlib.Path], Any]
    read: Callable[[pathlib.Path], Any]


class Hostile:
    """Unpickled by pickle itself, it makes a file."""

    def __reduce__(self) -> Any:
        """What pickle would call."""
        return pathlib.Path.touch, (pathlib.Path(_MARK),)


def _task() -> TaskSpec:
    return tasks.get("hopper")


def _transitions() -> Transitions:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(_ROWS + 1, 11)).astype(np.float32)
    return Transitions(
        observations=states[:-1],
        actions=generator.uniform(-1, 1, (_ROWS, 3)).astype(np.float32),
        rewards=generator.normal(size=_ROWS).astype(np.float32),
        next_observations=states[1:],
        terminals=np.zeros(_ROWS, bool),
        timeouts=np.arange(_ROWS) % 20 == 19,
    )


def _columns() -> dict[str, Any]:
    data = vars(_transitions())
    return {name: values for name, values in data.items() if values is not None}


def _load(path: pathlib.Path) -> Any:
    return sources.load(str(path), _task())


def _packed_hdf5(path: pathlib.Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in _columns().items():
            file.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)


def _minari(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch, "data")
        minari.write(folder, _transitions(), _task(), "a/b-v0")
        path.write_bytes((folder / "data" / "main_data.hdf5").read_bytes())


def _pickle(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps([_columns()] * 2, protocol=4))


def _hostile_pickle(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps([_columns() | {"rewards": Hostile()}], protocol=2))


def _npz(path: pathlib.Path) -> None:
    np.savez(path, **_columns())


def _hostile_npz(path: pathlib.Path) -> None:
    np.savez(path, **(_columns() | {"rewards": np.array([Hostile()] * 3, object)}))


def _csv(path: pathlib.Path) -> None:
    task, data = _task(), _transitions()
    names = [*task.observation_names, *task.action_names, "reward", "terminal", "timeout"]
    ends = np.stack([data.terminals, data.timeouts], axis=1)
    rows = np.concatenate([data.observations, data.actions, data.rewards[:, None], ends], axis=1)
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")


def _policy(path: pathlib.Path) -> None:
    gaussian.save(path, *gaussian.load(gaussian.shipped("hopper")))


def _zip(path: pathlib.Path) -> None:
    """A zip file of Stable-Baselines3's shape whose pickle is hostile."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": "gASVAAAA"}}))
        archive.writestr("policy.pth", pickle.dumps({"weights": Hostile()}))
        archive.writestr("_stable_baselines3_version", "2.9.2")


def _normalizer(path: pathlib.Path) -> None:
    found = {
        "obs_rms": {"mean": np.zeros(11), "var": np.ones(11)},
        "clip_obs": 10.0,
        "x": Hostile(),
    }
    path.write_bytes(pickle.dumps(found, protocol=4))


def _observations(path: pathlib.Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, observations=_transitions().observations)
        return
    rows = [",".join(map(str, row)) for row in _transitions().observations]
    path.write_text("\n".join([",".join(_task().observation_names), *rows]) + "\n")


def _predicted(path: pathlib.Path) -> None:
    for _ in prediction_files.observations(path, _task().observation_names, 16):
        pass


def _manifest(path: pathlib.Path) -> None:
    write_json(
        path, {"algorithm": "morel", "flags": {"env": "hopper", "seed": 0}, "commits": ["a"]}
    )


def _run_folder(path: pathlib.Path) -> None:
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(path.read_bytes())
    RunRecord.open_existing(folder)
    RunRecord.check_folder(folder, "morel", {"env": "hopper", "seed": 0})


FORMATS = (
    Format("d4rl", ".hdf5", lambda path: d4rl.write(path, _transitions()), _load),
    Format("packed", ".hdf5", _packed_hdf5, _load),
    Format("minari", ".hdf5", _minari, _load),
    Format("pickle", ".pkl", _pickle, _load),
    Format("hostile_pickle", ".pkl", _hostile_pickle, _load),
    Format("npz", ".npz", _npz, _load),
    Format("hostile_npz", ".npz", _hostile_npz, _load),
    Format("csv", ".csv", _csv, _load),
    Format("policy", ".npz", _policy, lambda path: foreign.load(path, _task(), None)),
    Format("zip", ".zip", _zip, lambda path: foreign.load(path, _task(), None)),
    Format("normalizer", ".pkl", _normalizer, lambda path: foreign_normalizer.read(path, 11)),
    Format("observations_csv", ".csv", _observations, _predicted),
    Format("observations_npz", ".npz", _observations, _predicted),
    Format("manifest", ".json", _manifest, _run_folder),
)


def mutate(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Changes a few bytes, numbers or stretches.

    Args:
      content: of a sound file.
      other: of another one, to splice in.
      generator: draws the changes.
    """
    changed = bytearray(content)
    for _ in range(int(generator.choice([1, 1, 2, 4, 16]))):
        if not changed:
            break
        kind, at = int(generator.integers(8)), int(generator.integers(len(changed)))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            changed[at] = int(generator.integers(256))
        elif kind == 2:  # an extreme number, in one of the widths
            width = int(generator.choice([1, 2, 4, 8]))
            number = int(generator.choice(np.arange(len(_EXTREMES))))
            packed = struct.pack("<Q", _EXTREMES[number])[:width]
            changed[at : at + width] = packed
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + int(generator.integers(1, 64))]
        elif kind == 5:
            stretch = changed[at : at + int(generator.integers(1, 64))]
            changed[at:at] = stretch
        elif kind == 6:
            start = int(generator.integers(max(len(other), 1)))
            changed[at : at + 32] = other[start : start + 32]
        else:
            changed[at : at + 8] = bytes(generator.integers(256, size=8, dtype=np.uint8))
    return bytes(changed)


def mutate_members(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Changes the members of a zip archive, whose checksums are then right."""
    with tempfile.SpooledTemporaryFile() as before, tempfile.SpooledTemporaryFile() as after:
        before.write(content)
        with zipfile.ZipFile(before) as old, zipfile.ZipFile(after, "w") as new:
            names = old.namelist()
            chosen = names[int(generator.integers(len(names)))]
            for name in names:
                member = old.read(name)
                new.writestr(name, mutate(member, other, generator) if name == chosen else member)
        after.seek(0)
        return after.read()


class Inputs:
    """Input N, for any N."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Writes a sound file of each format."""
        self._sound = []
        for form in FORMATS:
            path = folder / f"sound-{form.name}{form.suffix}"
            form.make(path)
            self._sound.append(path.read_bytes())

    def make(self, number: int) -> tuple[Format, bytes]:
        """The format and the content of an input."""
        generator = np.random.default_rng([7, number])
        place, other = number % len(FORMATS), int(generator.integers(len(FORMATS)))
        content, form = self._sound[place], FORMATS[place]
        if content[:2] == b"PK" and generator.random() < 0.7:
            return form, mutate_members(content, self._sound[other], generator)
        return form, mutate(content, self._sound[other], generator)


class Fault(Exception):
    """What a reader must not do."""


def _late(*_: object) -> None:
    raise Fault(f"no answer within {_SECONDS} s")


def read_one(inputs: Inputs, number: int, folder: pathlib.Path) -> None:
    """Reads an input.

    Raises:
      Exception: the reader did something else than read it or refuse it.
    """
    form, content = inputs.make(number)
    path = folder / f"input{form.suffix}"
    path.write_bytes(content)
    signal.alarm(_SECONDS)
    try:
        form.read(path)
    except UserError:
        pass
    finally:
        signal.alarm(0)
    if (folder / _MARK).exists():
        (folder / _MARK).unlink()
        raise Fault("code of the file was run")


def work(inputs: Inputs, numbers: range, folder: pathlib.Path, now: mmap.mmap, faults: int) -> None:
    """Reads inputs in this process, which ends with it.

    Args:
      inputs: the inputs.
      numbers: which.
      folder: scratch.
      now: where the number is noted before it is read.
      faults: file descriptor that faults are written to.
    """
    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    with pathlib.Path("/proc/self/statm").open() as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))
    for number in numbers:
        now[:8] = struct.pack("<Q", number)
        try:
            read_one(inputs, number, folder)
        except BaseException as error:
            line = {"input": number, "fault": f"{type(error).__name__}: {error}"[:300]}
            os.write(faults, (json.dumps(line) + "\n").encode())
    os._exit(0)


def run_batch(inputs: Inputs, numbers: range) -> list[dict[str, Any]]:
    """Reads inputs in processes of their own; a new one goes on behind an input that kills it."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, mmap.mmap(-1, 8) as now:
        first = numbers.start
        while first < numbers.stop:
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                work(inputs, range(first, numbers.stop), pathlib.Path(scratch), now, writing)
            os.close(writing)
            with os.fdopen(reading) as lines:
                found += [json.loads(line) for line in lines]
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                break
            (killer,) = struct.unpack("<Q", now[:8])
            how = os.waitstatus_to_exitcode(status)
            found.append({"input": killer, "fault": f"the process ended with {how}"})
            first = killer + 1
    return found


def main() -> int:
    """Reads inputs that are not recorded yet; returns how many faults the record has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no batch after")
    parser.add_argument("--only", type=int, help="read this one here, with its traceback")
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(pathlib.Path(scratch))
        if arguments.only is not None:
            form, content = inputs.make(arguments.only)
            print(f"{form.name}, {len(content)} bytes")
            signal.signal(signal.SIGALRM, _late)
            try:
                read_one(inputs, arguments.only, pathlib.Path(scratch))
            except Exception:
                traceback.print_exc()
            return 0
        record = {"inputs": 0, "faults": []}
        if arguments.record.exists():
            record = json.loads(arguments.record.read_text())
        began = time.monotonic()
        while (
            record["inputs"] < arguments.inputs
            and time.monotonic() - began < 60 * arguments.minutes
        ):
            until = min(record["inputs"] + _BATCH, arguments.inputs)
            record["faults"] += run_batch(inputs, range(record["inputs"], until))
            record["inputs"] = until
            write_json(arguments.record, record)
            rate = until / (time.monotonic() - began)
            print(f"{until:,} inputs, {len(record['faults'])} faults, {rate:.0f}/s", flush=True)
    return len(record["faults"])


if __name__ == "__main__":
    sys.exit(main())
