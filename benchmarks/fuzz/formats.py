"""The kinds of files that are damaged: how a sound one is made, and how it is read."""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tensorflow as tf

from benchmarks.fuzz import replay_buffers, torch_files
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.description import draft, table_facts
from offline_tf.datasets.formats import (
    d4rl,
    minari,
    observation_files,
    plant_logs,
    replay_buffer,
)
from offline_tf.datasets.quality import log_checks
from offline_tf.inspection import inspect_stage
from offline_tf.policies import foreign, foreign_normalizer, gaussian
from offline_tf.reports import report_layout, run_contents
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks.plants import plant_file
from offline_tf.types import TaskSpec, Transitions, UserError

MARK = "code_ran"  # a file that hostile ones would make
_ROWS = 60
_STEPS = (4, 8)  # of checkpoints


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      name: in the record.
      suffix: of the file.
      make: writes a sound one.
      read: reads one; raises UserError where it is refused.
      members: the share of inputs in which a zip archive's member is changed, with a right checksum.
    """

    name: str
    suffix: str
    make: Callable[[pathlib.Path], Any]
    read: Callable[[pathlib.Path], Any]
    members: float = 0.7


class Hostile:
    """Unpickled by pickle itself, it makes a file."""

    def __reduce__(self) -> Any:
        """What pickle would call."""
        return pathlib.Path.touch, (pathlib.Path(MARK),)


def _task() -> TaskSpec:
    return tasks.get("hopper")


def _transitions() -> Transitions:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(_ROWS + 1, 11)).astype(np.float32)
    return Transitions(
        observations=states[:-1],
        actions=generator.uniform(-1, 1, (_ROWS, 3)).astype(np.float32),
        rewards=generator.normal(size=_ROWS).astype(np.float32),
        next_observations=states[1:],
        terminals=np.zeros(_ROWS, bool),
        timeouts=np.arange(_ROWS) % 20 == 19,
    )


def _columns() -> dict[str, Any]:
    data = vars(_transitions())
    return {name: values for name, values in data.items() if values is not None}


def _load(path: pathlib.Path) -> Any:
    return sources.load(str(path), _task())


def _packed_hdf5(path: pathlib.Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in _columns().items():
            file.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)


def _minari(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch, "data")
        minari.write(folder, _transitions(), _task(), "a/b-v0")
        path.write_bytes((folder / "data" / "main_data.hdf5").read_bytes())


def _pickle(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps([_columns()] * 2, protocol=4))


def _hostile_pickle(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps([_columns() | {"rewards": Hostile()}], protocol=2))


def _npz(path: pathlib.Path) -> None:
    np.savez(path, **_columns())


def _hostile_npz(path: pathlib.Path) -> None:
    np.savez(path, **(_columns() | {"rewards": np.array([Hostile()] * 3, object)}))


def _csv(path: pathlib.Path) -> None:
    task, data = _task(), _transitions()
    names = [*task.observation_names, *task.action_names, "reward", "terminal", "timeout"]
    ends = np.stack([data.terminals, data.timeouts], axis=1)
    rows = np.concatenate([data.observations, data.actions, data.rewards[:, None], ends], axis=1)
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")


def _table(names: Sequence[str]) -> pa.Table:
    data = _transitions()
    rows = np.concatenate([data.observations, data.actions, data.rewards[:, None]], axis=1)
    columns = dict(zip((*names, "reward"), rows.T, strict=True))
    return pa.table(columns | {"timeout": data.timeouts, "episode": np.arange(_ROWS) // 20})


def _parquet(path: pathlib.Path) -> None:
    task = _task()
    names = (*task.observation_names, *task.action_names)
    pyarrow.parquet.write_table(_table(names), path, row_group_size=25)


def _lerobot(path: pathlib.Path) -> None:
    data = _transitions()
    columns = {
        "observation.state": list(data.observations),
        "action": list(data.actions),
        "next.reward": data.rewards,
        "next.done": data.timeouts,
        "episode_index": np.arange(_ROWS) // 20,
    }
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), file)
    features = {name: {"dtype": "float32"} for name in columns}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arm/meta/info.json", json.dumps({"features": features}))
        archive.writestr("arm/data/chunk-000/file-000.parquet", file.getvalue())


def _read_lerobot(path: pathlib.Path) -> None:
    folder = path.with_suffix("")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        archive.extractall(folder)
    try:
        sources.load(str(folder / "arm"), _task())
    finally:
        shutil.rmtree(folder)


_PLANT = """name = "p"
step_seconds = 10
history = 2
[log]
time = "time"
time_format = "%d.%m.%Y %H:%M:%S"
[[observations]]
name = "level"
column = "Level [m]"
[[actions]]
name = "valve"
low = 0
high = 1
[reward]
expression = "-(level - 1.5)**2 - 0.1 * abs(valve - before(valve))"
[termination]
expression = "level > 4 and not level < 1"
"""


def _plant_log(path: pathlib.Path) -> None:
    lines = ["time;Level [m];valve;note"]
    for step in range(_ROWS):
        minute, second = divmod(10 * step, 60)
        level = str(round(1 + 0.1 * np.sin(step), 3)).replace(".", ",")
        lines.append(f"13.03.2024 10:{minute:02d}:{second:02d};{level};{step // 7 % 2};ok")
    path.write_text("\n".join(lines) + "\n")


def _read_plant_log(path: pathlib.Path) -> None:
    task = plant_file.task_of(tomllib.loads(_PLANT), "plant.toml")
    log_checks.find(*plant_logs.samples([path], task)[:2], task)
    sources.load(str(path), task)


def _read_plant(path: pathlib.Path) -> None:
    log = path.with_suffix(".csv")
    _plant_log(log)
    sources.load(str(log), plant_file.read(path))


def _policy(path: pathlib.Path) -> None:
    gaussian.save(path, *gaussian.load(gaussian.shipped("hopper")))


def _layer(name: str, inputs: int, outputs: int) -> dict[str, Any]:
    generator = np.random.default_rng(inputs)
    weights = generator.normal(size=(outputs, inputs))
    return {f"{name}.weight": weights, f"{name}.bias": np.zeros(outputs)}


def _sb3(path: pathlib.Path) -> None:
    layers = _layer("actor.latent_pi.0", 11, 8) | _layer("actor.latent_pi.2", 8, 8)
    layers |= _layer("actor.mu", 8, 3) | _layer("actor.log_std", 8, 3)
    torch_files.write_sb3(path, layers, use_sde=False)


def _hostile_sb3(path: pathlib.Path) -> None:
    """A zip file of Stable-Baselines3's shape whose pickle is hostile."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": "gASVAAAA"}}))
        archive.writestr("policy.pth", pickle.dumps({"weights": Hostile()}))
        archive.writestr("_stable_baselines3_version", "2.9.2")


