"""Works a study: what is left of it, where, and what is said of it."""

from __future__ import annotations

import os
import pathlib
import sys
import time

from absl import logging

from offline_tf.config.study_config import StudyConfig
from offline_tf.numerics import large_columns
from offline_tf.run_folder import locks
from offline_tf.studies import conduct, description, estimates, keeping, overview, pools, search
from offline_tf.studies import store as stores
from offline_tf.studies.running import End, Job
from offline_tf.types import UserError

_SHARE_OF_MEMORY = 0.8  # what runs may take of a machine's
_SEARCHED_AT_A_TIME = 4
_LOOK_SECONDS = 60.0  # between looks at what runs elsewhere have brought to the store


def work(config: StudyConfig) -> None:
    """Runs what is left.

    Raises:
      UserError: the file is wrong, an engine is not there, another process works here, or a run
        failed.
      stopping.Stopped: somebody asked for it; all runs have saved and ended.
    """
    study = description.read(pathlib.Path(config.study))
    if study.store:
        stores.check(study.store, may_write=not config.status)
    if config.status:
        print("\n".join(_told(study, config.threads)))
        return
    lock = study.folder / "study.lock"
    try:
        held = locks.take(lock)
    except BlockingIOError:
        raise UserError(f"--study: another process works in {study.folder}; wait for it") from None
    try:
        if study.search is None:
            _listed(config, study)
        else:
            for name in study.runs:
                _searched(config, study, name)
    finally:
        if held is not None:
            held.close()


def _told(study: description.Study, threads: int) -> list[str]:
    """The table of all runs; of a search, of its candidates, and their ranking."""
    if study.search is None:
        jobs = _jobs(study, threads)
        _bring(study, jobs)
        return overview.table(jobs)
    lines = []
    for name, flags in study.runs.items():
        found = search.read(study, name)
        jobs = [study.job(each.name, flags, threads) for each in found]
        _bring(study, jobs)
        lines += overview.table(jobs)
        lines += search.in_words(found)
    return lines


def _jobs(study: description.Study, threads: int) -> list[Job]:
    return [study.job(name, flags, threads) for name, flags in study.runs.items()]


def _bring(study: description.Study, jobs: list[Job], may_push: bool = False) -> None:
    """What tables read of runs that a store keeps; see `keeping.bring_all`."""
    if study.store:
        keeping.bring_all(study.store, [(job.store, job.folder) for job in jobs], may_push)


def _bring_or_warn(study: description.Study, jobs: list[Job], has_ended: bool = False) -> None:
    """The same while runs work, which go on without; one that has ended is worth some tries."""
    try:
        if has_ended:
            keeping.again_and_again(lambda: _bring(study, jobs))
        else:
            _bring(study, jobs)
    except stores.StoreError as error:
        logging.warning("%s", error)


def _is_kept(job: Job, end: End | None) -> bool:
    """Whether a run is done and its store, if it has one, has it."""
    return job.is_done and (not job.store or end is None or not end.status or end.stopped)


def _listed(config: StudyConfig, study: description.Study) -> None:
    jobs = _jobs(study, config.threads)
    _bring(study, jobs, may_push=True)
    left = [job for job in jobs if not job.is_done]
    logging.info("%d of %d runs to do, in %s", len(left), len(jobs), study.folder)
    if not left:
        return
    pool = _pool(config, study, [job.name for job in left])
    ends: dict[str, End] = {}

    def ended(job: Job, end: End) -> None:
        ends[job.name] = end
        _bring_or_warn(study, [job], has_ended=True)
        _tell(job, end)

    try:
        conduct.conduct(
            conduct.Listed(left, ended), pool, _Table(study, jobs, config.table_minutes)
        )
    finally:
        _say(overview.table(jobs))
    failed = [job for job in jobs if not _is_kept(job, ends.get(job.name))]
    if failed:
        raise UserError(
            f"--study: {len(failed)} of {len(jobs)} runs are not done; their last lines stand above, "
            f"all in {failed[0].log}"
        )


