"""numpy arrays in pickles of strangers: made from their bytes here, never by numpy's own unpickling.

An array's or a dtype's `__setstate__` trusts what it is given, and a few changed bytes make it crash
the process. So a pickle's arrays and dtypes are stand-ins while it is read; `resolved` replaces them.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_tf.types import Array

_KINDS, _LARGEST_ITEM = "biufSUO", 64
_ORDERS = "<>|="
_VERSIONS = (3, 4)  # of a dtype's state


class Dtype:
    """Stands for a numpy.dtype."""

    def __init__(self, name: Any, *flags: Any) -> None:
        """As numpy.dtype is called in pickles: with a name such as "f8", and flags that say nothing.

        Raises:
          UnpicklingError: it is not of numbers, text or objects.
        """
        del flags
        dtype = np.dtype(name) if isinstance(name, str) else None
        if dtype is None or dtype.kind not in _KINDS or dtype.itemsize > _LARGEST_ITEM:
            raise pickle.UnpicklingError(f"array of type {name!r:.50}")
        self.numpy = dtype

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order; the rest describes records, which are refused.

        Raises:
          UnpicklingError: it is no state of a plain dtype.
        """
        is_plain = isinstance(state, tuple) and 8 <= len(state) <= 9
        is_plain = is_plain and state[0] in _VERSIONS and state[2:5] == (None, None, None)
        if not is_plain or not isinstance(state[1], str) or state[1] not in tuple(_ORDERS):
            raise pickle.UnpicklingError(f"array of a type with the state {state!r:.50}")
        self.numpy = self.numpy.newbyteorder(state[1])  # type: ignore[arg-type]


class PickledArray:
    """Stands for a numpy.ndarray.

    Attributes:
      values: the array.
    """

    def __init__(self, *arguments: Any) -> None:
        """As numpy's _reconstruct is called; what it is given is always the same."""
        del arguments
        self.values: Array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        """Takes (version, shape, dtype, whether columns come first, bytes or a list of objects).

        Raises:
          UnpicklingError: they do not fit each other.
        """
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
            raise pickle.UnpicklingError("an array without shape, type and contents")
        _, shape, kind, by_columns, contents = state
        self.values = _array(contents, kind, shape, "F" if by_columns else "C")


def _array(contents: Any, kind: Any, shape: Any, order: Any) -> Array:
    dtype = kind.numpy if isinstance(kind, Dtype) else np.dtype(object)
    is_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or order not in ("C", "F"):
        raise pickle.UnpicklingError(f"an array of shape {shape!r:.50}")
    if dtype.kind == "O":
        if not isinstance(contents, list) or len(contents) != math.prod(shape):
            raise pickle.UnpicklingError("an array of objects without so many of them")
        values = np.empty(len(contents), object)
        values[:] = contents
        return values.reshape(shape, order=order)
    if isinstance(contents, str):  # bytes in pickles of Python 2
        contents = contents.encode("latin1")
    if not isinstance(contents, bytes | bytearray | memoryview | pickle.PickleBuffer):
        raise pickle.UnpicklingError("an array without bytes")
    raw = memoryview(contents).cast("B")
    if math.prod(shape) * dtype.itemsize > len(raw):
        raise pickle.UnpicklingError("an array of fewer bytes than its shape takes")
    return np.frombuffer(raw, dtype, math.prod(shape)).reshape(shape, order=order)


def _from_buffer(contents: Any, kind: Any, shape: Any, order: Any = "C") -> Array:
    if not isinstance(kind, Dtype) or kind.numpy.kind == "O":
        raise pickle.UnpicklingError("a buffer that is no array of numbers")
    return _array(contents, kind, shape, order)


def _scalar(kind: Any, contents: Any = b"") -> Any:
    return _from_buffer(contents, kind, (1,))[0]


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in old pickles: _codecs.encode(text, 'latin1')."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an encoding other than latin1")
    return text.encode("latin1")


class _Name:
    """Stands for numpy.ndarray where a pickle names it; calling it is an error."""


# (module, name) -> what stands for it, of all that pickles of arrays refer to.
STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name(),
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): lambda: b"",  # of an empty array in old pickles
    **{
        (f"numpy.{core}.{module}", name): replacement
        for core in ("core", "_core")
        for module, name, replacement in (
            ("multiarray", "_reconstruct", PickledArray),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class Inert:
    """Stands for any class of a pickle: it keeps a state as its attributes, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Takes and forgets whatever the class was called with."""
        del arguments, named

    def __setstate__(self, state: Any) -> None:
        """Keeps a state that is a dict; what __slots__ hold comes second in a tuple."""
        if isinstance(state, tuple):
            state = {k: v for part in state if isinstance(part, dict) for k, v in part.items()}
        self.__dict__.update(state if isinstance(state, dict) else {})


class DataOnly(pickle.Unpickler):
    """Makes arrays, and inert objects of all else; nothing is imported."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Looks up a name that the pickle refers to."""
        return STAND_INS.get((module_name, global_name), Inert)


def resolved(content: Any) -> Any:
    """What a pickle holds, with arrays in place of their stand-ins.

    Mappings, lists, tuples and arrays of objects are gone through; what holds itself is refused.

    Args:
      content: as unpickled.

    Raises:
      RecursionError: it is nested deeper than Python goes.
    """
    return _resolved(content, {})


def _resolved(content: Any, known: dict[int, Any]) -> Any:
    if isinstance(content, PickledArray):
        content = content.values
    is_container = isinstance(content, list | tuple | Mapping)
    if not is_container and not (isinstance(content, np.ndarray) and content.dtype.kind == "O"):
        return content
    if id(content) in known:
        return known[id(content)]
    if isinstance(content, np.ndarray):
        result: Any = np.empty(content.shape, object)
        for place in np.ndindex(content.shape):
            result[place] = _resolved(content[place], known)
    elif isinstance(content, Mapping):
        result = {key: _resolved(value, known) for key, value in content.items()}
    else:
        result = type(content)([_resolved(value, known) for value in content])
    known[id(content)] = result
    return result