def _normalizer(path: pathlib.Path) -> None:
    found = {
        "obs_rms": {"mean": np.zeros(11), "var": np.ones(11)},
        "clip_obs": 10.0,
        "x": Hostile(),
    }
    path.write_bytes(pickle.dumps(found, protocol=4))


def _replay_buffer(path: pathlib.Path) -> None:
    data = _transitions()
    limits = np.zeros(len(data), bool)
    replay_buffers.write(path, data, size=len(data) + 5, limits=limits, hostile=Hostile())


def _observations(path: pathlib.Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, observations=_transitions().observations)
        return
    rows = [",".join(map(str, row)) for row in _transitions().observations]
    path.write_text("\n".join([",".join(_task().observation_names), *rows]) + "\n")


def _predicted(path: pathlib.Path) -> None:
    for _ in observation_files.blocks(path, _task().observation_names, 16):
        pass


def _write_run(folder: pathlib.Path) -> None:
    """A run folder with a file of each kind."""
    record = RunRecord.create_or_continue(folder, "morel", {"env": "hopper", "seed": 0})
    record.stage("judge").finish({"statistics": [0.5, 1.5], "split_seed": 3}, 1.0)
    layout = report_layout.Line("return", "planning", "return")
    panel = report_layout.Panel("Returns", "step", "return", (layout,))
    number = report_layout.Number("final_return", "Return")
    report_layout.write(folder, report_layout.Layout((panel,), (number,)))
    weights = [tf.Variable(tf.zeros((11, 4))), tf.Variable(tf.zeros((4,)))]
    stage = record.stage("planning")
    stage.track(weights)
    for step in _STEPS:
        stage.log(step, {"return": 2.0 * step, "kl": 0.01})
        stage.save(step)
    stage.stop_within_block(_STEPS[-1], 3, [np.zeros(2, np.float32)] * 3)
    record.arrays("models", {"error": np.ones((5, 2)), "names": np.array(["a", "b"])})
    (folder / "summary.json").write_text(json.dumps({"final_return": 16.0, "seed": 0}))
    shutil.rmtree(folder / "tensorboard")


