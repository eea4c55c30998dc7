"""How far the runs of a study are: a line each, and why some failed."""

from __future__ import annotations

import collections
import json
import pathlib
from typing import Any, NamedTuple

from offline_tf.run_folder import locks
from offline_tf.studies import store
from offline_tf.studies.running import End, Job, last_line

DONE, RUNNING, STOPPED, FAILED, WAITING = "done", "running", "stopped", "failed", "waiting"
_WIDTH = 100


class State(NamedTuple):
    """Where a run stands.

    Attributes:
      kind: "done", "running", "stopped" (it goes on from a checkpoint), "failed" or "waiting".
      minutes: of all its stages so far; of a failed one, of the last try.
      says: its result, how far it is, or the error.
    """

    kind: str
    minutes: float
    says: str


def state_of(job: Job) -> State:
    """Looks at a run's folder, and at the lease that was last seen in its store."""
    end, says = End.read(job), last_line(job.log)
    if job.is_done:
        summary = json.loads((job.folder / "summary.json").read_text())
        return State(DONE, summary.get("wall_seconds", 0.0) / 60.0, _result(summary))
    if locks.is_held(job.folder / store.LOCK) or _works_elsewhere(job):
        return State(RUNNING, _minutes(job.folder), says)
    if end is not None and end.status and not end.stopped:
        return State(FAILED, end.seconds / 60.0, end.line)
    if (job.folder / "manifest.json").exists():
        return State(STOPPED, _minutes(job.folder), says)
    return State(WAITING, 0.0, "")


def _works_elsewhere(job: Job) -> bool:
    lease = store.lease_beside(job.folder) if job.store else None
    return lease is not None and lease.is_fresh


def _minutes(folder: pathlib.Path) -> float:
    seconds = 0.0
    for path in (folder / "stages").glob("*.json"):
        try:
            seconds += json.loads(path.read_text()).get("seconds", 0.0)
        except ValueError:  # another machine's is on its way
            continue
    return seconds / 60.0


def _result(summary: dict[str, Any]) -> str:
    words = []
    if summary.get("true_return_mean") is not None:
        words.append(f"return {summary['true_return_mean']:.4g}")
    if summary.get("promise") is not None:
        words.append(f"promised {summary['promise']:.4g}")
    if verdict := summary.get("verdict"):
        words.append(verdict["level"])
    return ", ".join(words)


def table(jobs: list[Job]) -> list[str]:
    """All runs in lines, and how many stand where.

    Args:
      jobs: of the study.
    """
    states = {job.name: state_of(job) for job in jobs}
    width = max(map(len, states), default=0)
    lines = [
        f"{name:<{width}}  {state.kind:<8}{state.minutes:7.1f} min  {state.says[:_WIDTH]}".rstrip()
        for name, state in states.items()
    ]
    return [*lines, in_words([state.kind for state in states.values()])]


def in_words(kinds: list[str]) -> str:
    """Such as "12 runs: 3 done, 9 waiting"."""
    counts = collections.Counter(kinds)
    parts = [
        f"{counts[kind]} {kind}"
        for kind in (DONE, RUNNING, STOPPED, FAILED, WAITING)
        if counts[kind]
    ]
    return f"{len(kinds)} runs: {', '.join(parts)}"
