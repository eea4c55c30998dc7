"""The run folder: manifest, metrics, checkpoints per stage; a killed run goes on from here.

Layout of a run folder:
  manifest.json            flags, versions, commit, seed
  stages/NAME.json         result and seconds of a stage that is complete
  checkpoints/NAME/        TensorFlow checkpoints of a stage, the last two
  metrics/TABLE.csv        one row per step
  tensorboard/             the same numbers as scalars, and pictures, histograms, texts
  panels.json              which curves and numbers a report shows, with their words
  inspection/              arrays and pictures of what the models know
  summary.json, export/, render/, report/
  run.lock                 held by the process that trains
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.run_folder import files, locks, provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.stage import Stage, read_result
from offline_tf.types import Array, TaskSpec, UserError

_PACKAGES = ("tensorflow", "tensorflow-probability", "keras", "gymnasium", "mujoco", "numpy")
_LOCK = "run.lock"


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
    manifest = files.read_json(path, flag)
    if "algorithm" not in manifest or not isinstance(manifest.get("flags"), dict):
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
        "becomes": list(task.becomes),
        "given": list(task.given),
        "action_change": None
        if task.action_change is None
        else [float(x) for x in task.action_change],
    }


def plain(value: Any) -> Any:
    """A flag's value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


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
        defaults: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Opens the folder for a run with these flags.

        Args:
          folder: new, or of a run with the same flags.
          algorithm: such as "morel".
          flags: name -> value, everything that decides the result.
          ignored: flags that may differ when a run goes on.
          defaults: what a flag counts as that the folder lacks, as it is younger than the run.

        Raises:
          UserError: the folder holds a run with other flags, or another process works in it; nothing
            is changed.
        """
        flags = {name: plain(value) for name, value in flags.items()}
        manifest = cls.check_folder(folder, algorithm, flags, ignored, defaults)
        lock = _locked(folder)
        if manifest is not None:
            logging.info("continuing the run in %s", folder)
        else:
            manifest = {
                "algorithm": algorithm,
                "flags": flags,
                "seed": flags.get("seed"),
                "commit": provenance.commit(),
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
        defaults: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Checks, changing nothing, that a run with these flags may go into the folder.

        Args:
          folder, algorithm, flags, ignored, defaults: as in `create_or_continue`.

        Returns:
          The manifest of the run to continue, or None for a new one.

        Raises:
          UserError: the folder holds something else.
        """
        path = folder / "manifest.json"
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise UserError(f"--workdir: expected a folder, but {existing} is a file")
        if not os.access(existing, os.W_OK):
            raise UserError(f"--workdir: {existing} cannot be written to; choose another --workdir")
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
            younger = {name: plain(value) for name, value in (defaults or {}).items()}
            old = younger | manifest["flags"]
            flags = {name: plain(value) for name, value in flags.items()}
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
        """What differs from the task that the run began with; nothing where none is noted yet."""
        recorded, now = self.manifest.get("task") or {}, _described(task)
        # Older manifests lack what tasks could not say then.
        return [key for key, value in recorded.items() if key in now and value != now[key]]

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
        new = [provenance.commit()] if other is None else other.commits.split(", ")
        commits = list(dict.fromkeys([*known, *new]))
        if not (self.folder / "summary.json").exists() and commits != known:
            self.note(commits=commits)

    def note_also(self, **values: str | None) -> None:
        """Adds to what was used, so "float32" becomes "float32, bfloat16" on another machine."""
        for name, value in values.items():
            known = (self.manifest.get(name) or "").split(", ")
            values_used = dict.fromkeys([*known, *(value or "").split(", ")])  # in order, once each
            if used := ", ".join(filter(None, values_used)):
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
        return Stage(self.folder, name, lambda: self.writer)

    def check_complete(self, *names: str) -> None:
        """Checks that stages of this run are finished.

        Raises:
          UserError: one is not.
        """
        if not all(self.stage(name).complete for name in names):
            raise UserError(
                f"--workdir: the run in {self.folder} is not finished; continue it first"
            )

    def fit_or_load(
        self,
        name: str,
        weights: Sequence[tf.Variable],
        fit: Callable[[Stage], Any],
        other: RunRecord | None = None,
    ) -> Any:
        """Fits a model, or reads it where this run, or another, has fitted it.

        Args:
          name: of the stage that keeps the fitted weights; NAME_fit keeps the fit's own checkpoints.
          weights: of the model.
          fit: changes the weights; returns the stage's result.
          other: a run whose fitted model is taken over; the caller has checked that it fits.

        Returns:
          The stage's result.
        """
        stage = self.stage(name)
        stage.track(weights)
        if stage.complete:
            stage.restore()
            return stage.result
        if other is None:
            work = self.stage(f"{name}_fit")
            result, seconds = fit(work), work.seconds()
        else:
            source = other.stage(name)
            source.track(weights)
            source.restore()
            result, seconds = source.result, stage.seconds()
        stage.save(1, may_stop=False)
        return stage.finish(result, seconds)

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns stage name -> {"result", "seconds"} of all complete stages.

        Raises:
          UserError: a file of them is damaged.
        """
        paths = sorted((self.folder / "stages").glob("*.json"), key=lambda p: p.stat().st_mtime)
        return {path.stem: read_result(path) for path in paths}

    def arrays(self, name: str, values: dict[str, Array]) -> None:
        """Keeps arrays as inspection/NAME.npz."""
        path = self.folder / "inspection" / f"{name}.npz"
        with files.whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **values)  # type: ignore[arg-type]

    def image(self, name: str, png: bytes, step: int = 0) -> None:
        """Keeps a picture as inspection/NAME.png and shows it in TensorBoard."""
        path = self.folder / "inspection" / f"{name}.png"
        with files.whole(path) as partial:
            partial.write_bytes(png)
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
