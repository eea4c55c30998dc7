"""Stopping a run on purpose: Ctrl-C, SIGTERM, or its time is over; `Stage` asks where it is safe.

One state per process, for signals know no other.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

from absl import logging

OUT_OF_TIME = 75  # EX_TEMPFAIL: try again


class Stopped(BaseException):
    """The run stops here; what it has done is saved. Nobody's `except Exception` catches it.

    Attributes:
      status: of the process.
    """

    def __init__(self, reason: str, status: int) -> None:
        """Holds why."""
        super().__init__(reason)
        self.status = status


_asked: Stopped | None = None
_deadline = float("inf")


def asked() -> bool:
    """Whether the run is to stop, as somebody asked for it or the time is over."""
    return _asked is not None or time.monotonic() > _deadline


def check() -> None:
    """Does nothing, or stops.

    Raises:
      Stopped: somebody asked for it, or the time is over.
    """
    if _asked is not None:
        raise _asked
    if time.monotonic() > _deadline:
        raise Stopped("--max_hours are over", OUT_OF_TIME)


def run_command(command: list[str]) -> int:
    """Runs a command that keeps its state when it is asked to stop, as this process may be.

    Returns:
      Its exit status.

    Raises:
      Stopped: this process was asked to stop; so was the command, and it has ended.
    """
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=0.5)
                check()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def _on_signal(number: int, frame: object) -> None:
    global _asked
    if _asked is not None:
        raise KeyboardInterrupt
    _asked = Stopped(f"stopped by {signal.Signals(number).name}", 128 + number)
    logging.warning(
        "stopping at the next checkpoint; once more stops now and goes back to the last"
    )


@contextlib.contextmanager
def allowed(max_hours: float = float("inf")) -> Iterator[None]:
    """Within, signals ask for a stop at the next checkpoint; a second one interrupts at once.

    Args:
      max_hours: after which a stop is asked for, too.
    """
    global _asked, _deadline
    _asked, _deadline = None, time.monotonic() + 3600.0 * max_hours
    before = {n: signal.signal(n, _on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked, _deadline = None, float("inf")


@contextlib.contextmanager
def at_once(max_hours: float) -> Iterator[None]:
    """Within, `Stopped` is raised wherever the process is when the time is over."""

    def over(number: int, frame: object) -> None:
        raise Stopped("--max_hours are over", OUT_OF_TIME)

    if max_hours == float("inf"):
        yield
        return
    previous_handler = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(3600.0 * max_hours, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous_handler)
