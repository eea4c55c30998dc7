"""What ranking other settings of a run leaves behind: a table, and flags to take over."""

from __future__ import annotations

import pathlib
from typing import Any

from offline_tf.run_folder.files import write_json

HOW_TO_TAKE_OVER = (
    "take it over: train with the same flags, --flagfile=RUN/tune.flags behind them, and another "
    "--workdir"
)


def flag_of(name: str, value: Any) -> str:
    """As one would give it: --noprune, --horizon=8, --q_hidden=256,256."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{name}={value}"


def name_of(changes: dict[str, Any]) -> str:
    """Flags in a row; of none, what that means."""
    return " ".join(flag_of(*item) for item in changes.items()) or "as it is"


def write(folder: pathlib.Path, ranked: list[dict[str, Any]]) -> None:
    """Writes tune.json, and tune.flags of its first entry.

    Args:
      folder: of the run.
      ranked: best first; "flags" of each is what differs from the run.
    """
    write_json(folder / "tune.json", ranked)
    lines = [flag_of(*item) for item in ranked[0]["flags"].items()]
    (folder / "tune.flags").write_text("".join(f"{line}\n" for line in lines))
