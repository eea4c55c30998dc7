"""Looks through a stranger's pickle for what would take memory beyond all proportion to its size.

Python's unpickler keeps a table of what it has met, and makes room for the number that an opcode names:
twelve bytes are enough to ask for 32 GiB. It makes room for a text or bytes of any length, too, before
it looks whether there are so many. Source: pickletools of Python 3.13, protocols 0 to 5.
"""

from __future__ import annotations

import mmap
import pathlib
import pickle
import re

_NO_ARGUMENT = b"(012N\x88\x89]aelt)\x85\x86\x87}dsubRo\x81\x92Q\x94\x93\x8f\x90\x91\x97\x98"
_FIXED = {1: b"Khq\x82\x80", 2: b"M\x83", 4: b"Jj\x84", 8: b"G\x95"}
_LENGTH = {
    1: b"UC\x8c\x8a",
    4: b"TBX\x8b",
    8: b"\x8e\x96\x8d",
}  # bytes of a length, then so many bytes
_LINES = {1: b"ILFSVgpP", 2: b"ci"}
_LONG_BINPUT, _PUT = b"r", b"p"

# Runs of opcodes that need no look. Bounded: an endless repetition keeps a mark for each.
_PLAIN = re.compile(
    b"(?:[%s]+|%s){1,10000}"
    % (
        re.escape(_NO_ARGUMENT),
        b"|".join(b"[%s].{%d}" % (re.escape(codes), size) for size, codes in _FIXED.items()),
    ),
    re.DOTALL,
)
_LENGTH_OF = {code: size for size, codes in _LENGTH.items() for code in codes}
_LINES_OF = {code: count for count, codes in _LINES.items() for code in codes}


def check(content: bytes | mmap.mmap) -> None:
    """Checks a pickle before it is read; nothing is made of it.

    Of several pickles one after the other it sees the first. What it does not understand it leaves to
    the unpickler.

    Args:
      content: of the file.

    Raises:
      UnpicklingError: it asks for room that its size does not explain.
    """
    position, end = 0, len(content)
    while position < end:
        if plain := _PLAIN.match(content, position):
            position = plain.end()
            continue
        code, position = content[position : position + 1], position + 1
        if code == _LONG_BINPUT:
            _check_number(int.from_bytes(content[position : position + 4], "little"), position)
            position += 4
        elif size := _LENGTH_OF.get(code[0]):
            length = int.from_bytes(content[position : position + size], "little")
            position += size + length
            if position > end:
                raise pickle.UnpicklingError(f"{length} bytes or letters, and the file ends before")
        elif lines := _LINES_OF.get(code[0]):
            for _ in range(lines):
                first, position = position, content.find(b"\n", position) + 1
                if not position:
                    return
            text = content[first : position - 1]
            if code == _PUT and text.strip().isdigit():
                _check_number(int(text), position)
        else:
            return  # the end, or no pickle


def check_file(path: pathlib.Path) -> None:
    """`check` of a file.

    Raises:
      UnpicklingError: see there.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check(content)


def _check_number(number: int, position: int) -> None:
    # Writers count what they have written, so a number is never above the opcodes so far.
    if number > position:
        raise pickle.UnpicklingError(f"it numbers an object {number} that is not so many bytes in")
