"""python -m offline_tf.studies.guarded PARENT MODULE [flags]: a module that ends with its parent.

Where a worker is killed, nobody would stop its run, and the next one would wait for its lock. So the
run asks the kernel for a SIGTERM when its parent is gone; it saves then and ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def main(words: list[str]) -> None:
    """Becomes the module; its parent is told, as it may be gone before the kernel is asked."""
    parent, module, *rest = words
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit(128 + signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", module, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
