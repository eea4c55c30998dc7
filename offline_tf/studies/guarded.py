"""A module in a process that ends with its parent.

Where a worker is killed, nobody would stop its run, and the next one would wait for its lock. So the
run asks the kernel for a SIGTERM when its parent is gone; it saves then and ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def command(module_and_flags: list[str]) -> list[str]:
    """What to start; its parent is this process."""
    code = "import sys; from offline_tf.studies import guarded; guarded.become(*sys.argv[1:])"
    return [sys.executable, "-c", code, str(os.getpid()), *module_and_flags]


def become(parent: str, module: str, *flags: str) -> None:
    """Becomes `python -m MODULE FLAGS`.

    Args:
      parent: its number, as it may be gone before the kernel is asked.
      module, flags: the command.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit(128 + signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", module, *flags])
