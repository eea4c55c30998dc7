"""tf.function as this project uses it; threads, compiler and command line of the process."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from offline_tf.models import devices

# Without AutoGraph: nothing of ours branches on a tensor, and converting its Python takes long
# (benchmarks/tracing.py). Where a graph loops or branches, say tf.while_loop and tf.cond.
function = functools.partial(tf.function, autograph=False)


def of_task(call: Callable[..., Any]) -> Callable[..., Any]:
    """A task's reward or termination, to be called in a graph: a user's may loop over tensors."""
    ours = str(getattr(call, "__module__", "")).startswith("offline_tf.")
    return call if ours or tf.executing_eagerly() else tf.function(call)


_chosen = {"compiler": "graph"}


def use_threads(threads: int) -> int:
    """Sets TensorFlow's threads, 0 for all cores; returns the number used.

    One thread per product and the ensemble's members side by side is faster here than the other way
    round (benchmarks/training.py). XLA, which has products of its own on GPUs, is told about float32
    too: see offline_tf/__init__.py.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    count = threads or os.cpu_count() or 1
    tf.config.threading.set_inter_op_parallelism_threads(count)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    return count


def use_compiler(choice: str) -> str:
    """Sets what `compiled` means from now on, "auto", "graph" or "xla"; returns "graph" or "xla".

    On a CPU, XLA has no oneDNN: bfloat16 is slow there, and random numbers are other ones.
    """
    if choice == "auto":
        choice = "xla" if tf.config.list_physical_devices("GPU") else "graph"
    _chosen["compiler"] = choice
    return choice


def compiler() -> str:
    """What `use_compiler` set: "graph" or "xla"."""
    return _chosen["compiler"]


def compiled(
    call: Callable[..., Any], *, in_parts: bool = False, **options: Any
) -> Callable[..., Any]:
    """A tf.function of a hot loop, by this process's compiler.

    Args:
      call: its tensors have the same shapes in nearly all calls; XLA compiles each anew.
      in_parts: whether it computes parts on several devices, see `of_part`; XLA compiles for one.
      options: of tf.function.
    """
    as_a_whole = not (in_parts and devices.here() > 1)
    by_xla = as_a_whole and _chosen["compiler"] == "xla"
    return function(call, jit_compile=by_xla or None, **options)


def of_part(call: Callable[..., Any]) -> Callable[..., Any]:
    """Computes one part within `devices.part`: where there are several devices, a graph of its own."""
    return compiled(call) if devices.here() > 1 else call


class ForAnyLength:
    """A tf.function whose graph never knows how long its tensors are.

    A graph that knows the shapes of its first call may use other kernels and orders of sums than one
    for all shapes, which TensorFlow makes when a second shape comes. So results would depend on what
    the process had computed before, and a resumed run would part from an unbroken one.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        *,
        make: Callable[..., Any] = function,
        free: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        """Traces nothing yet.

        Args:
          call: of tensors, or of tuples of tensors.
          make: `function` or `compiled`.
          free: argument -> axes whose length the graph does not know; of all others it is the first.
        """
        self._call = call
        self._make = make
        self._free = free or {}
        self._graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Calls the graph of these ranks, dtypes and other lengths."""
        signature = [
            tf.nest.map_structure(functools.partial(_spec, free=self._free.get(at, (0,))), argument)
            for at, argument in enumerate(arguments)
        ]
        key = tuple(tf.nest.flatten(signature))
        if key not in self._graphs:
            self._graphs[key] = self._make(self._call, input_signature=signature)
        return self._graphs[key](*arguments)


def _spec(value: Any, free: tuple[int, ...]) -> tf.TensorSpec:
    tensor = tf.convert_to_tensor(value)
    lengths = [None if axis in free else length for axis, length in enumerate(tensor.shape)]
    return tf.TensorSpec(lengths, tensor.dtype)


def in_words(threads: int, dtype: str) -> str:
    """What the user is told at the start of a run."""
    by = {"graph": "TensorFlow's own kernels", "xla": "XLA"}[_chosen["compiler"]]
    return f"{threads} threads, {by}, products in {dtype} while fitting"
