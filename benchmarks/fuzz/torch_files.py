"""What torch.save and Stable-Baselines3 write, without PyTorch; for tests and the fuzzer."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from offline_tf.types import Array

_FLOAT_BYTES = 4


class _Tensor(NamedTuple):
    values: Array
    key: str


class _Storage(NamedTuple):
    tensor: _Tensor


@contextlib.contextmanager
def _torch() -> Iterator[tuple[type, Any]]:
    """Modules of PyTorch's names, which pickle looks up: the storage class and the function."""
    names = ("torch", "torch._utils")
    before = {name: sys.modules.get(name) for name in names}
    modules = {name: types.ModuleType(name) for name in names}
    storage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild() -> None:
        """Is looked up by name, and never called."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    modules["torch"].__dict__["FloatStorage"] = storage
    modules["torch._utils"].__dict__["_rebuild_tensor_v2"] = rebuild
    sys.modules.update(modules)
    try:
        yield storage, rebuild
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dump(arrays: Mapping[str, Array]) -> bytes:
    """What torch.save writes for a dictionary of float tensors."""
    index = io.BytesIO()
    with _torch() as (storage, rebuild):

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                if not isinstance(value, _Storage):
                    return None
                return ("storage", storage, value.tensor.key, "cpu", value.tensor.values.size)

            def reducer_override(self, value: Any) -> Any:
                if not isinstance(value, _Tensor):
                    return NotImplemented
                strides = tuple(x // _FLOAT_BYTES for x in value.values.strides)
                shape = value.values.shape
                return rebuild, (_Storage(value), 0, shape, strides, False, OrderedDict())

        floats = {name: np.ascontiguousarray(v, np.float32) for name, v in arrays.items()}
        tensors = {name: _Tensor(v, str(i)) for i, (name, v) in enumerate(floats.items())}
        Pickler(index, protocol=2).dump(OrderedDict(tensors))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", index.getvalue())
        archive.writestr("archive/byteorder", "little")
        for tensor in tensors.values():
            archive.writestr(f"archive/data/{tensor.key}", tensor.values.tobytes())
    return out.getvalue()


def write_sb3(path: pathlib.Path, arrays: Mapping[str, Array], **about: Any) -> pathlib.Path:
    """Writes a zip file of Stable-Baselines3's layout; returns its path.

    Args:
      path: of the file.
      arrays: weights by PyTorch's names.
      about: what the member "data" holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(about))
        archive.writestr("policy.pth", dump(arrays))
    return path
