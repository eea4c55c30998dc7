"""Pickled episodes (mjrl, decision-transformer, CS285), read without running anything in them."""

from __future__ import annotations

import pathlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_tf.datasets.formats import columns, episodes
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, Transitions, UserError


class _Placeholder:
    """Stands for numpy.ndarray where a pickle names it; calling it is an error."""


def _empty_array(kind: Any, shape: Any, code: Any) -> Array:
    """What numpy's _reconstruct makes before the contents are set; its arguments are always these."""
    del kind, shape, code
    return np.empty(0)


def _dtype(name: Any, *flags: Any) -> np.dtype:
    del flags
    # A copy: its byte order is set afterwards.
    dtype = np.dtype(name, False, True) if isinstance(name, str) else None
    if dtype is None or dtype.kind not in "biufSUO" or dtype.itemsize > 64:
        raise pickle.UnpicklingError(f"array of type {name!r}")
    return dtype


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind == "O" or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a scalar that is no number")
    return np.frombuffer(data, dtype, count=1)[0]


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in old pickles: _codecs.encode(text, 'latin1')."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an encoding other than latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Placeholder(),
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (f"numpy.{core}.{module}", name): replacement
        for core in ("core", "_core")
        for module, name, replacement in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays, numbers, strings and Python's containers; nothing else is even imported."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Looks up a name that the pickle refers to."""
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it refers to {module_name}.{global_name}; only numpy arrays are read"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """References to objects outside the file are refused."""
        raise pickle.UnpicklingError(f"it refers to an object outside the file ({pid!r:.50})")


def unpickle(path: pathlib.Path) -> Any:
    """Reads a pickle of arrays and containers.

    Raises:
      UserError: it holds something else, or is damaged.
    """
    check_size(path.stat().st_size, str(path))
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--dataset: {path} is no pickle of numpy arrays: {reason}") from None


def read(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads a pickled list of episodes, or a pickled dict of D4RL's columns.

    Raises:
      UserError: see `unpickle`, `episodes.join` and `columns.from_columns`.
    """
    content, source = unpickle(path), str(path)
    if isinstance(content, Mapping):
        try:
            named = {name: np.asarray(values) for name, values in episodes.renamed(content).items()}
        except ValueError:
            raise UserError(
                f"--dataset: {source}: expected a dict of arrays with a row per step, got lists of "
                "unequal lengths; give a list of episodes, each a dict"
            ) from None
        return columns.from_columns(named, source, state_dim)
    if not isinstance(content, (list, tuple, np.ndarray)):
        raise UserError(
            f"--dataset: {source}: expected a list of episodes or a dict of arrays, "
            f"got {type(content).__name__}"
        )
    return episodes.join(content, source, state_dim)
