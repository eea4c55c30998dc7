"""Random changes to the bytes of a file."""

from __future__ import annotations

import struct
import tempfile
import zipfile

import numpy as np

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)


def mutate(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Changes a few bytes, numbers or stretches.

    Args:
      content: of a sound file.
      other: of another one, to splice in.
      generator: draws the changes.
    """
    changed = bytearray(content)
    for _ in range(int(generator.choice([1, 1, 2, 4, 16]))):
        if not changed:
            break
        kind, at = int(generator.integers(8)), int(generator.integers(len(changed)))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            changed[at] = int(generator.integers(256))
        elif kind == 2:  # an extreme number, in one of the widths
            width = int(generator.choice([1, 2, 4, 8]))
            number = int(generator.choice(np.arange(len(_EXTREMES))))
            packed = struct.pack("<Q", _EXTREMES[number])[:width]
            changed[at : at + width] = packed
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + int(generator.integers(1, 64))]
        elif kind == 5:
            stretch = changed[at : at + int(generator.integers(1, 64))]
            changed[at:at] = stretch
        elif kind == 6:
            start = int(generator.integers(max(len(other), 1)))
            changed[at : at + 32] = other[start : start + 32]
        else:
            changed[at : at + 8] = bytes(generator.integers(256, size=8, dtype=np.uint8))
    return bytes(changed)


def mutate_members(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Changes the members of a zip archive, whose checksums are then right."""
    with tempfile.SpooledTemporaryFile() as before, tempfile.SpooledTemporaryFile() as after:
        before.write(content)
        with zipfile.ZipFile(before) as old, zipfile.ZipFile(after, "w") as new:
            names = old.namelist()
            chosen = names[int(generator.integers(len(names)))]
            for name in names:
                member = old.read(name)
                new.writestr(name, mutate(member, other, generator) if name == chosen else member)
        after.seek(0)
        return after.read()
