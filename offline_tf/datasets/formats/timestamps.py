"""Time stamps of tables as seconds since 1970 in UTC, or seconds of any beginning."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline_tf.types import Array, UserError

SECONDS, ISO = "seconds", "iso"
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_NUMBERED = re.compile(r"(\d{1,2})([./-])(\d{1,2})[./-]\d{4} \d{1,2}:\d{2}(:\d{2})?")


def guess(words: Sequence[str]) -> str:
    """The format of some time stamps: "seconds", "iso", or one of strptime's; empty: they are none.

    Args:
      words: the first stamps of a log.
    """
    words = [word.strip() for word in words if word and word.strip()]
    if not words:
        return ""
    formats = [SECONDS, ISO]
    matches = [_NUMBERED.fullmatch(word) for word in words]
    if all(matches):
        firsts = {int(match[1]) for match in matches if match}
        thirds = {int(match[3]) for match in matches if match}
        sign = matches[0][2] if matches[0] else "."
        day_first = max(firsts) > 12 or (max(thirds) <= 12 and sign != "/")
        date = f"%d{sign}%m{sign}%Y" if day_first else f"%m{sign}%d{sign}%Y"
        formats = [f"{date} %H:%M:%S" if matches[0] and matches[0][4] else f"{date} %H:%M"]
    for form in formats:
        try:
            seconds(np.array(words, object), form, "")
            return form
        except UserError:
            continue
    return ""


def joined(dates: Array, times: Array) -> Array:
    """[n] of str: dates and times of day that stand in columns of their own."""
    parts = [pc.utf8_trim_whitespace(pa.array(part, pa.string())) for part in (dates, times)]
    return pc.binary_join_element_wise(*parts, " ").to_numpy(zero_copy_only=False)


def seconds(words: Array, form: str, source: str) -> Array:
    """[n] float64 seconds.

    Args:
      words: [n] of str.
      form: see `guess`.
      source: what to name in the error.

    Raises:
      UserError: a stamp is not of this form.
    """
    try:
        texts = pc.utf8_trim_whitespace(pa.array(words, pa.string()))
        if form == SECONDS:
            numbers = pc.cast(pc.replace_substring(texts, ",", "."), pa.float64())
            return numbers.to_numpy(zero_copy_only=False)
        if form == ISO:
            has_zone = len(words) > 0 and _ZONE.search(str(words[0]).strip()[10:]) is not None
            stamps = pc.cast(texts, pa.timestamp("us", "UTC" if has_zone else None))
        else:
            stamps = pc.strptime(texts, form, "us")
        return stamps.cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
    except (ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"--dataset: {source}: expected time stamps of the form {form!r} ({reason})"
        ) from None
