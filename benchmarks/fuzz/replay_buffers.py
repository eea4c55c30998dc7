"""Replay buffers as Stable-Baselines3 pickles them, written without it."""

from __future__ import annotations

import pathlib
import pickle
import sys
import types
from typing import Any
from unittest import mock

import numpy as np

from offline_tf.types import Array, Transitions


def write(
    path: pathlib.Path, data: Transitions, *, size: int, limits: Array, **changes: Any
) -> None:
    """Writes what `save_replay_buffer` of Stable-Baselines3 does, without it.

    Args:
      path: of the pickle.
      data: the buffer's first rows, in float64 where they are; what follows is noise.
      size: rows that the buffer has room for.
      limits: [N] bool, rows whose episode ended at the time limit.
      changes: of the buffer's state, by its names.
    """
    count = len(data)
    columns = {
        "observations": data.observations,
        "next_observations": data.next_observations,
        "actions": data.actions,
        "rewards": data.rewards,
        "dones": (data.terminals | limits).astype(np.float32),
        "timeouts": limits.astype(np.float32),
    }
    state: dict[str, Any] = {
        "buffer_size": size,
        "pos": count % size,
        "full": count == size,
        "n_envs": 1,
        "optimize_memory_usage": False,
        "handle_timeout_termination": True,
        "device": types.SimpleNamespace(kind="cpu"),
    }
    for name, values in columns.items():
        state[name] = np.full((size, 1, *values.shape[1:]), 7.0, values.dtype)
        state[name][:count, 0] = values
    module = types.ModuleType("sb3_buffers")
    buffer_class = type("ReplayBuffer", (), {"__module__": "sb3_buffers"})
    vars(module)["ReplayBuffer"] = buffer_class
    buffer = buffer_class()
    vars(buffer).update(state | changes)
    with mock.patch.dict(sys.modules, {"sb3_buffers": module}):
        path.write_bytes(pickle.dumps(buffer, pickle.HIGHEST_PROTOCOL))
