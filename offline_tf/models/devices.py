"""Fits on several devices: each one computes the gradient of its rows of every minibatch.

TensorFlow's strategies do the work: MirroredStrategy on one machine, MultiWorkerMirroredStrategy over
several, which the environment variable TF_CONFIG names. The networks of a shared fit are made within
`scope`. Rows that need no others, paths of roll-outs and candidates of a planner, are computed in parts
on this worker's devices, see `part`. Everything else computes on the first device, in every worker.

Worker 0, the chief, keeps the run folder. The others do the same run in a folder of their own, which
is gone afterwards: they begin with a copy of the chief's, so that all know the same checkpoints, and
meet the chief in every step of a shared fit. Before a fit they compare what they are about to do.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from offline_tf.types import Array, Tensor, UserError

_ALL = "all"
_PREFIX = "offline_tf_worker_"
_COPIED = ("stages", "checkpoints", "metrics")
_state: dict[str, Any] = {"strategy": None, "worker": 0, "workers": 1, "only_first": False}
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
      choice: how many devices of this machine: GPUs, or where there is none, parts of the CPU, which
        compute no faster. "all": all of them, and with TF_CONFIG those of all workers.

    Returns:
      How many there are over all workers.

    Raises:
      UserError: there are fewer, TF_CONFIG cannot be read, or another worker is gone.
    """
    _state.update(strategy=None, worker=0, workers=1)
    addresses, worker = _cluster() if choice == _ALL else ([], 0)
    if len(addresses) > 1:
        logging.info("worker %d of %d waits for the others", worker, len(addresses))
        _state.update(worker=worker, workers=len(addresses))
        with unless_lost(), _interruptible():
            _state["strategy"] = _of_workers()
        if worker:
            logging.info("worker 0 tells how the run goes, and keeps it")
            logging.set_verbosity(logging.WARNING)
    else:
        _use_here(choice)
    return replicas()


def use_devices_here(choice: str) -> str:
    """`use_devices` without the other workers of a TF_CONFIG, for pieces that are tried.

    Returns:
      The devices that the run itself would have, in words as in `in_words`.

    Raises:
      UserError: there are fewer here, or TF_CONFIG cannot be read.
    """
    _state.update(strategy=None, worker=0, workers=1)
    others = max(len(_cluster()[0]), 1) if choice == _ALL else 1
    _use_here(choice)
    if others == 1:
        return in_words()
    return f"fits on {others * replicas()} devices of {others} workers, timed on this one alone"


def _use_here(choice: str) -> None:
    names = _devices(choice)
    if len(names) > 1:
        _split_cpu(names)
        _state["strategy"] = _of_devices(tuple(names))


def check_one_worker(flag: str, choice: str) -> None:
    """Checks that this is no run of several workers.

    Args:
      flag: what needs that, for the error.
      choice: as in `use_devices`.

    Raises:
      UserError: it is.
    """
    if choice == _ALL and len(_cluster()[0]) > 1:
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
        count = len(gpus) if choice == _ALL else int(choice)
        if count > len(gpus):
            raise UserError(f"--devices: expected at most {len(gpus)}, the GPUs here, got {count}")
        return [f"GPU:{number}" for number in range(count)]
    return [f"CPU:{number}" for number in range(1 if choice == _ALL else int(choice))]


def _split_cpu(names: list[str]) -> None:
    """Makes as many parts of the CPU, if these are such."""
    if not names[0].startswith("CPU"):
        return
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = tf.config.get_logical_device_configuration(cpu)
    if parts is not None and len(parts) >= len(names):
        return
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration() for _ in names]
        )
    except RuntimeError:  # TensorFlow has begun
        raise UserError(
            f"--devices: the CPU is one device already, not {len(names)}; give the flag to a new "
            "process"
        ) from None


def replicas() -> int:
    """Devices over all workers that a shared fit computes on."""
    strategy = _state["strategy"]
    return strategy.num_replicas_in_sync if strategy else 1


def here() -> int:
    """Devices of this worker that `part` spreads parts over."""
    return 1 if _state["only_first"] else len(_names_here())


def _names_here() -> tuple[str, ...]:
    chosen = strategy()
    return chosen.extended.worker_devices if chosen else ("",)


@contextlib.contextmanager
def part(number: int) -> Iterator[None]:
    """Where a part of rows that need no others is computed: one device after the other has its turn.

    Args:
      number: of the part, from 0.
    """
    if here() == 1:
        yield
        return
    names = _names_here()
    with tf.device(names[number % len(names)]):
        yield


@contextlib.contextmanager
def only_first() -> Iterator[None]:
    """Within, nothing is spread: for graphs that other machines will run."""
    before = _state["only_first"]
    _state["only_first"] = True
    try:
        yield
    finally:
        _state["only_first"] = before


