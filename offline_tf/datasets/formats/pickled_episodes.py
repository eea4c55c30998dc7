"""Pickled episodes (mjrl, decision-transformer, CS285), read without running anything in them."""

from __future__ import annotations

import pathlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offline_tf.datasets.formats import columns, episodes, synonyms
from offline_tf.numerics import pickle_sizes, pickled_arrays
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Transitions, UserError

_ALLOWED: dict[tuple[str, str], Any] = {
    **pickled_arrays.STAND_INS,
    ("collections", "OrderedDict"): OrderedDict,
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
        pickle_sizes.check_file(path)
        with path.open("rb") as file:
            return pickled_arrays.resolved(_ArraysOnly(file, encoding="latin1").load())
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--dataset: {path} is no pickle of numpy arrays: {reason}") from None


def read(path: pathlib.Path, state_dim: int | None = None, keys: Sequence[str] = ()) -> Transitions:
    """Reads a pickled list of episodes, or a pickled dict of D4RL's columns.

    Raises:
      UserError: see `unpickle`, `episodes.join` and `columns.from_columns`.
    """
    content, source = unpickle(path), str(path)
    if isinstance(content, Mapping):
        try:
            named = {name: np.asarray(values) for name, values in synonyms.renamed(content).items()}
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
    return episodes.join(content, source, state_dim, keys)
