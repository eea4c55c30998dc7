"""tf.function as this project uses it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Without AutoGraph: nothing of ours branches on a tensor, and converting its Python takes long
# (benchmarks/tracing.py). Where a graph loops or branches, say tf.while_loop and tf.cond.
function = functools.partial(tf.function, autograph=False)


def of_task(call: Callable[..., Any]) -> Callable[..., Any]:
    """A task's reward or termination, to be called in a graph: a user's may loop over tensors."""
    ours = str(getattr(call, "__module__", "")).startswith("offline_tf.")
    return call if ours or tf.executing_eagerly() else tf.function(call)
