"""One run of a study in a process of its own, and how it ended; on any machine that sees the folder.

With a store, on any machine: the folder comes from there before the process starts, goes there while it
works, and once more when it has ended.
"""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import time
from typing import NamedTuple

from offline_tf.run_folder import locks, stopping
from offline_tf.run_folder.files import write_json
from offline_tf.studies import guarded
from offline_tf.studies.keeping import Keeper
from offline_tf.studies.store import LOCK, StoreError, Taken

_STOPPED = (
    *(128 + signal.SIGINT, 128 + signal.SIGTERM, stopping.OUT_OF_TIME),
    *(-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL),  # from Popen
)
_TAIL = 4000
_LOOK_SECONDS = 0.3


class Job(NamedTuple):
    """What has to run.

    Attributes:
      name: for people.
      words: a module and its flags, without --workdir.
      folder: of the run; its log and how it ended lie beside it, FOLDER.log and FOLDER.end.json.
      cwd: what relative paths of the flags start from; None: where the worker is.
      store: URL that the folder is kept at; empty: nowhere else.
    """

    name: str
    words: list[str]
    folder: pathlib.Path
    cwd: pathlib.Path | None = None
    store: str = ""

    @property
    def log(self) -> pathlib.Path:
        """What the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def end(self) -> pathlib.Path:
        """How the last try ended."""
        return self.folder.with_name(f"{self.folder.name}.end.json")

    @property
    def stop_file(self) -> pathlib.Path:
        """Where it lies, a try on another machine saves and ends."""
        return self.folder.with_name(f"{self.folder.name}.stop")

    @property
    def is_done(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / "summary.json").exists()


class End(NamedTuple):
    """How a try ended.

    Attributes:
      status: of the process.
      line: the last that it said.
      seconds: of this try.
      host: where.
    """

    status: int
    line: str
    seconds: float
    host: str

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped or killed it, so that it should go on; else 0 is well."""
        return self.status in _STOPPED

    @classmethod
    def read(cls, job: Job) -> End | None:
        """Of a job's last try; None where there was none."""
        try:
            return cls(**json.loads(job.end.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def last_line(log: pathlib.Path, since: int = 0) -> str:
    """The last line of a log that says something.

    Args:
      log: the file; none where it is missing.
      since: bytes that are passed over.
    """
    lines = _lines(log, since)
    return lines[-1] if lines else ""


def _error_or_last(log: pathlib.Path, since: int) -> str:
    lines = _lines(log, since)
    return ([line for line in lines if line.startswith("error:")] or lines or [""])[-1]


def _lines(log: pathlib.Path, since: int) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip()]


class Try:
    """A try to run a job. It waits while another process, say of a lost worker, ends the run."""

    def __init__(self, job: Job) -> None:
        """Begins with the first `poll`."""
        self.job = job
        self._process: subprocess.Popen[bytes] | None = None
        self._began, self._said_before = time.monotonic(), 0
        self._is_asked = False
        self._end: End | None = None
        self._keeper = Keeper(job.name, job.store, job.folder) if job.store else None

    def poll(self) -> End | None:
        """Begins where nothing stands in the way; how it ended, or None while it has not."""
        if self._end is None:
            self._end = self._worked()
        return self._end if self._keeper is None or self._end is None else self._kept()

    def _worked(self) -> End | None:
        """How the process ended."""
        if self._process is None:
            if self._is_asked:
                return self._ended(128 + signal.SIGTERM)
            if locks.is_held(self.job.folder / LOCK):
                return None
            if self._keeper is not None:
                try:
                    if not self._keeper.begin():
                        return None
                except (StoreError, Taken) as error:
                    return self._ended(1, f"error: {error}")
                if self.job.is_done:  # elsewhere, while this try waited
                    before = End.read(self.job)
                    return before if before is not None and not before.status else self._ended(0)
            self.job.folder.parent.mkdir(parents=True, exist_ok=True)
            self.job.end.unlink(missing_ok=True)
            with self.job.log.open("ab") as log:
                self._said_before = log.tell()
                self._process = subprocess.Popen(
                    guarded.command([*self.job.words, f"--workdir={self.job.folder}"]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.job.cwd,
                )
            self._began = time.monotonic()
        status = self._process.poll()
        if status is not None:
            return self._ended(status)
        if self._keeper is not None:
            try:
                self._keeper.look()
            except Taken:  # `Keeper.end` says it
                self.stop()
        return None

    def _kept(self) -> End | None:
        """The end, once the store has it."""
        assert self._keeper is not None and self._end is not None
        try:
            if not self._keeper.end():
                return None
        except Taken as error:  # the run goes on elsewhere, and that is no failure
            self._end = self._ended(128 + signal.SIGTERM, str(error))
        except StoreError as error:
            is_failed = self._end.status and not self._end.stopped
            self._end = self._ended(self._end.status if is_failed else 1, f"error: {error}")
        self._keeper = None
        return self._end

    def _ended(self, status: int, line: str = "") -> End:
        seconds = time.monotonic() - self._began
        line = line or _error_or_last(self.job.log, self._said_before)
        end = End(status, line, round(seconds, 1), socket.gethostname())
        write_json(self.job.end, end._asdict())
        return end

    def stop(self) -> None:
        """Asks it to save and end."""
        if self._process is not None and not self._is_asked:
            self._process.terminate()
        self._is_asked = True


def run_to_end(job: Job) -> End:
    """Runs a job here; KeyboardInterrupt, once or often, lets it save before it is raised."""
    attempt, interrupted = Try(job), False
    while True:
        try:
            if job.stop_file.exists():
                attempt.stop()
            if (end := attempt.poll()) is not None:
                break
            time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            interrupted = True
            attempt.stop()
    if interrupted:
        raise KeyboardInterrupt
    return end
