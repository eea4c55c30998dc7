"""A film of a controller in the simulator: episodes are played, drawn and written."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from offline_tf import install_hints
from offline_tf.numerics import seeds
from offline_tf.rendering import back_ends, drawing, episodes, writers
from offline_tf.rendering.controllers import Controller
from offline_tf.types import Array, TaskSpec, UserError

_PICTURES_PER_SECOND = 30.0


def back_end_for(
    scene: episodes.Scene, camera: str, choose: Callable[[], back_ends.Choice]
) -> back_ends.Choice | None:
    """The back end that draws a scene.

    Args:
      scene: what is drawn.
      camera: see `drawing.draw`.
      choose: returns a back end; asked only where MuJoCo draws.

    Returns:
      A choice, of no name where the scene draws itself; None where nothing can draw, which is logged.

    Raises:
      UserError: the model has no such camera.
    """
    if scene.model is None:
        return back_ends.Choice("", "")
    cameras = (drawing.FOLLOW, *(scene.model.camera(i).name for i in range(scene.model.ncam)))
    if camera not in cameras:
        raise UserError(f"--camera: expected one of {', '.join(cameras)}, got {camera!r}")
    choice = choose()
    if choice.name:
        return choice
    logging.warning("skipped: nothing can draw here (%s). %s", choice.reason, back_ends.INSTALL)
    return None


def film_controller(
    folder: pathlib.Path,
    task: TaskSpec,
    controller: Controller,
    scene: episodes.Scene,
    back_end: str,
    *,
    count: int,
    steps: int,
    fps: float,
    seed: int,
    size: tuple[int, int],
    camera: str,
    returned: int,
) -> dict[int, Image.Image]:
    """Films some episodes, one after another.

    Args:
      folder: where the files go; see `writers.write`.
      task: bounds of the actions, and the time limit.
      controller: what acts.
      scene: where.
      back_end: what draws; empty where the scene draws itself.
      count: episodes.
      steps: per episode at most; 0: the task's time limit.
      fps: pictures per second, as near as control steps allow; 0: about 30.
      seed: of the start states.
      size: width W and height H of a picture in pixels.
      camera: see `drawing.draw`.
      returned: how many finished pictures to return.

    Returns:
      Number of the picture -> picture, evenly apart.

    Raises:
      UserError: the back end fails.
    """
    stride = max(round(1.0 / (scene.dt * (fps or _PICTURES_PER_SECOND))), 1)
    frames: list[episodes.Frame] = []
    for index in range(count):
        controller.begin_episode()
        frames += episodes.play(
            task,
            scene=scene,
            act=controller.act,
            steps=steps or task.max_episode_steps,
            stride=stride,
            generator=seeds.generator(seed, "render", index),
            title=f"#{index}  " if count > 1 else "",
        )
        last = frames[-1]
        logging.info("episode %d: return %.1f in %.2f s", index, last.reward, last.seconds)
    pictures: Iterable[Array] = (frame.drawn for frame in frames)
    if scene.model is not None:
        states = np.stack([frame.drawn for frame in frames])  # [F, Q]
        pictures = drawing.draw(scene.model, states, size, camera, back_end)
    real_fps = 1.0 / (scene.dt * stride)
    finished = writers.write(folder, pictures, frames, real_fps, returned)
    if not writers.can_write_mp4():
        logging.info("no mp4, only gif: %s", install_hints.install("requirements-render.txt"))
    logging.info("%s: %d pictures, %.4g per second", folder, len(frames), real_fps)
    return finished


def show_in_tensorboard(writer: Any, pictures: Mapping[int, Image.Image]) -> None:
    """Adds pictures to a run's TensorBoard, each at its number."""
    tf = importlib.import_module("tensorflow")  # late, as flags.schema silences its start
    with writer.as_default():
        for number, image in pictures.items():
            tf.summary.image("render/episode", np.asarray(image)[None], step=number)
    writer.flush()
