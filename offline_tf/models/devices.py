"""Fits on several devices: each one computes the gradient of its rows of every minibatch.

TensorFlow's strategies do the work: MirroredStrategy on one machine, MultiWorkerMirroredStrategy over
several, which the environment variable TF_CONFIG names. The networks of a shared fit are made within
`scope`; everything else computes on the first device, in every worker.

Worker 0, the chief, keeps the run folder. The others do the same run in a folder of their own, which
is gone afterwards: they begin with a copy of the chief's, so that all know the same checkpoints, and
meet the chief in every step of a shared fit.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from offline_tf.types import Array, Tensor, UserError

_state: dict[str, Any] = {"strategy": None, "worker": 0, "workers": 1}
# What the strategies raise where another worker is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def use_devices(choice: str) -> int:
    """Sets the devices of shared fits; before TensorFlow computes anything.

    Args:
      choice: how many devices of this machine, or "all": GPUs, or where there is none, parts of the
        CPU, which compute no faster. With TF_CONFIG every worker takes all that it has.

    Returns:
      How many there are over all workers.

    Raises:
      UserError: there are fewer, or TF_CONFIG cannot be read.
    """
    _state.update(strategy=None, worker=0, workers=1)
    addresses, worker = _cluster()
    if len(addresses) > 1:
        if choice not in ("1", "all"):
            raise UserError(
                f"--devices: expected all with TF_CONFIG, got {choice}; or set CUDA_VISIBLE_DEVICES"
            )
        logging.info("worker %d of %d waits for the others", worker, len(addresses))
        made = _of_workers()
        _state.update(strategy=made, worker=worker, workers=len(addresses))
        if worker:
            logging.info("worker 0 tells how the run goes, and keeps it")
            logging.set_verbosity(logging.WARNING)
    elif choice != "1":
        names = _devices(choice)
        if len(names) > 1:
            _state["strategy"] = _of_devices(tuple(names))
    return replicas()


def check_one_worker(flag: str) -> None:
    """Checks that this is no run of several workers.

    Args:
      flag: what needs that, for the error.

    Raises:
      UserError: it is.
    """
    if len(_cluster()[0]) > 1:
        raise UserError(f"--{flag}: expected one worker, got a TF_CONFIG of several")


# A second strategy of the same devices would count its collective operations from the beginning, and
# TensorFlow would take them for those of the first.
@functools.cache
def _of_workers() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


@functools.cache
def _of_devices(names: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(names)


def _cluster() -> tuple[list[str], int]:
    """Addresses of the workers of TF_CONFIG, and which of them this one is."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return [], 0
    form = '{"cluster": {"worker": ["HOST:PORT", ..]}, "task": {"type": "worker", "index": 0}}'
    try:
        given = json.loads(text)
        addresses, task = given["cluster"]["worker"], given["task"]
        index = int(task["index"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"TF_CONFIG: expected {form}, got {text}") from None
    is_known = isinstance(addresses, list) and 0 <= index < len(addresses)
    if not is_known or task.get("type") != "worker" or len(given["cluster"]) > 1:
        raise UserError(f"TF_CONFIG: expected workers alone, {form}, got {text}")
    return addresses, index


def _devices(choice: str) -> list[str]:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        count = len(gpus) if choice == "all" else int(choice)
        if count > len(gpus):
            raise UserError(f"--devices: expected at most {len(gpus)}, the GPUs here, got {count}")
        return [f"GPU:{number}" for number in range(count)]
    count = 1 if choice == "all" else int(choice)
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = tf.config.get_logical_device_configuration(cpu)
    if parts is None or len(parts) < count:
        new = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        try:
            tf.config.set_logical_device_configuration(cpu, new)
        except RuntimeError:  # TensorFlow has begun
            raise UserError(f"--devices: the CPU is one device already, not {count}") from None
    return [f"CPU:{number}" for number in range(count)]


def replicas() -> int:
    """Devices over all workers that a shared fit computes on."""
    strategy = _state["strategy"]
    return strategy.num_replicas_in_sync if strategy else 1


def workers() -> int:
    """Processes that fit together, this one included."""
    return _state["workers"]


def in_words() -> str:
    """What the user is told at the start of a run; empty for one device."""
    if replicas() == 1:
        return ""
    if workers() == 1:
        return f"fits on {replicas()} devices"
    return f"fits on {replicas()} devices of {workers()} workers, this is worker {_state['worker']}"


def strategy() -> tf.distribute.Strategy | None:
    """TensorFlow's strategy for shared fits; None for one device."""
    return _state["strategy"]


def scope() -> contextlib.AbstractContextManager[Any]:
    """Where the variables of a shared fit are made, a copy on each device."""
    chosen = strategy()
    return contextlib.nullcontext() if chosen is None else chosen.scope()


def own_folder(folder: pathlib.Path) -> pathlib.Path:
    """The run folder of this worker: the one asked for, or, not being the chief, one of its own.

    Waits until the chief has called `let_others_copy`.

    Raises:
      UserError: the chief's folder cannot be seen from here, or the chief is gone.
    """
    if _state["worker"] == 0:
        return folder
    agreed(0)
    if not (folder / "manifest.json").exists():
        raise UserError(
            f"--workdir: worker {_state['worker']} does not see {folder} of worker 0; several workers "
            "need a file system that they share"
        )
    own = pathlib.Path(tempfile.mkdtemp(prefix="offline_tf_worker_"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    shutil.copytree(folder, own, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run.lock"))
    agreed(0)
    return own


def let_others_copy() -> None:
    """Waits, as the chief, until the others have its folder as it is now; see `own_folder`.

    Raises:
      UserError: one of them is gone.
    """
    if _state["worker"] == 0:
        agreed(0)  # they wait for it
        agreed(0)  # they have copied


def agreed(number: float) -> int:
    """The chief's number, in every worker.

    Raises:
      UserError: a worker is gone.
    """
    chosen = strategy()
    if chosen is None or workers() == 1:
        return int(number)
    mine = tf.constant(int(number) if _state["worker"] == 0 else 0, tf.int64)

    @tf.function(autograph=False)
    def of_chief() -> Tensor:
        def share() -> Tensor:
            context = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group, 0)
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(is_first, mine, tf.zeros_like(mine))
            )

        return chosen.experimental_local_results(chosen.run(share))[0]

    with unless_lost():
        return int(of_chief())


@contextlib.contextmanager
def unless_lost() -> Iterator[None]:
    """Says in one line that another worker is gone.

    Raises:
      UserError: it is.
    """
    try:
        yield
    except _LOST as error:
        if workers() == 1:
            raise
        raise UserError(
            f"worker {_state['worker']}: another worker is gone; start all of them again, and the run "
            f"goes on from its last checkpoint ({type(error).__name__})"
        ) from None


def own_rows(rows: Array) -> Array:
    """Of minibatches [steps, M, B], what this worker's devices compute: [steps, M, B / workers].

    Raises:
      UserError: a device would have no row.
    """
    size = rows.shape[2]
    if size < replicas():
        raise UserError(
            f"--devices: expected at most {size}, the rows of a minibatch, got {replicas()}"
        )
    worker, count = _state["worker"], workers()
    return rows[:, :, size * worker // count : size * (worker + 1) // count]