def _run_folder(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(path, "w") as archive:
        _write_run(pathlib.Path(scratch, "run"))
        for file in sorted(pathlib.Path(scratch, "run").rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(scratch))


def _read_run(path: pathlib.Path) -> None:
    """Each reader of a run folder on its own: where one refuses, the others still read."""
    folder = path.with_suffix("")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        archive.extractall(folder)
    errors = []
    run = folder / "run"
    for read in (_continue_planning, _report, _inspect):
        try:
            read(run)
        except UserError as error:
            errors.append(error)
    shutil.rmtree(folder)
    if errors:
        raise errors[0]


def _continue_planning(run: pathlib.Path) -> None:
    RunRecord.check_folder(run, "morel", {"env": "hopper", "seed": 0})
    stage = RunRecord.open_existing(run).stage("planning")
    stage.track([tf.Variable(tf.zeros((11, 4))), tf.Variable(tf.zeros((4,)))])
    stage.save(stage.restore() + 4)


def _report(run: pathlib.Path) -> None:
    found = run_contents.read(run)
    report_layout.plain(found.tables, found.summary)


def _inspect(run: pathlib.Path) -> None:
    inspect_stage.load(run, "models")


FORMATS = (
    Format("d4rl", ".hdf5", lambda path: d4rl.write(path, _transitions()), _load),
    Format("packed", ".hdf5", _packed_hdf5, _load),
    Format("minari", ".hdf5", _minari, _load),
    Format("pickle", ".pkl", _pickle, _load),
    Format("hostile_pickle", ".pkl", _hostile_pickle, _load),
    Format("npz", ".npz", _npz, _load),
    Format("hostile_npz", ".npz", _hostile_npz, _load),
    Format("csv", ".csv", _csv, _load),
    Format("policy", ".npz", _policy, lambda path: foreign.load(path, _task(), None)),
    Format("sb3", ".zip", _sb3, lambda path: foreign.load(path, _task(), None)),
    Format("hostile_sb3", ".zip", _hostile_sb3, lambda path: foreign.load(path, _task(), None)),
    Format("normalizer", ".pkl", _normalizer, lambda path: foreign_normalizer.read(path, 11)),
    Format("replay_buffer", ".pkl", _replay_buffer, lambda path: replay_buffer.read(path, _task())),
    Format("observations_csv", ".csv", _observations, _predicted),
    Format("observations_npz", ".npz", _observations, _predicted),
    Format("run_folder", ".zip", _run_folder, _read_run, members=1.0),
    Format("parquet", ".parquet", _parquet, _load),
    Format("lerobot", ".zip", _lerobot, _read_lerobot, members=1.0),
    Format("plant_log", ".csv", _plant_log, _read_plant_log),
    Format("plant_toml", ".toml", lambda path: path.write_text(_PLANT), _read_plant),
    Format(
        "described", ".csv", _plant_log, lambda path: draft.write(table_facts.find(path), "p", 0)
    ),
)