def _searched(config: StudyConfig, study: description.Study, name: str) -> None:
    source = search.Search(study, name, study.runs[name], config.threads)
    try:
        conduct.conduct(_Telling(study, source), _pool(config, study, [name]))
    finally:
        found = source.ranking()
        _say(search.in_words(found))
    if not found or found[0].worth is None:
        raise UserError(
            f"--study: no candidate of {name} can be relied on; the logs beside "
            f"{study.folder / name} say more"
        )


class _Telling:
    """A source whose ends are told; it sees what runs elsewhere have brought to the store."""

    def __init__(self, study: description.Study, source: search.Search) -> None:
        self._study, self._source = study, source
        self.next, self._last = source.next, time.monotonic()

    def to_stop(self, running: list[Job]) -> list[Job]:
        """See `conduct.Source`."""
        if self._study.store and time.monotonic() - self._last > _LOOK_SECONDS:
            _bring_or_warn(self._study, running)
            self._last = time.monotonic()
        return self._source.to_stop(running)

    def ended(self, job: Job, end: End) -> None:
        """See `conduct.Source`."""
        _bring_or_warn(self._study, [job], has_ended=True)
        self._source.ended(job, end)
        _tell(job, end)


class _Table:
    """Prints the table of all runs now and then."""

    def __init__(self, study: description.Study, jobs: list[Job], minutes: float) -> None:
        self._study, self._jobs = study, jobs
        self._seconds, self._last = 60.0 * minutes, time.monotonic()

    def __call__(self, running: list[Job]) -> None:
        if time.monotonic() - self._last > self._seconds:
            _bring_or_warn(self._study, running)
            self._last = time.monotonic()
            _say(overview.table(self._jobs))


def _say(lines: list[str]) -> None:
    for line in lines:
        logging.info("%s", line)


def _tell(job: Job, end: End) -> None:
    where = f" on {end.host}" if end.host else ""
    if _is_kept(job, end):
        logging.info("%s: done after %.1f min%s", job.name, end.seconds / 60.0, where)
    elif end.stopped:
        logging.info("%s: stopped%s", job.name, where)
    else:
        logging.error("%s: exit %d%s: %s", job.name, end.status, where, end.line)


def _pool(config: StudyConfig, study: description.Study, names: list[str]) -> pools.Pool:
    """The engine; what a run needs is asked where nobody says how many run at a time."""
    memory = 0.0
    if not config.workers:
        logging.info("asking each kind of run what it takes; --workers=N leaves that out")
        found = estimates.of_runs(study, names, config.threads, keep=True)
        memory = max(each.memory for each in found.values())
    needs = pools.Needs(config.threads, memory)
    if config.engine == "ray":
        return pools.RayPool(config.address, config.workers, needs)
    if config.engine == "slurm":
        # A search learns from those that have ended, so not all are asked at once.
        workers = config.workers or (_SEARCHED_AT_A_TIME if study.search else 0)
        options = dict(word.split("=", 1) for word in config.slurm)
        values = {key: _value(word) for key, word in options.items()}
        return pools.SlurmPool(study.folder / "slurm", workers=workers, needs=needs, options=values)
    workers = config.workers or fitting(needs)
    logging.info("%d runs at a time", workers)
    return pools.LocalPool(workers)


def _value(word: str) -> object:
    """A number, true or false, or the word."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


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
    if study.store:
        stores.check(study.store, may_write=False)
    told = _told(study, config.threads)  # with a store it brings down what the next line reads
    if study.search is None:
        left = {job.name: 1 for job in _jobs(study, config.threads) if not job.is_done}
    else:
        ended = ("waiting", "running")  # Optuna's words for those that have not
        left = {
            name: study.search.candidates
            - sum(each.verdict not in ended for each in search.read(study, name))
            for name in study.runs
        }
    found = estimates.of_runs(study, list(left), config.threads, keep=False)
    hours = sum(found[name].minutes * count for name, count in left.items()) * config.threads / 60.0
    gib = max((each.memory for each in found.values()), default=0.0) / 2**30
    return [
        *told,
        f"left: {sum(left.values())} runs, about {hours:.2g} core hours, {gib:.1f} GiB of memory for "
        "the largest",
    ]
