"""How a command ends on an error: in one line, or, where nobody foresaw it, with a file to report."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import sys
import tempfile
import traceback

from offline_tf.run_folder import provenance
from offline_tf.types import UserError

# What a path or a disk refuses, wherever a command comes upon it.
_NOT_OURS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
)
# TensorFlow and HDF5 give the words of these errors, not their numbers.
_WORDS = "|".join(re.escape(os.strerror(number)) for number in _NOT_OURS)
_OF_A_DISK = re.compile(rf"(?:(?P<path>/[^\s;:]+)[;:] )?(?P<words>{_WORDS})")
_NO_MEMORY = re.compile(
    r"OOM when allocating|[Oo]ut of memory|[Uu]nable to allocate|cannot allocate"
)


def in_one_line(error: BaseException, resumable: bool = False) -> str | None:
    """What to tell of an error that is no fault of the program; None of one that is.

    Args:
      error: that ended the command.
      resumable: whether the same command goes on where it was.
    """
    if isinstance(error, UserError):
        return str(error)
    again = "what was saved is kept, and the same command goes on from there"
    if isinstance(error, MemoryError) or (
        _is_of_tensorflow(error) and _NO_MEMORY.search(str(error))
    ):
        words = "not enough memory; give fewer rows, or make smaller what the command does at once"
        return f"{words}; {again}" if resumable else words
    refused = _refused(error)
    if refused is None:
        return None
    remedy = f"mend this; {again}" if resumable else "choose another path, or mend this one"
    return f"{refused}; {remedy}"


def _is_of_tensorflow(error: BaseException) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def _refused(error: BaseException) -> str | None:
    """What a path or a disk refuses, in words; None where it is something else."""
    if isinstance(error, OSError) and error.errno in _NOT_OURS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{os.strerror(error.errno)}"  # HDF5's own words take lines
    if not isinstance(error, OSError) and not _is_of_tensorflow(error):
        return None
    found = _OF_A_DISK.search(str(error))
    if found is None:
        return None
    return f"{found['path']}: {found['words']}" if found["path"] else found["words"]


def unforeseen(error: BaseException) -> str:
    """Writes the traceback of an error that is a fault of the program; returns what to tell.

    Args:
      error: that ended the command.
    """
    kind = type(error).__name__
    first = (str(error).strip() or "no message").splitlines()[0]
    message = f"{kind}: {first[:200]}"
    report = [
        f"command: {shlex.join([*provenance.program(), *sys.argv[1:]])}",
        f"commit: {provenance.commit()}",
        f"python: {platform.python_version()}, {platform.platform()}",
        *(
            f"{name}: {_version(name)}"
            for name in ("tensorflow", "keras", "numpy", "h5py", "mujoco")
        ),
        "",
        "".join(traceback.format_exception(error)),
    ]
    try:
        number, name = tempfile.mkstemp(prefix="offline-rl-error-", suffix=".txt")
        os.close(number)
        pathlib.Path(name).write_text("\n".join(report))
    except OSError:
        return (
            f"{message}; this is a fault of the program: please report it with what --debug shows"
        )
    return f"{message}; this is a fault of the program: please report it with {name}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
