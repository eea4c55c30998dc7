"""The run folder: manifest, metrics, checkpoints per stage; a killed run goes on from here.

Layout of a run folder:
  manifest.json            flags, versions, commit, seed
  stages/NAME.json         result and seconds of a stage that is complete
  checkpoints/NAME/        TensorFlow checkpoints of a stage, the last two
  metrics/TABLE.csv        one row per step
  tensorboard/             the same numbers as scalars, and pictures, histograms, texts
  inspection/              arrays and pictures of what the models know
  summary.json, export/, render/, report/
  run.lock                 held by the process that trains
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf import locks, stopping
from offline_tf.types import Array, TaskSpec, UserError

FlagsOf = Callable[[dict[str, Any]], dict[str, Any]]
_PACKAGES = ("tensorflow", "tensorflow-probability", "keras", "gymnasium", "mujoco", "numpy")
_PROGRESS_SECONDS = 10.0
_LOCK = "run.lock"


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON so that a kill leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")
    os.replace(partial, path)


def commit() -> str:
    """Returns the commit of the code, with "+changes" where files differ, or "unknown"."""
    root = pathlib.Path(__file__).resolve().parent.parent
    try:
        run = ["git", "-C", str(root)]
        head = subprocess.run(
            [*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
        )
        if head.returncode:
            return "unknown"
        status = subprocess.run(
            [*run, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
        return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
    except OSError:
        return "unknown"


def _locked(folder: pathlib.Path) -> IO[str] | None:
    """Keeps other processes from training in a run folder for as long as this one lives."""
    try:
        return locks.take(folder / _LOCK)
    except BlockingIOError:
        raise UserError(
            f"--workdir: another process is training in {folder}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--workdir: {folder} cannot be written to: {error}") from None


def _read_manifest(path: pathlib.Path, flag: str) -> dict[str, Any]:
    """A run's manifest.

    Raises:
      UserError: it is somebody else's, or damaged.
    """
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}: {path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not {"algorithm", "flags"} <= manifest.keys():
        raise UserError(f"--{flag}: expected a run's manifest at {path}, got another file")
    return manifest


def _described(task: TaskSpec) -> dict[str, Any]:
    return {
        "observation_names": list(task.observation_names),
        "action_names": list(task.action_names),
        "action_low": [float(x) for x in task.action_low],
        "action_high": [float(x) for x in task.action_high],
        "dt": float(task.dt),
        "max_episode_steps": int(task.max_episode_steps),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _own_flags(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["flags"]


class RunRecord:
    """One run folder.

    Attributes:
      folder: where it lies.
      manifest: what manifest.json holds.
    """

    def __init__(self, folder: pathlib.Path, manifest: dict[str, Any]) -> None:
        """Use `create_or_continue` or `open_existing`."""
        self.folder = folder
        self.manifest = manifest
        self._writer: tf.summary.SummaryWriter | None = None
        self._lock: IO[str] | None = None

    @classmethod
    def create_or_continue(
        cls,
        folder: pathlib.Path,
        algorithm: str,
        flags: dict[str, Any],
        ignored: Sequence[str] = (),
        flags_of: FlagsOf = _own_flags,
    ) -> RunRecord:
        """Opens the folder for a run with these flags.

        Args:
          folder: new, or of a run with the same flags.
          algorithm: such as "morel".
          flags: name -> value, everything that decides the result.
          ignored: flags that may differ when a run goes on.
          flags_of: reads a manifest's flags, with what those younger than the run mean to it.

        Raises:
          UserError: the folder holds a run with other flags, or another process works in it; nothing
            is changed.
        """
        flags = {name: _plain(value) for name, value in flags.items()}
        manifest = cls.check_folder(folder, algorithm, flags, ignored, flags_of)
        lock = _locked(folder)
        if manifest is not None:
            logging.info("continuing the run in %s", folder)
        else:
            manifest = {
                "algorithm": algorithm,
                "flags": flags,
                "seed": flags.get("seed"),
                "commit": commit(),
                "versions": {
                    "python": platform.python_version(),
                    **{name: importlib.metadata.version(name) for name in _PACKAGES},
                },
            }
            write_json(folder / "manifest.json", manifest)
        record = cls(folder, manifest)
        record._lock = lock
        return record

    @staticmethod
    def check_folder(
        folder: pathlib.Path,
        algorithm: str,
        flags: dict[str, Any],
        ignored: Sequence[str] = (),
        flags_of: FlagsOf = _own_flags,
    ) -> dict[str, Any] | None:
        """Checks, changing nothing, that a run with these flags may go into the folder.

        Args:
          folder, algorithm, flags, ignored, flags_of: as in `create_or_continue`.

        Returns:
          The manifest of the run to continue, or None for a new one.

        Raises:
          UserError: the folder holds something else.
        """
        path = folder / "manifest.json"
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not there.is_dir():
            raise UserError(f"--workdir: expected a folder, but {there} is a file")
        if not os.access(there, os.W_OK):
            raise UserError(f"--workdir: {there} cannot be written to; choose another --workdir")
        if not path.exists():
            # A kill while the manifest was being written leaves no other files than these.
            ours = ("manifest.json.partial", _LOCK)
            if folder.exists() and any(p.name not in ours for p in folder.iterdir()):
                raise UserError(
                    f"--workdir: expected a new folder or a run's, but {folder} holds other files; "
                    "choose another --workdir"
                )
            return None
        manifest = _read_manifest(path, "workdir")
        if manifest["algorithm"] != algorithm:
            differing = [f"algorithm is {manifest['algorithm']} there"]
        else:
            known = flags_of(manifest)  # without flags that this version does not know
            old = {name: _plain(v) for name, v in (manifest["flags"] | known).items()}
            flags = {name: _plain(value) for name, value in flags.items()}
            differing = [
                f"--{n} is {old.get(n)!r} there and {flags.get(n)!r} now"
                for n in sorted(set(old) | set(flags))
                if n not in ignored and old.get(n) != flags.get(n)
            ]
        if differing:
            raise UserError(
                f"--workdir: {folder} holds a run with other flags ({'; '.join(differing)}); "
                "give the same flags to continue it, or another --workdir"
            )
        return manifest

    @classmethod
    def open_existing(cls, folder: pathlib.Path, flag: str = "workdir") -> RunRecord:
        """Opens a run folder for reading.

        Args:
          folder: of the run.
          flag: what named it, for the error.

        Raises:
          UserError: there is no run.
        """
        path = folder / "manifest.json"
        if not path.exists():
            raise UserError(f"--{flag}: expected a run folder with manifest.json at {folder}")
        return cls(folder, _read_manifest(path, flag))

    @property
    def commits(self) -> str:
        """Of all code that had a part in the run, separated by commas."""
        return ", ".join(self.manifest.get("commits", [self.manifest.get("commit", "unknown")]))

    def task_changes(self, task: TaskSpec) -> list[str]:
        """What differs from the task that the run began with; runs of older versions do not know."""
        kept, now = self.manifest.get("task"), _described(task)
        return [] if kept is None else [key for key in now if kept.get(key) != now[key]]

    def check_task(self, task: TaskSpec) -> None:
        """Checks that a task is what it was when the run began.

        Raises:
          UserError: its dimensions, bounds or times have changed, say in a user's file.
        """
        if changed := self.task_changes(task):
            raise UserError(
                f"--workdir: {self.folder} was trained on {task.name} with other {', '.join(changed)}; "
                "put the task back as it was, or train again"
            )

    def note_commit(self, other: RunRecord | None = None) -> None:
        """Notes that this code has a part in the run, unless that is finished.

        Args:
          other: a run whose models are taken over; its code has a part then.
        """
        known = self.commits.split(", ")
        new = [commit()] if other is None else other.commits.split(", ")
        every = list(dict.fromkeys([*known, *new]))
        if not (self.folder / "summary.json").exists() and every != known:
            self.note(commits=every)

    def note_also(self, **values: str | None) -> None:
        """Adds to what was used, so "float32" becomes "float32, bfloat16" on another machine."""
        for name, value in values.items():
            known = (self.manifest.get(name) or "").split(", ")
            every = dict.fromkeys([*known, *(value or "").split(", ")])  # in order, once each
            if used := ", ".join(filter(None, every)):
                self.note(**{name: used})

    def note_task(self, task: TaskSpec) -> None:
        """Notes what the task is; see `check_task`.

        Raises:
          UserError: it was another one.
        """
        self.check_task(task)
        self.note(task=_described(task))

    def note(self, **values: Any) -> None:
        """Adds entries to the manifest."""
        self.manifest |= values
        write_json(self.folder / "manifest.json", self.manifest)

    def stage(self, name: str) -> Stage:
        """Returns a stage of this run."""
        return Stage(self, name)

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns stage name -> {"result", "seconds"} of all complete stages."""
        files = sorted((self.folder / "stages").glob("*.json"), key=lambda p: p.stat().st_mtime)
        return {p.stem: json.loads(p.read_text()) for p in files}

    def arrays(self, name: str, values: dict[str, Array]) -> None:
        """Keeps arrays as inspection/NAME.npz."""
        path = self.folder / "inspection" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **values)  # type: ignore[arg-type]
        os.replace(partial, path)

    def image(self, name: str, png: bytes, step: int = 0) -> None:
        """Keeps a picture as inspection/NAME.png and shows it in TensorBoard."""
        path = self.folder / "inspection" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        with self.writer.as_default(step=step):
            tf.summary.image(f"inspection/{name}", tf.io.decode_png(png, channels=3)[None])
        self.writer.flush()

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        with self.writer.as_default(step=0):
            tf.summary.text(tag, markdown)
        self.writer.flush()

    @property
    def writer(self) -> tf.summary.SummaryWriter:
        """The TensorBoard writer."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        return self._writer


class Stage:
    """One stage of a run: runs once, checkpoints on the way, keeps its result."""

    def __init__(self, record: RunRecord, name: str) -> None:
        """Use `RunRecord.stage`."""
        self.name = name
        self._record = record
        self._file = record.folder / "stages" / f"{name}.json"
        self._began = self._last_progress = time.monotonic()
        self._spent_before = 0.0
        self._first_done: float | None = None
        self._manager: tf.train.CheckpointManager | None = None
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._spent = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished this stage."""
        return self._file.exists()

    @property
    def result(self) -> Any:
        """What `finish` stored."""
        return json.loads(self._file.read_text())["result"]

    def finish(self, result: Any, seconds: float | None = None) -> Any:
        """Marks the stage complete; returns the result.

        Args:
          result: JSON types only.
          seconds: that the stage took, where it was done before its record was opened.

        Raises:
          stopping.Stopped: the run was asked to stop; the stage is complete.
        """
        spent = self.seconds() if seconds is None else seconds
        write_json(self._file, {"result": result, "seconds": round(spent, 2)})
        logging.debug("%s: done in %.1f s", self.name, spent)
        stopping.check()
        return result

    def seconds(self) -> float:
        """Wall-clock time spent on this stage, earlier tries up to their checkpoint included."""
        return self._spent_before + time.monotonic() - self._began

    def restart(self) -> None:
        """Forgets the metrics of a try that was killed, for a stage without checkpoints."""
        self._truncate_metrics(0)

    def track(self, variables: Sequence[tf.Variable]) -> None:
        """Names the variables that checkpoints of this stage hold."""
        checkpoint = tf.train.Checkpoint(
            variables=list(variables), step=self._step, spent=self._spent
        )
        folder = self._record.folder / "checkpoints" / self.name
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)

    def restore(self) -> int:
        """Loads the newest checkpoint, if any; returns its step, or 0.

        Where a power cut, say, has damaged it, the one before, unless the stage is complete.

        Raises:
          UserError: there are checkpoints and none can be read, or the stage is complete and its last
            one cannot; nothing in the folder is changed.
        """
        assert self._manager is not None
        path = self._manager.latest_checkpoint
        if path is None and self.complete:
            raise UserError(
                f"--workdir: expected the weights of {self.name} in {self._manager.directory}, found "
                "none; copy the run's whole folder, or train again"
            )
        if path is None:
            self._truncate_metrics(0)
            return 0
        self._read_newest()
        self._spent_before = float(self._spent)
        self._began = time.monotonic()
        self._first_done = None
        step = int(self._step)
        self._truncate_metrics(step)
        if not self.complete:
            logging.info("%s: going on from step %d", self.name, step)
        return step

    def _read_newest(self) -> None:
        assert self._manager is not None
        paths = list(reversed(self._manager.checkpoints))
        for path in paths[:1] if self.complete else paths:
            try:
                self._manager.checkpoint.restore(path).assert_consumed()
                return
            except (tf.errors.OpError, IndexError) as error:  # IndexError: too few bytes
                reason = str(error).strip().splitlines()[0]
                logging.warning("%s: %s cannot be read (%s)", self.name, path, reason)
        raise UserError(
            f"--workdir: expected a checkpoint of {self.name} that can be read in "
            f"{self._manager.directory}, found none; copy the run's whole folder, or train again"
        )

    def save(self, step: int, may_stop: bool = True) -> None:
        """Writes a checkpoint.

        Args:
          step: that it belongs to.
          may_stop: whether the run may stop after it, if it was asked to.

        Raises:
          stopping.Stopped: it was.
        """
        assert self._manager is not None
        self._step.assign(step)
        self._spent.assign(self.seconds())
        self._manager.save(checkpoint_number=step)
        if may_stop:
            stopping.check()

    def _tables(self) -> list[pathlib.Path]:
        folder = self._record.folder / "metrics"
        return [p for p in folder.glob(f"{self.name}*.csv") if p.stem.split(".")[0] == self.name]

    def _truncate_metrics(self, step: int) -> None:
        """Drops rows of steps that will be done again."""
        for path in self._tables():
            lines = path.read_text().splitlines(keepends=True)
            if step == 0 or not lines or not lines[0].endswith("\n"):
                path.unlink()
                continue
            kept = [lines[0]] + [
                line
                for line in lines[1:]
                if line.endswith("\n") and line.split(",")[0].isdigit()
                if int(line.split(",")[0]) <= step
            ]
            if len(kept) != len(lines):
                partial = path.with_name(path.name + ".partial")
                partial.write_text("".join(kept))
                os.replace(partial, path)

    def log(self, step: int, metrics: dict[str, float], table: str = "") -> None:
        """Writes numbers to TensorBoard and to metrics/STAGE[.TABLE].csv.

        Args:
          step: of the stage, from 1.
          metrics: name -> value; the same names at every call for one table.
          table: groups numbers that are logged at other steps than the rest.
        """
        path = self._record.folder / "metrics" / f"{self.name}{'.' + table if table else ''}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = list(metrics)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logging.debug("%s %d: %s", path.stem, step, shown)
        is_new = not path.exists() or path.stat().st_size == 0
        if not is_new:  # a table begun by an older version keeps its columns
            with path.open(newline="") as file:
                names = next(csv.reader(file))[1:]
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(["step", *names])
            writer.writerow([step, *(f"{metrics.get(name, np.nan):.9g}" for name in names)])
        with self._record.writer.as_default(step=step):
            for name, value in metrics.items():
                tf.summary.scalar(f"{self.name}/{table + '/' if table else ''}{name}", value)
        self._record.writer.flush()

    def histograms(self, step: int, values: dict[str, Array]) -> None:
        """Shows distributions in TensorBoard."""
        with self._record.writer.as_default(step=step):
            for name, drawn in values.items():
                # A tag belongs to one kind of summary: no scalar may have this one.
                tf.summary.histogram(f"{self.name}/{name}/distribution", drawn)
        self._record.writer.flush()

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Prints a line with rate and time left, every ten seconds; every second if verbose.

        Raises:
          stopping.Stopped: the run was asked to stop, and this stage has no checkpoints to wait for.
        """
        if self._manager is None:
            stopping.check()
        now = time.monotonic()
        every = 1.0 if logging.level_debug() else _PROGRESS_SECONDS
        if self._first_done is None or done < self._first_done:
            self._first_done, self._first_time = done, now
        if now - self._last_progress < every and done < total:
            return
        self._last_progress = now
        rate = (done - self._first_done) / max(now - self._first_time, 1e-9)
        left = f"{(total - done) / rate:.0f} s left" if rate > 0 else "time left unknown"
        logging.info(
            "%s: %.4g of %.4g %s, %.3g/s, %s%s",
            self.name,
            done,
            total,
            unit,
            rate,
            left,
            f" | {note}" if note else "",
        )


def fit_or_load(
    name: str,
    weights: Sequence[tf.Variable],
    fit: Callable[[Stage], Any],
    record: RunRecord,
    other: RunRecord | None,
) -> Any:
    """Fits a model, or reads it where this run, or another, has fitted it.

    Args:
      name: of the stage that keeps the fitted weights; NAME_fit keeps the fit's own checkpoints.
      weights: of the model.
      fit: changes the weights; returns the stage's result.
      record: the run folder.
      other: a run whose fitted model is taken over; the caller has checked that it fits.

    Returns:
      The stage's result.
    """
    stage = record.stage(name)
    stage.track(weights)
    if stage.complete:
        stage.restore()
        return stage.result
    if other is None:
        work = record.stage(f"{name}_fit")
        result, seconds = fit(work), work.seconds()
    else:
        source = other.stage(name)
        source.track(weights)
        source.restore()
        result, seconds = source.result, stage.seconds()
    stage.save(1, may_stop=False)
    return stage.finish(result, seconds)
