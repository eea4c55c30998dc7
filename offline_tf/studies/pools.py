"""Where the runs of a study are worked: processes of this machine, a Ray cluster, Slurm."""

from __future__ import annotations

import pathlib
import signal
import socket
import threading
import time
from typing import Any, NamedTuple, Protocol

from absl import logging

from offline_tf import install_hints
from offline_tf.studies.running import End, Job, Try, run_to_end
from offline_tf.types import UserError

_REQUIREMENTS = "requirements-study.txt"
_STOPPED = 143
_CONNECT_SECONDS = 10.0
_REFUSED_SECONDS = 60.0
_TIMEOUTS = 1000  # how often Slurm queues a job again whose time is over
_LOST = ("CANCELLED", "PREEMPTED", "TIMEOUT", "INTERRUPTED", "NODE_FAIL", "BOOT_FAIL")


class Pool(Protocol):
    """Works jobs."""

    def room(self) -> int:
        """How many more may be given now."""

    def submit(self, job: Job) -> bool:
        """Gives a job, which may wait for its turn; False: refused, it has to be given again."""

    def ended(self) -> list[tuple[Job, End]]:
        """Those that have ended since the last call."""

    def stop(self, job: Job) -> None:
        """Asks a job to save and end; it will be among those that ended."""

    def running(self) -> list[Job]:
        """Those that were given and have not ended."""

    def close(self) -> None:
        """Lets go of what it holds; nothing runs any more."""


class Needs(NamedTuple):
    """What one run takes.

    Attributes:
      threads: of it.
      memory: bytes at its peak; 0: nobody knows.
    """

    threads: int = 1
    memory: float = 0.0


class LocalPool:
    """Processes of this machine."""

    def __init__(self, workers: int) -> None:
        """workers: runs at a time."""
        self._workers = workers
        self._tries: list[Try] = []

    def room(self) -> int:
        """See `Pool`."""
        return self._workers - len(self._tries)

    def submit(self, job: Job) -> bool:
        """See `Pool`."""
        self._tries.append(Try(job))
        return True

    def ended(self) -> list[tuple[Job, End]]:
        """See `Pool`."""
        ends = [(each, each.poll()) for each in self._tries]
        self._tries = [each for each, end in ends if end is None]
        return [(each.job, end) for each, end in ends if end is not None]

    def stop(self, job: Job) -> None:
        """See `Pool`."""
        for each in self._tries:
            if each.job == job:
                each.stop()

    def running(self) -> list[Job]:
        """See `Pool`."""
        return [each.job for each in self._tries]

    def close(self) -> None:
        """See `Pool`."""


class RayPool:
    """Tasks of a Ray cluster whose machines see the study's folder; Ray gives lost ones to others."""

    def __init__(self, address: str, workers: int, needs: Needs) -> None:
        """Connects to a cluster, or starts one on this machine.

        Args:
          address: "HOST:PORT", "auto"; empty: one is started here.
          workers: runs at a time; 0: as many as cores and memory allow.
          needs: of one run.

        Raises:
          UserError: Ray is not installed, or no cluster answers.
        """
        self._ray: Any = install_hints.needed("ray", _REQUIREMENTS, "--engine=ray")
        _check_answers(address)
        handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own there, which exits at once
        try:
            self._ray.init(
                address=address or None,
                include_dashboard=False if not address else None,
                log_to_driver=False,
                logging_level="ERROR",
                **({} if address else {"num_cpus": workers * needs.threads or None}),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--address: expected a Ray cluster at {address or 'this machine'}, got: {error}"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        self._workers, self._needs = workers, needs
        self._check_fits()
        options = {"num_cpus": needs.threads, "max_retries": -1}
        if needs.memory:
            options["memory"] = int(needs.memory)
        self._task = self._ray.remote(run_to_end).options(**options)
        self._jobs: dict[Any, Job] = {}

    def _check_fits(self) -> None:
        """Ray would wait for ever for a machine that is large enough.

        Raises:
          UserError: no machine of the cluster is.
        """
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needed = {"CPU": float(self._needs.threads), "memory": self._needs.memory}
        if any(all(each.get(k, 0.0) >= v for k, v in needed.items()) for each in machines):
            return
        most = {k: max((each.get(k, 0.0) for each in machines), default=0.0) for k in needed}
        self._ray.shutdown()
        raise UserError(
            f"--engine=ray: a run needs {needed['CPU']:g} cores and {needed['memory'] / 2**30:.1f} "
            f"GiB, the largest machines have {most['CPU']:g} and {most['memory'] / 2**30:.1f}; lower "
            "--threads, or give smaller runs"
        )

    def room(self) -> int:
        """See `Pool`; one more than fits, so that no core waits for us."""
        fits = int(self._ray.cluster_resources().get("CPU", 0)) // self._needs.threads + 1
        return (self._workers or fits) - len(self._jobs)

    def submit(self, job: Job) -> bool:
        """See `Pool`."""
        self._jobs[self._task.remote(job)] = job
        return True

    def ended(self) -> list[tuple[Job, End]]:
        """See `Pool`."""
        if not self._jobs:
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
        return [(self._jobs.pop(reference), self._end(reference)) for reference in ready]

    def _end(self, reference: Any) -> End:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return End(_STOPPED, "stopped", 0.0, "")
        except self._ray.exceptions.RayError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return End(1, f"error: Ray: {first}", 0.0, "")

    def stop(self, job: Job) -> None:
        """See `Pool`; Ray raises KeyboardInterrupt in the task."""
        for reference, each in self._jobs.items():
            if each == job:
                self._ray.cancel(reference)

    def running(self) -> list[Job]:
        """See `Pool`."""
        return list(self._jobs.values())

    def close(self) -> None:
        """See `Pool`."""
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
      UserError: nothing listens at HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto"
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address: no Ray cluster answers at {address} ({error.strerror or error}); start one "
            "with ray start --head, or leave --address out"
        ) from None


