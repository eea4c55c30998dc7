"""Pickles that would take memory beyond their size are refused before they are read."""

import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest

from offline_tf.datasets.formats import pickled_episodes
from offline_tf.numerics import pickle_sizes
from offline_tf.types import UserError

_MANY = 200_000  # of objects: more than a run of plain opcodes
SOUND = {
    "arrays": [{"observations": np.zeros((50, 17)), "rewards": np.zeros(50, np.float32)}] * 3,
    "floats": [[0.5, 1, -2, 300, 70_000, True, None] for _ in range(_MANY // 7)],
    "names": {f"name {i}": (i, 10**30, b"\n.r\xff" * i) for i in range(300)},
    "letters": ["ü" * 300, "a\nb", "", "r" * 70_000, b"x" * 300, bytearray(b"p9999999999\n")],
    "containers": [OrderedDict(a=1), {1, 2}, frozenset("ab"), (), (1, 2, 3, 4), {"a": [[]]}],
    "shared": [["x"] * 3, *[[]] * 400],
}
_HUGE = (1 << 31) - 1
BOMBS = {
    "binary number": b"\x80\x02Nr" + _HUGE.to_bytes(4, "little") + b".",
    "number in letters": b"Np%d\n." % _HUGE,
    "after a frame": b"\x80\x04\x95\x08" + bytes(7) + b"Nr" + _HUGE.to_bytes(4, "little") + b".",
    "after a text": b"\x80\x02X\x03\0\0\0abcr" + _HUGE.to_bytes(4, "little") + b".",
    "after a global": b"\x80\x02cos\nname\nr" + _HUGE.to_bytes(4, "little") + b".",
    "long bytes": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.",
    "long text": b"\x80\x02X" + _HUGE.to_bytes(4, "little") + b"abc.",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", SOUND)
def test_sound_pickles_pass(name, protocol):
    content = pickle.dumps(SOUND[name], protocol)
    pickle_sizes.check(content)
    pickle_sizes.check(content + BOMBS["binary number"])  # behind the end nobody reads


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name):
    with pytest.raises(pickle.UnpicklingError):
        pickle_sizes.check(BOMBS[name])


def test_every_opcode_is_known():
    lengths, lines = pickle_sizes._LENGTH_OF, pickle_sizes._LINES_OF
    for opcode in pickletools.opcodes:
        code, argument = opcode.code.encode("latin1"), opcode.arg
        if code in (b".", b"r"):
            continue
        if argument is None or argument.n > 0:
            size = argument.n if argument else 0
            assert pickle_sizes._PLAIN.fullmatch(code + b"\n" * size), opcode.name
        elif argument.n == pickletools.UP_TO_NEWLINE:
            assert lines[code[0]] == (2 if "pair" in argument.name else 1), opcode.name
        else:
            assert lengths[code[0]] == int(argument.name.translate(_DIGITS) or 1), opcode.name


# The number in "bytes4", "unicodestring8", "long1" is the width of the length.
_DIGITS = {ord(c): None for c in "abcdefghijklmnopqrstuvwxyz_"}


def test_what_is_no_pickle_is_left_to_the_unpickler(tmp_path):
    for content in (b"", b"\xff", b"hello", b"S'no end", b"cos"):
        pickle_sizes.check(content)
    (tmp_path / "empty").touch()
    pickle_sizes.check_file(tmp_path / "empty")


def test_a_reader_says_so_in_one_line(tmp_path):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS["binary number"])
    with pytest.raises(
        UserError, match=r"bomb.pkl is no pickle of numpy arrays: it numbers an object"
    ):
        pickled_episodes.unpickle(path)
