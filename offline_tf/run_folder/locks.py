"""Lock files: one process at a time, without leftovers when one is killed."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import IO

from absl import logging

from offline_tf.run_folder import stopping

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


def take(path: pathlib.Path) -> IO[str] | None:
    """Takes the lock of a file, which is made where it is missing; it goes with the process.

    Args:
      path: of the lock file; its folder is made, too.

    Returns:
      The open file, which holds the lock until it is closed; None where there are no locks.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        return None
    file = path.open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise BlockingIOError(f"{path} is taken") from None
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


def is_held(path: pathlib.Path) -> bool:
    """Whether another process holds the lock of a file; one that is not there is held by nobody."""
    if not path.exists():
        return False
    try:
        file = take(path)
    except BlockingIOError:
        return True
    if file is not None:
        file.close()
    return False


def _waited_for(path: pathlib.Path) -> IO[str] | None:
    announced = False
    while True:
        try:
            return take(path)
        except BlockingIOError:
            if not announced:
                logging.info("waiting for another process, which holds %s", path)
            announced = True
            stopping.check()
            time.sleep(0.2)


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Waits for the lock of a file and holds it within.

    Raises:
      stopping.Stopped: this process was asked to stop while it waited.
    """
    file = _waited_for(path)
    try:
        yield
    finally:
        if file is not None:
            file.close()
