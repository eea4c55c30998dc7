"""python -m offline_tf.predict: actions of an export for a file of observations."""

from __future__ import annotations

import abc
import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from absl import logging

from flags import schema
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.formats import columns
from offline_tf.numerics import large_columns
from offline_tf.run_folder import files
from offline_tf.types import Array, UserError

if TYPE_CHECKING:
    from offline_tf.export import loaded

USAGE = """
usage: python -m offline_tf.predict --export=FOLDER --input=FILE --output=FILE [--guarded]

Reads observations by blocks and writes one row each: the action and how far the data support it.
Input: CSV with the observations' names as columns, npz or HDF5 with `observations` [N, S]. Output, by
its ending: CSV, npz or HDF5. Of MOReL: action, known, disagreement; with --guarded, fallback_used.
Of MOPP: action, kept_share, disagreement, expected_return; each row is an episode's first decision.
"""
_ROWS, _ROWS_PLANNED = 4096, 64
_CSV, _NPZ, _HDF5 = ".csv", ".npz", (".hdf5", ".h5", ".hdf")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    export: str = knob("", "Folder of the export, or of the run.")
    input: str = knob("", "Observations: .csv, .npz or .hdf5.")
    output: str = knob("", "Where to write: .csv, .npz or .hdf5; must not exist.")
    guarded: bool = knob(False, "MOReL: the fallback's action where the policy's is unknown.")
    batch_size: int = knob(
        0, "Rows per call; 0: 4096 of a policy, 64 of a planner, whose rows take megabytes.", low=0
    )
    seed: int = knob(0, "MOPP: of the proposals.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        for name in ("export", "input", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, got none")
        for name in ("input", "output"):
            path = pathlib.Path(getattr(self, name))
            if path.suffix.lower() not in (_CSV, _NPZ, *_HDF5):
                raise UserError(f"--{name}: expected a .csv, .npz or .hdf5 file, got {path}")
        if not pathlib.Path(self.input).is_file():
            raise UserError(f"--input: expected a file at {self.input}, found none")
        if pathlib.Path(self.output).exists():
            raise UserError(f"--output: {self.output} exists; it is not replaced")
        files.check_writable(pathlib.Path(self.output), "output")


def main(config: PredictConfig) -> None:
    """Predicts."""
    from offline_tf.export import loaded  # here, so that --help needs no TensorFlow

    try:
        model = loaded.Deployed(config.export)
    except UserError as error:
        raise UserError(f"--export: {error}") from None
    if config.guarded and "act_guarded" not in model.signatures:
        raise UserError(f"--guarded: the export in {model.folder} has no act_guarded")
    source, output = pathlib.Path(config.input), pathlib.Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    names = model.interface.observation_names
    size = config.batch_size or (_ROWS_PLANNED if "plan" in model.signatures else _ROWS)
    total = 0
    with _writer(partial, output.suffix.lower(), model.interface.action_names) as writer:
        for rows in observations(source, names, size):
            if len(rows):
                writer.write(predict(model, rows, config.guarded, (config.seed, total)))
                total += len(rows)
        if not total:
            raise UserError(f"--input: expected rows of observations, {source} has none")
    partial.replace(output)
    logging.info("%s: %d rows", output, total)


def predict(
    model: loaded.Deployed, rows: Array, guarded: bool, seed: tuple[int, int]
) -> dict[str, Array]:
    """Actions and verdicts for [B, S] observations; see USAGE.

    Args:
      model: the export.
      rows: observations.
      guarded: of MOReL, whether to guard.
      seed: of MOPP's proposals.

    Returns:
      "action" [B, A], the rest [B].
    """
    if "plan" in model.signatures:
        plan = model.call("initial_plan", observation=rows)["plan"]
        found = model.call("plan", observation=rows, plan=plan, seed=np.array(seed, np.int32))
        del found["plan"]
        found["disagreement"] = found["disagreement"].reshape(len(rows), -1).mean(axis=1)
        return found
    if guarded:
        return model.call("act_guarded", observation=rows)
    action = model.call("serving_default", observation=rows)["action"]
    return {"action": action} | model.call("is_known", observation=rows, action=action)