class _Requeued:
    """`run_to_end` for Slurm: a run whose time is over, or that is preempted, is queued again."""

    def __call__(self, job: Job) -> End:
        return run_to_end(job)

    def checkpoint(self, job: Job) -> Any:
        """What submitit queues instead."""
        submitit: Any = install_hints.needed("submitit", _REQUIREMENTS, "--engine=slurm")
        return submitit.helpers.DelayedSubmission(self, job)


class SlurmPool:
    """Jobs of a Slurm cluster whose nodes see the study's folder."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        workers: int,
        needs: Needs,
        options: dict[str, Any],
        cluster: str = "slurm",
    ) -> None:
        """Prepares submission.

        Args:
          folder: for submitit's files; seen by all nodes.
          workers: queued or running at a time; 0: all.
          needs: of one run.
          options: more of submitit's parameters, such as slurm_partition.
          cluster: "slurm"; "local" runs here, for tests.

        Raises:
          UserError: submitit is not installed, there is no Slurm here, or an option is unknown.
        """
        submitit: Any = install_hints.needed("submitit", _REQUIREMENTS, "--engine=slurm")
        self._submitit = submitit
        more: dict[str, Any] = {"mem_gb": needs.memory / 2**30} if needs.memory else {}
        try:
            self._executor = submitit.AutoExecutor(
                folder, cluster=cluster, slurm_max_num_timeout=_TIMEOUTS
            )
            self._executor.update_parameters(
                cpus_per_task=needs.threads, **({"timeout_min": 1440} | more | options)
            )
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
            raise UserError(f"--engine=slurm: {error}") from None
        self._workers, self._not_before = workers, 0.0
        self._jobs: list[tuple[Job, Any]] = []

    def room(self) -> int:
        """See `Pool`; none for a minute after Slurm has refused a job, say as there are too many."""
        if time.monotonic() < self._not_before:
            return 0
        return (self._workers or 10_000) - len(self._jobs)

    def submit(self, job: Job) -> bool:
        """See `Pool`."""
        job.stop_file.unlink(missing_ok=True)
        try:
            theirs = self._executor.submit(_Requeued(), job)
        except self._submitit.core.utils.FailedJobError as error:
            logging.warning("Slurm takes no job now: %s", str(error).strip().splitlines()[-1])
            self._not_before = time.monotonic() + _REFUSED_SECONDS
            return False
        self._jobs.append((job, theirs))
        return True

    def ended(self) -> list[tuple[Job, End]]:
        """See `Pool`."""
        done = [entry for entry in self._jobs if entry[1].done()]
        self._jobs = [entry for entry in self._jobs if entry not in done]
        return [(job, self._end(job, theirs)) for job, theirs in done]

    def _end(self, job: Job, theirs: Any) -> End:
        if theirs.exception() is None:
            return theirs.result()
        if any(theirs.state.startswith(state) for state in _LOST):
            return End(_STOPPED, "stopped", 0.0, "")
        return End.read(job) or End(1, f"error: Slurm: {theirs.state}", 0.0, "")

    def stop(self, job: Job) -> None:
        """See `Pool`."""
        for each, theirs in self._jobs:
            if each == job:
                # scancel would kill the run before it has saved.
                job.folder.parent.mkdir(parents=True, exist_ok=True)
                job.stop_file.touch()
                if theirs.state == "PENDING":
                    theirs.cancel()

    def running(self) -> list[Job]:
        """See `Pool`."""
        return [job for job, _ in self._jobs]

    def close(self) -> None:
        """See `Pool`."""
