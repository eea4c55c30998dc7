"""Lock files: one process at a time, without leftovers when one is killed."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


def take(path: pathlib.Path, wait: bool) -> IO[str] | None:
    """Takes the lock of a file, which is made where it is missing; it goes with the process.

    Args:
      path: of the lock file.
      wait: for whoever holds it.

    Returns:
      The open file, which holds the lock until it is closed; None where there are no locks.

    Raises:
      BlockingIOError: another process holds it, and nobody waits.
      OSError: the file cannot be made.
    """
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        file.close()
        raise BlockingIOError(f"{path} is taken") from None
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Waits for the lock of a file and holds it within."""
    file = take(path, wait=True)
    try:
        yield
    finally:
        if file is not None:
            file.close()