def workers() -> int:
    """Processes that fit together, this one included."""
    return _state["workers"]


def in_words() -> str:
    """What the user is told at the start of a run; empty for one device."""
    if replicas() == 1:
        return ""
    if workers() == 1:
        return f"fits on {replicas()} devices"
    return f"fits on {replicas()} devices of {workers()} workers"


def strategy() -> tf.distribute.Strategy | None:
    """TensorFlow's strategy for shared fits; None for one device."""
    return _state["strategy"]


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """Where the variables of a shared fit are made, a copy on each device.

    Raises:
      UserError: another worker is gone.
    """
    chosen = strategy()
    if chosen is None:
        yield
        return
    with unless_lost(), chosen.scope():
        yield


def own_folder(folder: pathlib.Path) -> pathlib.Path:
    """The run folder of this worker: the one asked for, or, not being the chief, one of its own.

    Waits until the chief has called `let_others_copy`.

    Raises:
      UserError: the chief's folder cannot be seen from here, or the chief is gone.
    """
    if _state["worker"] == 0:
        return folder
    with _interruptible():
        agreed(0)
    own = _new_folder()
    if (folder / "manifest.json").exists():
        shutil.copy2(folder / "manifest.json", own)
        for name in _COPIED:
            if (folder / name).exists():
                shutil.copytree(folder / name, own / name)
    check_same(
        _names_in(own),
        f"--workdir: expected {folder} on a file system that all workers share; what worker "
        f"{_state['worker']} sees there is not what worker 0 has",
    )
    return own


def let_others_copy(folder: pathlib.Path) -> None:
    """Waits, as the chief, until the others have its folder as it is now; see `own_folder`.

    Raises:
      UserError: one of them is gone, or sees another folder.
    """
    if _state["worker"] == 0 and workers() > 1:
        with _interruptible():
            agreed(0)
        check_same(
            _names_in(folder),
            f"--workdir: expected {folder} on a file system that all workers share; others see another "
            "folder there",
        )


def _new_folder() -> pathlib.Path:
    """A folder that goes with this process; those of processes that were killed go now."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("_")[0]
        if pid.isdecimal() and not pathlib.Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)
    own = pathlib.Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _names_in(folder: pathlib.Path) -> list[bytes]:
    """What tells one state of a run folder from another."""
    names = [p.relative_to(folder) for name in _COPIED[:2] for p in (folder / name).rglob("*")]
    manifest = folder / "manifest.json"
    text = manifest.read_bytes() if manifest.exists() else b""
    return [text, *sorted(str(name).encode() for name in names)]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the process: TensorFlow waits where Python is not asked."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(number: float) -> int:
    """The chief's number, in every worker.

    Raises:
      UserError: a worker is gone.
    """
    if workers() == 1:
        return int(number)
    return _over_workers(int(number) if _state["worker"] == 0 else 0)[0]


def any_of(wish: bool) -> bool:
    """Whether some worker wishes it.

    Raises:
      UserError: a worker is gone.
    """
    return wish if workers() == 1 else _over_workers(int(wish))[0] > 0


def check_same(parts: Iterable[bytes], error: str) -> None:
    """Checks that all workers have the same.

    Args:
      parts: of this worker.
      error: what is said where they have not, by each worker.

    Raises:
      UserError: they have not, or one is gone.
    """
    if workers() == 1:
        return
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    number = int.from_bytes(digest.digest()[:3], "little")  # its square is far from int64's end
    total, squares = _over_workers(number, number * number)
    if workers() * squares != total * total:  # equal where all are the same, and only there
        raise UserError(error)


def _over_workers(*numbers: int) -> list[int]:
    """Sums over workers."""
    with unless_lost():
        sums = _summing()(tf.constant(numbers, tf.int64))
    return [int(each) for each in sums.numpy()]


@functools.cache
def _summing() -> Callable[[Tensor], Tensor]:
    chosen = strategy()
    assert chosen is not None
    own = len(chosen.extended.worker_devices)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int64)])
    def of_all(mine: Tensor) -> Tensor:
        def share() -> Tensor:
            context = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group % own, 0)
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(is_first, mine, tf.zeros_like(mine))
            )

        return chosen.experimental_local_results(chosen.run(share))[0]

    return of_all


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
        lines = [line.strip() for line in str(error).splitlines()]
        reason = max(lines, key=len, default="")[:200]
        raise UserError(
            f"worker {_state['worker']}: another worker is gone, and its last line says why; start all "
            f"of them again, and the run goes on from its last checkpoint ({type(error).__name__}: "
            f"{reason})"
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
