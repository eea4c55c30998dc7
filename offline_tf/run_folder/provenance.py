"""Where a run came from: the code's commit, and the command that was given."""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

_NO_CODE = (":!results", ":!docs", ":!*.md")


def commit() -> str:
    """Returns the commit of the code, with "+changes" where files differ, or "unknown".

    Records and pages are no code.
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    try:
        run = ["git", "-C", str(root)]
        head = subprocess.run(
            [*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
        )
        if head.returncode:
            return "unknown"
        status = subprocess.run(
            [*run, "status", "--porcelain", "--untracked-files=no", "--", ".", *_NO_CODE],
            capture_output=True,
            text=True,
        )
        return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
    except OSError:
        return "unknown"


_WATCHING = ("quiet", "verbose", "debug", "dry_run", "max_hours")  # they do not decide what is made


_SWITCHES = (
    "inspection",
    "quiet",
    "verbose",
    "debug",
    "dry_run",
)  # those left out that take no value


def program() -> list[str]:
    """How this process was started: python -m MODULE."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", *(["-m", spec.name] if spec else [])]


def command(omitted: Sequence[str]) -> str:
    """This process as a command line, without the flags in `omitted` and those of how it is watched."""
    words = program()
    left_out = {no + name for name in (*omitted, *_WATCHING) for no in ("", "no")}
    arguments = iter(sys.argv[1:])
    for word in arguments:
        name, separator, _ = word.lstrip("-").partition("=")
        if name not in left_out:
            words.append(word)
        elif not separator and name.removeprefix("no") not in _SWITCHES:
            next(arguments, None)
    return shlex.join(words)