def observations(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    """Yields [n, S] float32 blocks of a file's observations.

    Raises:
      UserError: the file is damaged, or does not hold these observations.
    """
    reader = _from_csv if path.suffix.lower() == _CSV else _from_columns
    try:
        yield from reader(path, names, size)
    except UserError:
        raise
    except Exception as error:  # h5py, zipfile and csv raise many kinds
        line = columns.unreadable(path, "file of observations", error)
        raise UserError(line.replace("--dataset", "--input")) from None


def _from_csv(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        missing = [name for name in names if name not in header]
        if missing:
            raise UserError(f"--input: {path} lacks the columns {', '.join(missing)}")
        at = [header.index(name) for name in names]
        block: list[list[float]] = []
        for row in rows:
            if not row:
                continue
            try:
                block.append([float(row[i]) for i in at])
            except (ValueError, IndexError):
                raise UserError(
                    f"--input: {path}, line {rows.line_num}: expected numbers for "
                    f"{', '.join(names)}"
                ) from None
            if len(block) == size:
                yield np.array(block, np.float32)
                block = []
        if block:
            yield np.array(block, np.float32)


def _from_columns(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    opened: Any = np.load(path) if path.suffix.lower() == _NPZ else h5py.File(path, "r")
    with opened as file:
        if "observations" not in file:
            raise UserError(
                f"--input: {path} lacks 'observations', got {', '.join(file) or 'none'}"
            )
        values = file["observations"]
        if len(values.shape) != 2 or values.shape[1] != len(names):
            raise UserError(
                f"--input: {path}: expected observations of shape (rows, {len(names)}), got "
                f"{values.shape}"
            )
        for rows in large_columns.blocks(len(values), size):
            yield np.asarray(values[rows], np.float32)


class _Writer(abc.ABC):
    """Writes blocks of named columns; a context that leaves a complete file or none."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close(complete=kind is None)
        if kind is not None:
            self._path.unlink(missing_ok=True)

    @abc.abstractmethod
    def write(self, found: dict[str, Array]) -> None:
        """Adds rows."""

    @abc.abstractmethod
    def close(self, complete: bool) -> None:
        """Ends the file."""


class _CsvWriter(_Writer):
    def __init__(self, path: pathlib.Path, action_names: tuple[str, ...]) -> None:
        super().__init__(path)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._names = action_names
        self._begun = False

    def write(self, found: dict[str, Array]) -> None:
        rest = [name for name in sorted(found) if name != "action"]
        if not self._begun:
            self._rows.writerow([*self._names, *rest])
            self._begun = True
        numbers = [found["action"], *(found[name].astype(np.float32)[:, None] for name in rest)]
        self._rows.writerows(np.concatenate(numbers, axis=1).tolist())

    def close(self, complete: bool) -> None:
        del complete
        self._file.close()


class _NpzWriter(_Writer):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self._columns: dict[str, large_columns.ColumnWriter] = {}

    def write(self, found: dict[str, Array]) -> None:
        for name, values in found.items():
            self._columns.setdefault(name, large_columns.ColumnWriter()).append(values)

    def close(self, complete: bool) -> None:
        if complete:
            arrays: dict[str, Any] = {n: c.finish() for n, c in self._columns.items()}
            with self._path.open("wb") as file:
                np.savez(file, **arrays)


class _Hdf5Writer(_Writer):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self._file = h5py.File(path, "w")

    def write(self, found: dict[str, Array]) -> None:
        for name, values in found.items():
            if name not in self._file:
                shape = (None, *values.shape[1:])
                self._file.create_dataset(name, data=values, maxshape=shape)
                continue
            column = self._file[name]
            column.resize(len(column) + len(values), axis=0)
            column[-len(values) :] = values

    def close(self, complete: bool) -> None:
        del complete
        self._file.close()


def _writer(path: pathlib.Path, suffix: str, action_names: tuple[str, ...]) -> _Writer:
    if suffix == _CSV:
        return _CsvWriter(path, action_names)
    return _NpzWriter(path) if suffix == _NPZ else _Hdf5Writer(path)


if __name__ == "__main__":
    schema.run(main, [PredictConfig], USAGE)
