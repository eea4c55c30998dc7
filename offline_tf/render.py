"""python -m offline_tf.render --workdir=RUN: a film of the controller in the simulator."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable

from flags import schema
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.export import loaded
from offline_tf.rendering import back_ends, controllers, drawing, episodes, film
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.render --workdir=RUN [--export=FOLDER] [flags]
       python -m offline_tf.render --export=FOLDER [--env=hopper] [--output=FOLDER] [flags]

Runs the exported controller in the simulator. To RUN/render go episode.gif, episode.mp4 where PyAV is
installed (requirements-render.txt), and frames.png, eight pictures in a row; pictures
go to the run's TensorBoard too. On them are time, return so far and, of MOReL, whether the detector
knows the action, of MOPP, the share of candidates that pruning kept. No screen is needed.
"""
_IN_TENSORBOARD = 10  # It keeps that many of a tag.


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
        drawing.FOLLOW,
        "follow: beside the robot, moving with it; or the name of a camera of its model.",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir and not self.export:
            raise UserError("--workdir: expected the folder of a run, or --export, got neither")


def run(config: RenderConfig, choose: Callable[[], back_ends.Choice]) -> pathlib.Path | None:
    """Films; returns the folder, or None where nothing can draw.

    Args:
      config: what to film.
      choose: returns the back end; asked only where MuJoCo draws.

    Raises:
      UserError: bad input.
    """
    record = RunRecord.open_existing(pathlib.Path(config.workdir)) if config.workdir else None
    path = pathlib.Path(config.export or config.workdir)
    flags = controllers.recorded_flags(path, record)
    env = config.env or flags.get("env") or loaded.Deployed(path).interface.task
    task = tasks.get(env)
    if task.simulation is None:
        raise UserError(f"--env={env}: this task declares no simulator; there is nothing to film")
    default = record.folder / "render" if record else f"render-{tasks.short_name(env)}"
    folder = pathlib.Path(config.output or default)
    files.check_writable(folder / "episode.gif", "output" if config.output else "workdir")
    controller = controllers.load(path, task, config.seed, config.guarded)
    scene = episodes.open_scene(task, config.physics or flags.get("physics", "v2"))
    back_end = film.back_end_for(scene, config.camera, choose)
    if back_end is None:
        return None
    pictures = film.film_controller(
        folder,
        task=task,
        controller=controller,
        scene=scene,
        back_end=back_end.name,
        count=config.episodes,
        steps=config.steps,
        fps=config.fps,
        seed=config.seed,
        size=(config.width, config.height),
        camera=config.camera,
        returned=_IN_TENSORBOARD,
    )
    if record is not None:
        film.show_in_tensorboard(record.writer, pictures)
    return folder


def main(config: RenderConfig) -> None:
    """Films."""
    # MuJoCo would load the library that it names beside TensorFlow and crash: rendering/drawing.py.
    back_end = os.environ.pop("MUJOCO_GL", "")
    run(config, lambda: back_ends.choose(back_end))


if __name__ == "__main__":
    schema.run(main, configs=[RenderConfig], usage=USAGE)
