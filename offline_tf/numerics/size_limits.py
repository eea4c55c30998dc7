"""What a reader agrees to unpack in memory."""

from __future__ import annotations

from offline_tf.numerics.large_columns import machine_memory
from offline_tf.types import UserError


def largest_bytes() -> int:
    """Half of this machine's memory: what a reader agrees to unpack there."""
    return machine_memory() // 2


def check_size(total: int, source: str, flag: str = "dataset") -> None:
    """Refuses what would not fit in memory, before any of it is unpacked.

    Args:
      total: bytes after unpacking.
      source, flag: what to name in the error.

    Raises:
      UserError: more than `largest_bytes`.
    """
    if total > largest_bytes():
        raise UserError(
            f"--{flag}: {source} would take {total / 2**30:.1f} GiB of memory, this machine allows "
            f"{largest_bytes() / 2**30:.1f} GiB; split it, or write it as HDF5 with D4RL's keys, which "
            "is read by blocks"
        )
