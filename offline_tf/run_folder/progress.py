"""How far something is, as a person sees it."""

from __future__ import annotations

import sys


def show_progress(done: int, total: int, rate: float, unit: str = "steps") -> None:
    """A progress line that rewrites itself on a terminal, and is silent elsewhere."""
    if sys.stderr.isatty():
        filled = int(30 * done / total)
        bar = "#" * filled + "." * (30 - filled)
        left = (total - done) / max(rate, 1e-9)
        sys.stderr.write(f"\r[{bar}] {done}/{total} {unit}, {rate:.0f}/s, {left:.0f} s left ")
        sys.stderr.flush()
