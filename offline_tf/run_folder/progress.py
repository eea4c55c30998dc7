"""How far a piece of work is, with its rate and the time left, as a person sees it.

On a terminal one line is rewritten; elsewhere a line is logged every ten seconds, every second with
--verbose. With --quiet there is none.
"""

from __future__ import annotations

import logging as stdlib_logging
import os
import sys
import time

from absl import logging

_LOG_SECONDS, _REDRAW_SECONDS = 10.0, 0.2
_ERASE = "\r\x1b[K"

# There is one terminal, so one line: whether it waits to be rewritten, and who clears it.
_line = {"waits": False, "is_watched": False}


class Progress:
    """Tells how far one piece of work is."""

    def __init__(self, name: str) -> None:
        """The clock of the first logged line begins here.

        Args:
          name: of the work, at the begin of the line.
        """
        self._name = name
        self._last = time.monotonic()
        self._first: tuple[float, float] | None = None  # amount, time
        self._done = 0.0

    def tell(self, done: float, total: float | None, unit: str, note: str = "") -> None:
        """Shows the line if it is time for it, and always when the work is done.

        Args:
          done: so far; less than before begins anew.
          total: in all; None where nobody knows.
          unit: plural.
          note: more, at the end of the line.
        """
        now = time.monotonic()
        if self._first is None or done < self._done:
            self._first = done, now
        self._done = done
        is_over = total is not None and done >= total
        on_terminal = _is_terminal()
        log_seconds = 1.0 if logging.level_debug() else _LOG_SECONDS
        if now - self._last < (_REDRAW_SECONDS if on_terminal else log_seconds) and not is_over:
            return
        self._last = now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        line = f"{self._name}: {in_words(done, total, unit, rate)}{f' | {note}' if note else ''}"
        if on_terminal and logging.level_info():
            _draw(line, is_over)
        else:
            logging.info("%s", line)


def in_words(done: float, total: float | None, unit: str, rate: float) -> str:
    """Such as "1,200 of 5,000 steps, 95/s, 40 s left"; a rate of 0 is not known yet."""
    words = [
        f"{_number(done)} {unit}"
        if total is None
        else f"{_number(done)} of {_number(total)} {unit}"
    ]
    if rate > 0:
        words.append(f"{_number(rate, 3)}/s")
        if total is not None:
            words.append(f"{_duration((total - done) / rate)} left")
    return ", ".join(words)


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def _draw(line: str, is_over: bool) -> None:
    if not _line["is_watched"]:
        logging.get_absl_handler().addFilter(_make_way)
        _line["is_watched"] = True
    # The last column stays empty: there, some terminals begin a new line.
    sys.stderr.write(f"\r{line[: _width() - 1]}\x1b[K{chr(10) if is_over else ''}")
    sys.stderr.flush()
    _line["waits"] = not is_over


def _make_way(record: stdlib_logging.LogRecord) -> bool:
    """A filter of log lines: all pass, on an empty line."""
    if _line["waits"]:
        sys.stderr.write(_ERASE)
        sys.stderr.flush()
        _line["waits"] = False
    return True


def leave() -> None:
    """Lets a line that waits to be rewritten stand; what is written next begins a new one."""
    if _line["waits"]:
        sys.stderr.write("\n")
        sys.stderr.flush()
        _line["waits"] = False
