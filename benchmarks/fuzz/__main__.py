"""Damaged and hostile files for every reader: none may crash it, hang it, fill the memory or run code.

python -m benchmarks.fuzz --inputs=1000000

Input N is a sound file of some format with a few random changes; it follows from N alone. Each is read
in a process with limits on time and memory. It must be read, or refused with a UserError. What is not
goes into the record with its number, and --only=N reads that one again, with the traceback. Started
again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import pathlib
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.fuzz.formats import FORMATS, MARK, Format
from benchmarks.fuzz.mutations import mutate, mutate_members
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import UserError

_RECORD = pathlib.Path("results", "tables", "fuzz.json")
_BATCH = 2000  # inputs of a process
_SECONDS = 10  # of an input
_HANGS = 2 * _SECONDS  # until its process is ended, where it does not come back to Python
_MEMORY = 2 << 30  # bytes, of an input


class Inputs:
    """Input N, for any N."""

    def __init__(self, folder: pathlib.Path, forms: Sequence[Format]) -> None:
        """Writes a sound file of each format, in a process of its own: TensorFlow's threads stay there.

        Args:
          folder: scratch.
          forms: input N is of form N modulo their number.

        Raises:
          RuntimeError: one could not be made.
        """
        self._forms = forms
        paths = [folder / f"sound-{form.name}{form.suffix}" for form in forms]
        child = os.fork()
        if not child:
            try:
                for form, path in zip(forms, paths, strict=True):
                    form.make(path)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("a sound file could not be made")
        self._sound = [path.read_bytes() for path in paths]

    def make(self, number: int) -> tuple[Format, bytes]:
        """The format and the content of an input."""
        generator = np.random.default_rng([7, number])
        place, other = number % len(self._forms), int(generator.integers(len(self._forms)))
        content, form = self._sound[place], self._forms[place]
        if content[:2] == b"PK" and generator.random() < form.members:
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
    faulthandler.dump_traceback_later(_HANGS, exit=True)
    try:
        form.read(path)
    except UserError:
        pass
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    if (folder / MARK).exists():
        (folder / MARK).unlink()
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
            _clear(folder)
            line = {"input": number, "fault": f"{type(error).__name__}: {error}"[:300]}
            os.write(faults, (json.dumps(line) + "\n").encode())
    os._exit(0)


def _clear(folder: pathlib.Path) -> None:
    """What a reader that failed has left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
    parser.add_argument(
        "--formats", default="", help="names of formats; default: the record's, or all"
    )
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"inputs": 0, "faults": []}
    if arguments.record.exists():
        record = json.loads(arguments.record.read_text())
    chosen = arguments.formats.split(",") if arguments.formats else [form.name for form in FORMATS]
    names = record.setdefault("formats", chosen)
    forms = [form for name in names for form in FORMATS if form.name == name]
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(pathlib.Path(scratch), forms)
        if arguments.only is not None:
            form, content = inputs.make(arguments.only)
            print(f"{form.name}, {len(content)} bytes")
            signal.signal(signal.SIGALRM, _late)
            try:
                read_one(inputs, arguments.only, pathlib.Path(scratch))
            except Exception:
                traceback.print_exc()
            return 0
        began, before = time.monotonic(), record["inputs"]
        while (
            record["inputs"] < arguments.inputs
            and time.monotonic() - began < 60 * arguments.minutes
        ):
            until = min(record["inputs"] + _BATCH, arguments.inputs)
            record["faults"] += run_batch(inputs, range(record["inputs"], until))
            record["inputs"] = until
            record["commits"] = sorted({*record.get("commits", []), provenance.commit()})
            write_json(arguments.record, record)
            rate = (until - before) / (time.monotonic() - began)
            print(f"{until:,} inputs, {len(record['faults'])} faults, {rate:.0f}/s", flush=True)
    return len(record["faults"])


if __name__ == "__main__":
    sys.exit(main())
