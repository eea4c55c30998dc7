"""One stage of a run: runs once, checkpoints on the way, keeps its result."""

from __future__ import annotations

import csv
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.run_folder import checkpoints, files, stopping
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.progress import Progress
from offline_tf.types import Array, UserError

_STOPPED = ".stopped"  # ends the folder of what was saved between two checkpoints


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """The "result" and the "seconds" that `Stage.finish` wrote.

    Raises:
      UserError: the file is damaged.
    """
    advice = "delete it and start the run again, which does this stage again"
    content = files.read_json(path, "workdir", advice)
    if not {"result", "seconds"} <= content.keys():
        raise UserError(f"--workdir: expected result and seconds in {path}, got others; {advice}")
    return content


def _step_of(line: bytes) -> float:
    """Of a line of metrics; infinity where a kill or damage left no whole one."""
    number = line.split(b",")[0]
    is_whole = line.endswith(b"\n") and number.isdigit() and len(number) < 19
    return int(number) if is_whole else np.inf


class Stage:
    """One stage of a run: runs once, checkpoints on the way, keeps its result."""

    def __init__(
        self, folder: pathlib.Path, name: str, writer: Callable[[], tf.summary.SummaryWriter]
    ) -> None:
        """Use `RunRecord.stage`.

        Args:
          folder: of the run.
          name: of the stage.
          writer: opens the run's TensorBoard file, or returns the open one.
        """
        self.name = name
        self._folder = folder
        self._writer = writer
        self._file = folder / "stages" / f"{name}.json"
        self._began = time.monotonic()
        self._spent_before = 0.0
        self._progress = Progress(name)
        self._checkpoint: tf.train.Checkpoint | None = None
        self._within: tf.train.Checkpoint | None = None
        self._manager: tf.train.CheckpointManager | None = None
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._spent = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._position = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._losses = tf.Variable(  # [calls, members]
            np.zeros((0, 0), np.float32), shape=(None, None), trainable=False
        )

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished this stage."""
        return self._file.exists()

    @property
    def result(self) -> Any:
        """What `finish` stored.

        Raises:
          UserError: its file is damaged.
        """
        return read_result(self._file)["result"]

    def finish(self, result: Any, seconds: float | None = None) -> Any:
        """Marks the stage complete; returns the result.

        Args:
          result: JSON types only.
          seconds: that the stage took, where it was done before its record was opened.

        Raises:
          stopping.Stopped: the run was asked to stop; the stage is complete.
        """
        spent = self.seconds() if seconds is None else seconds
        self._check_folder()
        write_json(self._file, {"result": result, "seconds": round(spent, 2)})
        logging.debug("%s: done in %.1f s", self.name, spent)
        stopping.check()
        return result

    def _check_folder(self) -> None:
        if not (self._folder / "manifest.json").exists():
            raise UserError(
                f"--workdir: {self._folder} has lost its manifest.json, or is gone; put the folder "
                "back where it was, or train again"
            )

    def seconds(self) -> float:
        """Wall-clock time spent on this stage, earlier tries up to their checkpoint included."""
        return self._spent_before + time.monotonic() - self._began

    def restart(self) -> None:
        """Begins anew, for a stage without checkpoints: seconds, and the metrics of a killed try."""
        self._began = time.monotonic()
        self._truncate_metrics(0)

    def track(self, variables: Sequence[tf.Variable]) -> None:
        """Names the variables that checkpoints of this stage hold."""
        self._checkpoint = tf.train.Checkpoint(
            variables=list(variables), step=self._step, spent=self._spent
        )
        self._within = tf.train.Checkpoint(
            variables=list(variables),
            step=self._step,
            spent=self._spent,
            position=self._position,
            losses=self._losses,
        )
        self._manager = None

    @property
    def _checkpoints(self) -> pathlib.Path:
        return self._folder / "checkpoints" / self.name

    @property
    def _stopped(self) -> pathlib.Path:
        return self._folder / "checkpoints" / f"{self.name}{_STOPPED}"

    def restore(self) -> int:
        """Loads the newest checkpoint, if any; returns its step, or 0.

        Where a power cut, say, has damaged it, the one before, unless the stage is complete. A fit may
        have been stopped later than that; see `within_block`.

        Raises:
          UserError: there are checkpoints and none can be read, or the stage is complete and its last
            one cannot; nothing in the folder is changed.
        """
        has_checkpoints = bool(checkpoints.in_folder(self._checkpoints))
        if not has_checkpoints and self.complete:
            raise UserError(
                f"--workdir: expected the weights of {self.name} in {self._checkpoints}, found none; "
                "copy the run's whole folder, or train again"
            )
        if has_checkpoints:
            self._read_newest()
        if not self._read_stopped() and not has_checkpoints:
            self._truncate_metrics(0)
            return 0
        self._spent_before = float(self._spent)
        self._began = time.monotonic()
        self._progress = Progress(self.name)
        step = int(self._step)
        self._truncate_metrics(step)
        if not self.complete:
            logging.info("%s: going on from step %d", self.name, step)
        return step

    def _read_stopped(self) -> bool:
        """Loads what `stop_within_block` has saved, unless it is older than what is loaded."""
        assert self._within is not None
        paths = checkpoints.in_folder(self._stopped)
        if not paths or self.complete:
            return False
        try:
            reader = tf.train.load_checkpoint(paths[0])
            saved = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
            step = int(saved["step/.ATTRIBUTES/VARIABLE_VALUE"])
        except checkpoints.DAMAGED as error:
            self._tell_damage(paths[0], error)
            return False
        if step < int(self._step):
            return False
        try:
            self._within.restore(paths[0]).assert_consumed()
        except checkpoints.DAMAGED as error:
            raise UserError(
                f"--workdir: {paths[0]} does not fit the run ({checkpoints.reason(error)}); delete "
                f"{self._stopped} to go on from the checkpoint before"
            ) from None
        return True

    def _tell_damage(self, path: str, error: Exception) -> None:
        logging.warning("%s: %s cannot be read (%s)", self.name, path, checkpoints.reason(error))

    def within_block(self) -> tuple[int, list[Array]]:
        """Where in its block of steps a fit was stopped, and the losses [members] of each call so far.

        To be asked after `restore`; (0, []) where it was not.
        """
        return int(self._position), list(self._losses.numpy())

    def stop_within_block(self, step: int, position: int, losses: Sequence[Array]) -> None:
        """Saves a fit between two checkpoints, and stops.

        Args:
          step: at which the block began.
          position: in the block.
          losses: [members] of each call since the block began.

        Raises:
          stopping.Stopped: the run was asked to stop.
        """
        assert self._within is not None
        self._check_folder()
        self._step.assign(step)
        self._spent.assign(self.seconds())
        self._position.assign(position)
        self._losses.assign(np.stack(losses))
        manager = checkpoints.manager(self._within, self._stopped, keep=1)
        manager.save(checkpoint_number=step)
        stopping.check()

    def _read_newest(self) -> None:
        assert self._checkpoint is not None
        paths = checkpoints.in_folder(self._checkpoints)
        for path in paths[:1] if self.complete else paths:
            try:
                self._checkpoint.restore(path).assert_consumed()
                return
            except checkpoints.DAMAGED as error:
                self._tell_damage(path, error)
        raise UserError(
            f"--workdir: expected a checkpoint of {self.name} that can be read in "
            f"{self._checkpoints}, found none; copy the run's whole folder, or train again"
        )

    def save(self, step: int, may_stop: bool = True, *, number: int | None = None) -> None:
        """Writes a checkpoint.

        Args:
          step: that it belongs to; `restore` returns it.
          may_stop: whether the run may stop after it, if it was asked to.
          number: of the checkpoint, the highest of which is the newest; None: the step.

        Raises:
          stopping.Stopped: it was.
        """
        assert self._checkpoint is not None
        self._check_folder()
        if self._manager is None:
            self._manager = checkpoints.manager(self._checkpoint, self._checkpoints, keep=2)
        self._step.assign(step)
        self._spent.assign(self.seconds())
        self._manager.save(checkpoint_number=step if number is None else number)
        if self._stopped.exists():
            shutil.rmtree(self._stopped)
        if may_stop:
            stopping.check()

    def _tables(self) -> list[pathlib.Path]:
        folder = self._folder / "metrics"
        own = [folder / f"{self.name}.csv"]
        own += [
            p for p in folder.glob(f"{self.name}.*.csv") if p.stem.rpartition(".")[0] == self.name
        ]
        return [path for path in own if path.exists()]

    def _truncate_metrics(self, step: int) -> None:
        """Drops rows of steps that will be done again."""
        for path in self._tables():
            lines = path.read_bytes().splitlines(keepends=True)  # bytes: damage may be no text
            if step == 0 or not lines or not lines[0].endswith(b"\n"):
                path.unlink()
                continue
            remaining = [lines[0]] + [line for line in lines[1:] if _step_of(line) <= step]
            if len(remaining) != len(lines):
                with files.whole(path) as partial:
                    partial.write_bytes(b"".join(remaining))

    def log(self, step: int, metrics: dict[str, float], table: str = "") -> None:
        """Writes numbers to TensorBoard and to metrics/STAGE[.TABLE].csv.

        Args:
          step: of the stage, from 1.
          metrics: name -> value; the same names at every call for one table.
          table: groups numbers that are logged at other steps than the rest.
        """
        self._check_folder()
        path = self._folder / "metrics" / f"{self.name}{'.' + table if table else ''}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logging.debug("%s %d: %s", path.stem, step, shown)
        is_new = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(["step", *metrics])
            writer.writerow([step, *(f"{value:.9g}" for value in metrics.values())])
        with self._writer().as_default(step=step):
            for name, value in metrics.items():
                tf.summary.scalar(f"{self.name}/{table + '/' if table else ''}{name}", value)
        self._writer().flush()

    def histograms(self, step: int, values: dict[str, Array]) -> None:
        """Shows distributions in TensorBoard."""
        with self._writer().as_default(step=step):
            for name, drawn in values.items():
                # A tag belongs to one kind of summary: no scalar may have this one.
                tf.summary.histogram(f"{self.name}/{name}/distribution", drawn)
        self._writer().flush()

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Shows how far the stage is, with its rate and the time left; see `Progress.tell`.

        Raises:
          stopping.Stopped: the run was asked to stop, and this stage has no checkpoints to wait for.
        """
        if self._checkpoint is None:
            stopping.check()
        self._progress.tell(done, total, unit, note)
