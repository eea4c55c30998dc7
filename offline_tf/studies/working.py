"""Works a study: what is left of it, where, and what is said of it."""

from __future__ import annotations

import os
import pathlib
import sys
import time

from absl import logging

from offline_tf.config.study_config import StudyConfig
from offline_tf.numerics import large_columns
from offline_tf.run_folder import stopping
from offline_tf.studies import conduct, description, estimates, overview, pools, search
from offline_tf.studies.running import End, Job
from offline_tf.types import UserError

_SHARE_OF_MEMORY = 0.8  # what runs may take of a machine's


def work(config: StudyConfig) -> None:
    """Runs what is left.

    Raises:
      UserError: the file is wrong, an engine is not there, or a run failed.
      stopping.Stopped: somebody asked for it; all runs have saved and ended.
    """
    study = description.read(pathlib.Path(config.study))
    jobs = [study.job(name, flags, config.threads) for name, flags in study.runs.items()]
    if config.status:
        print("\n".join(overview.table(jobs)))
        for name, flags in study.runs.items() if study.search else ():
            found = search.Search(study, name, flags, config.threads).ranking()
            print("\n".join(search.in_words(found)))
        return
    if study.search is None:
        left = [job for job in jobs if not job.is_done]
        logging.info("%d of %d runs to do, in %s", len(left), len(jobs), study.folder)
        if left:
            _listed(config, study, jobs, left)
    else:
        for name, flags in study.runs.items():
            _searched(config, study, name, flags)
    failed = [job for job in jobs if not (study.search or job.is_done)]
    if failed:
        raise UserError(
            f"--study: {len(failed)} of {len(jobs)} runs failed; their last lines stand above, all in "
            f"{failed[0].log}"
        )


def _listed(
    config: StudyConfig, study: description.Study, jobs: list[Job], left: list[Job]
) -> None:
    source = conduct.Listed(left, _tell)
    try:
        conduct.conduct(source, _pool(config, study), _Table(jobs, config.table_minutes))
    except stopping.Stopped:
        _say(overview.table(jobs))
        raise
    _say(overview.table(jobs))


def _searched(
    config: StudyConfig, study: description.Study, name: str, flags: dict[str, object]
) -> None:
    source = search.Search(study, name, flags, config.threads)
    try:
        conduct.conduct(_Telling(source), _pool(config, study))
    finally:
        _say(search.in_words(source.ranking()))


class _Telling:
    """A source whose ends are told."""

    def __init__(self, source: search.Search) -> None:
        self._source = source
        self.next, self.to_stop = source.next, source.to_stop

    def ended(self, job: Job, end: End) -> None:
        """See `conduct.Source`."""
        self._source.ended(job, end)
        _tell(job, end)


class _Table:
    """Prints the table of all runs now and then."""

    def __init__(self, jobs: list[Job], minutes: float) -> None:
        self._jobs, self._seconds, self._last = jobs, 60.0 * minutes, time.monotonic()

    def __call__(self, running: list[Job]) -> None:
        if time.monotonic() - self._last > self._seconds:
            self._last = time.monotonic()
            _say(overview.table(self._jobs))


def _say(lines: list[str]) -> None:
    for line in lines:
        logging.info("%s", line)


def _tell(job: Job, end: End) -> None:
    where = f" on {end.host}" if end.host else ""
    if job.is_done:
        logging.info("%s: done after %.1f min%s", job.name, end.seconds / 60.0, where)
    elif end.stopped:
        logging.info("%s: stopped%s", job.name, where)
    else:
        logging.error("%s: exit %d%s: %s", job.name, end.status, where, end.line)


def _pool(config: StudyConfig, study: description.Study) -> pools.Pool:
    """The engine; what a run needs is asked where nobody says how many run at a time."""
    memory = 0.0
    if not config.workers:
        logging.info("asking each kind of run what it takes; --workers=N leaves that out")
        found = estimates.of_runs(study, config.threads, keep=True)
        memory = max(each.memory for each in found.values())
    needs = pools.Needs(config.threads, memory)
    if config.engine == "ray":
        return pools.RayPool(config.address, config.workers, needs)
    if config.engine == "slurm":
        options = dict(word.split("=", 1) for word in config.slurm)
        values = {key: int(value) if value.isdigit() else value for key, value in options.items()}
        return pools.SlurmPool(
            study.folder / "slurm", workers=config.workers, needs=needs, options=values
        )
    workers = config.workers or fitting(needs)
    logging.info("%d runs at a time", workers)
    return pools.LocalPool(workers)


def fitting(needs: pools.Needs) -> int:
    """How many runs this machine's cores and memory allow at a time; at least one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    by_memory = _SHARE_OF_MEMORY * large_columns.machine_memory() / max(needs.memory, 1.0)
    return max(1, min(cores // needs.threads, int(by_memory)))


def plan(config: StudyConfig) -> list[str]:
    """The lines of --dry_run: where runs stand, and what those that are left would take.

    Raises:
      UserError: the file or a run's flags are wrong.
    """
    study = description.read(pathlib.Path(config.study))
    jobs = [study.job(name, flags, config.threads) for name, flags in study.runs.items()]
    found = estimates.of_runs(study, config.threads, keep=False)
    left = [job for job in jobs if not job.is_done]
    count = study.search.candidates if study.search else 1
    hours = count * sum(found[job.name].minutes for job in left) * config.threads / 60.0
    gib = max(each.memory for each in found.values()) / 2**30
    tried = f", {count} candidates each" if study.search else ""
    return [
        *overview.table(jobs),
        f"left: about {hours:.1f} core hours{tried}, {gib:.1f} GiB of memory for the largest run",
    ]
