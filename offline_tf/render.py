"""python -m offline_tf.render --workdir=RUN: a film of the controller in the simulator."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from absl import logging

from flags import schema
from offline_tf import install_hints, tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.export import loaded
from offline_tf.numerics import seeds
from offline_tf.policies import foreign
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.rendering import film
from offline_tf.rendering.film import Said
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, EnvironmentSpec, TaskSpec, UserError

USAGE = """
usage: python -m offline_tf.render --workdir=RUN [--export=FOLDER] [flags]
       python -m offline_tf.render --export=FOLDER [--env=hopper] [--output=FOLDER] [flags]

Runs the exported controller in the simulator. To RUN/render go episode.gif, episode.mp4 where PyAV is
installed (requirements-render.txt), and frames.png, eight pictures in a row; pictures
go to the run's TensorBoard too. On them are time, return so far and, of MOReL, whether the detector
knows the action, of MOPP, the share of candidates that pruning kept. No screen is needed.
"""
_PICTURES_PER_SECOND = 30.0
_IN_TENSORBOARD = 10  # It keeps that many of a tag.
_Actor = tuple[Callable[[Array], Said], Callable[[], None]]


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """Rendering."""

    workdir: str = shared_knobs.run_folder_knob()
    export: str = knob("", "Export, or a policy as collect takes it; empty: the run's export.")
    env: str = knob("", f"{tasks.ENV_HELP} Empty: the run's, or the export's.")
    physics: str = shared_knobs.other_physics_knob()
    output: str = knob("", "Folder to write to; empty: RUN/render, without a run render-TASK here.")
    episodes: int = knob(1, "Episodes, one after another.", low=1)
    seed: int = knob(
        0, "Random seed of start states and of MOPP's proposals.", low=0, high=2**31 - 1
    )
    steps: int = knob(0, "Control steps per episode at most; 0: the task's time limit.", low=0)
    guarded: bool = knob(False, "MOReL: the fallback's action where the policy's is unknown.")
    width: int = knob(480, "Width of a picture in pixels.", low=64, high=4096)
    height: int = knob(360, "Height of a picture in pixels.", low=64, high=4096)
    fps: float = knob(
        0.0,
        "Pictures per second. The film runs in real time: there are 1 / dt control steps in a "
        "second, of which every k-th is drawn. 0: about 30, or all where there are fewer.",
        low=0.0,
    )
    camera: str = knob(
        film.FOLLOW,
        "follow: beside the robot, moving with it; or the name of a camera of its model.",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir and not self.export:
            raise UserError("--workdir: expected the folder of a run, or --export, got neither")


def load_actor(path: pathlib.Path, task: TaskSpec, seed: int, guarded: bool) -> _Actor:
    """Loads an export, or a policy of another kind.

    Args:
      path: run folder, export, or policy file.
      task: what it has to fit.
      seed: of MOPP's proposals.
      guarded: whether MOReL's fallback acts where the policy's action is unknown.

    Returns:
      What acts, and what begins an episode.

    Raises:
      UserError: it cannot be read, or does not fit the task.
    """
    inner = path / "export" if (path / "export").is_dir() else path
    is_model = inner.is_file() or (inner / "saved_model.pb").exists()
    if is_model and not (inner / loaded.INTERFACE).exists():
        return _without_detector(inner, task, guarded)
    model = loaded.Deployed(path)
    wanted, got = loaded.Interface.of(task), model.interface
    if (len(wanted.observation_names), len(wanted.action_names)) != (
        len(got.observation_names),
        len(got.action_names),
    ):
        raise UserError(f"--export: {model.folder} is of {got.task}, not of --env={task.name}")
    if guarded and "act_guarded" not in model.signatures:
        raise UserError(f"--guarded: the export in {model.folder} has no act_guarded")
    if "plan" in model.signatures:
        planner = loaded.Planner(path, seed)

        def plan(observation: Array) -> Said:
            action = planner.act(observation)
            return Said(action, f"kept {100 * float(planner.decision['kept_share']):.0f} %")

        return plan, planner.reset

    def act(observation: Array) -> Said:
        rows = observation[None]
        found = model.call("act_guarded" if guarded else "serving_default", observation=rows)
        if not guarded and "is_known" in model.signatures:
            found |= model.call("is_known", observation=rows, action=found["action"])
        known = bool(found["known"][0]) if "known" in found else None
        verdict = {True: "known", False: "unknown", None: ""}[known]
        return Said(found["action"][0], verdict, known is False)

    return act, lambda: None


def _without_detector(path: pathlib.Path, task: TaskSpec, guarded: bool) -> _Actor:
    if guarded:
        raise UserError(f"--guarded: {path} holds no detector")
    try:
        policy, _ = foreign.load(path, task)
    except UserError as error:
        line = str(error).replace("--policy", "--export")
        raise UserError(
            f"{line}; exports of older runs are made again with `./run.sh export` or `mopp-export`"
        ) from None
    generator = np.random.default_rng(0)

    def act(observation: Array) -> Said:
        rows = observation[None]
        if isinstance(policy, NumpyPolicy):
            return Said(policy.mean(rows)[0])
        return Said(policy.act(rows, generator, False)[0])

    return act, lambda: None


def _flags(config: RenderConfig, record: RunRecord | None) -> dict[str, Any]:
    """The flags of the run that is filmed, as far as its files tell."""
    if record is not None:
        return record.manifest["flags"]
    path = pathlib.Path(config.export)
    for folder in (path, path / "export", path.parent):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return json.loads((folder / "manifest.json").read_text())["flags"]
    return {}


def _stage(task: TaskSpec, physics: str) -> tuple[Any, Any, Callable[[], Array], float]:
    """Returns a simulator of one robot, its MuJoCo model or None, what looks at it, and dt.

    MuJoCo is imported here: by then main has taken MUJOCO_GL away from it.
    """
    if isinstance(task.simulation, EnvironmentSpec):
        filmed = film.Filmed(task)
        return filmed, filmed.model, filmed.look, filmed.dt
    simulator = importlib.import_module("offline_tf.tasks.simulator").Simulator(
        task, physics, 1, threads=1
    )
    return simulator, simulator.model, lambda: simulator.qpos[0].copy(), task.dt


def run(config: RenderConfig, choose: Callable[[], film.Choice]) -> pathlib.Path | None:
    """Films; returns the folder, or None where nothing can draw.

    Args:
      config: what to film.
      choose: returns the back end; asked only where MuJoCo draws.

    Raises:
      UserError: bad input.
    """
    record = RunRecord.open_existing(pathlib.Path(config.workdir)) if config.workdir else None
    flags = _flags(config, record)
    path = pathlib.Path(config.export or config.workdir)
    env = config.env or flags.get("env") or loaded.Deployed(path).interface.task
    task = tasks.get(env)
    if task.simulation is None:
        raise UserError(f"--env={env}: this task declares no simulator; there is nothing to film")
    named = f"render-{tasks.short_name(env)}"
    folder = pathlib.Path(config.output or (record.folder / "render" if record else named))
    files.check_writable(folder / "episode.gif", "output" if config.output else "workdir")
    act, begin = load_actor(path, task, config.seed, config.guarded)
    simulator, model, look, dt = _stage(task, config.physics or flags.get("physics", "v2"))
    back_end = film.Choice("", "")
    if model is not None:
        cameras = [model.camera(i).name for i in range(model.ncam)]
        if config.camera not in (film.FOLLOW, *cameras):
            raise UserError(
                f"--camera: expected one of {', '.join((film.FOLLOW, *cameras))}, "
                f"got {config.camera!r}"
            )
        back_end = choose()
        if not back_end.name:
            logging.warning(
                "skipped: nothing can draw here (%s). %s", back_end.reason, film.INSTALL
            )
            return None
    stride = max(round(1.0 / (dt * (config.fps or _PICTURES_PER_SECOND))), 1)
    moments: list[film.Moment] = []
    for index in range(config.episodes):
        begin()
        moments += film.play(
            task,
            simulator,
            act,
            config.steps or task.max_episode_steps,
            stride,
            dt,
            seeds.generator(config.seed, "render", index),
            look,
            f"#{index}  " if config.episodes > 1 else "",
        )
        last = moments[-1]
        logging.info("episode %d: return %.1f in %.2f s", index, last.reward, last.seconds)
    pictures: Iterable[Array] = (moment.drawn for moment in moments)
    if model is not None:
        size, states = (config.width, config.height), np.stack(list(pictures))
        pictures = film.draw(model, states, size, config.camera, back_end.name)
    fps = 1.0 / (dt * stride)
    kept = film.write(folder, pictures, moments, fps, _IN_TENSORBOARD)
    if not film.can_write_mp4():
        logging.info("no mp4, only gif: %s", install_hints.install("requirements-render.txt"))
    if record is not None:
        tf = importlib.import_module("tensorflow")  # after flags.schema, which silences its start
        with record.writer.as_default():
            for number, image in kept.items():
                tf.summary.image("render/episode", np.asarray(image)[None], step=number)
        record.writer.flush()
    logging.info("%s: %d pictures, %.4g per second", folder, len(moments), fps)
    return folder


def main(config: RenderConfig) -> None:
    """Films."""
    # MuJoCo would load the library that it names beside TensorFlow, and crash: see rendering.py.
    asked = os.environ.pop("MUJOCO_GL", "")
    run(config, lambda: film.choose(asked))


if __name__ == "__main__":
    schema.run(main, [RenderConfig], USAGE)
