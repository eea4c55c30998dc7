"""TensorFlow's start-up messages kept from the terminal; the standard library only.

C++ writes them to file descriptor 2 while TensorFlow loads and looks for devices, before any level
of logging applies. What is no known start-up message is passed on, and so is everything if the import
fails or the process ends in it. No device is hidden.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_INFORMATION = re.compile(
    r"[IW]\d{4} [\d:.]+ +\d+ \S+:\d+\] "  # absl's form
    r"|\d{4}-\d\d-\d\d [\d:.]+ ?: [IW] "  # TensorFlow's own
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|To enable the following instructions: "  # the second line of a message
)
_CUDA_ERROR = re.compile(r"E\d{4} [\d:.]+ +\d+ cuda_\S+:\d+\] ")
_DEVICES = ("/dev/nvidia*", "/dev/dxg")


def without_start_up(text: str) -> str:
    """Drops TensorFlow's start-up messages from what a process wrote to stderr.

    Errors of CUDA are dropped only where the machine has no such device.
    """
    has_device = any(glob.glob(pattern) for pattern in _DEVICES)
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if not _INFORMATION.match(line) and (has_device or not _CUDA_ERROR.match(line))
    )


def install() -> None:
    """From now on the first import of TensorFlow, with its look for devices, is quiet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a value that the user set stands
    if "tensorflow" not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


def run_module(name: str) -> None:
    """Does what `python -m NAME` does, quietly."""
    install()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


class _Finder:
    """Stands before the other finders until TensorFlow is imported."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Returns TensorFlow's own spec, whose module loads quietly; None for all others."""
        if name != "tensorflow":
            return None
        finders = [finder for finder in sys.meta_path if finder is not _Finder]
        specs = (finder.find_spec(name, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def quietly(module: Any) -> None:
            sys.meta_path.remove(_Finder)  # type: ignore[arg-type]
            with _held_back():
                execute(module)
                module.config.list_physical_devices()  # drivers are asked here

        spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; passes on what is no start-up message."""
    try:
        terminal = os.dup(2)
    except OSError:  # no stderr, as in a daemon
        yield
        return
    sys.stderr.flush()
    captured = os.memfd_create("stderr")
    ended, still_here = os.pipe()
    heir = _fork_heir(captured, terminal, ended, still_here)
    os.close(ended)
    os.dup2(captured, 2)
    shown: Callable[[str], str] = without_start_up
    try:
        yield
    except Exception:
        shown = str  # all of it
        raise
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.write(2, shown(_read(captured)).encode())
        os.write(still_here, b"done")
        for descriptor in (captured, terminal, still_here):
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(heir, 0)


def _fork_heir(captured: int, terminal: int, ended: int, still_here: int) -> int:
    """Starts a process that passes everything on if this one crashes; returns its number."""
    heir = os.fork()
    if heir:
        return heir
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends with its parent
        os.close(still_here)
        if not os.read(ended, 4):
            os.write(terminal, _read(captured).encode())
    finally:
        os._exit(0)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
