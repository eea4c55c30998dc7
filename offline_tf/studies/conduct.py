"""Works a study through: gives jobs while there is room, notes how each ended, asks all to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from offline_tf.run_folder import stopping
from offline_tf.studies.pools import Pool
from offline_tf.studies.running import End, Job

_LOOK_SECONDS = 0.5


class Source(Protocol):
    """What is to be run; it may depend on how others ended."""

    def next(self) -> Job | None:
        """The next job; None: there is none now."""

    def ended(self, job: Job, end: End) -> None:
        """Takes note."""

    def to_stop(self, running: list[Job]) -> list[Job]:
        """Those that are not worth going on."""


class Listed:
    """Jobs that are known beforehand."""

    def __init__(self, jobs: list[Job], on_end: Callable[[Job, End], None]) -> None:
        """on_end: (job, how it ended), called for each."""
        self._waiting: Iterator[Job] = iter(jobs)
        self.ended = on_end

    def next(self) -> Job | None:
        """See `Source`."""
        return next(self._waiting, None)

    def to_stop(self, running: list[Job]) -> list[Job]:
        """See `Source`."""
        return []


def conduct(source: Source, pool: Pool, watch: Callable[[list[Job]], None] | None = None) -> None:
    """Runs what a source gives, to the end.

    Args:
      source: of jobs.
      pool: runs them; closed at the end.
      watch: called between looks with those that run.

    Raises:
      stopping.Stopped: somebody asked for it; all have saved and ended, and the source knows.
    """
    asked: set[str] = set()  # to stop; once is enough, and more would stop a run unsaved
    refused: Job | None = None
    try:
        while True:
            while pool.room() > 0 and (job := refused or source.next()) is not None:
                refused = None if pool.submit(job) else job
                stopping.check()
            running = pool.running()
            if not running and refused is None:
                return
            if watch is not None:
                watch(running)
            for job in source.to_stop(running):
                if job.name not in asked:
                    asked.add(job.name)
                    pool.stop(job)
            time.sleep(_LOOK_SECONDS)
            _note(source, pool)
            stopping.check()
    except BaseException:
        for job in pool.running():
            if job.name not in asked:
                pool.stop(job)
        while pool.running():
            time.sleep(_LOOK_SECONDS)
            _note(source, pool)
        raise
    finally:
        pool.close()


def _note(source: Source, pool: Pool) -> None:
    for job, end in pool.ended():
        source.ended(job, end)
