"""Pictures of a MuJoCo model's states, drawn in a process of their own.

Mesa's software renderers and TensorFlow bring one LLVM each, and a process that holds both crashes.
The drawing process imports this module, so nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from offline_tf.rendering import back_ends
from offline_tf.types import Array, UserError

FOLLOW = "follow"
_ROOT = pathlib.Path(__file__).resolve().parents[2]


def draw(
    model: Any, states: Array, size: tuple[int, int], camera: str, back_end: str
) -> Iterator[Array]:
    """Yields [H, W, 3] uint8 pictures of a MuJoCo model, drawn in a process of its own.

    Args:
      model: mujoco.MjModel; not changed.
      states: qpos [F, Q].
      size: width W and height H in pixels.
      camera: "follow", beside the robot and moving with it, or the name of one of the model's.
      back_end: one that works; see `back_ends.choose`.

    Raises:
      UserError: the back end fails.
    """
    mujoco = importlib.import_module("mujoco")
    width, height = size
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        mujoco.mj_saveModel(model, f"{folder}/model.mjb")
        np.save(f"{folder}/states.npy", np.asarray(states, np.float64))
        code = "from offline_tf.rendering import drawing; drawing.draw_here()"
        arguments = [folder, str(width), str(height), camera]
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=back_ends.environment(back_end),
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert child.stdout is not None
        try:
            for _ in states:
                raw = child.stdout.read(height * width * 3)
                if len(raw) < height * width * 3:
                    errors.seek(0)
                    reason = back_ends.last_words(errors.read(), child.wait())
                    raise UserError(f"the rendering back end {back_end} fails: {reason}")
                yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        finally:
            child.stdout.close()
            child.kill()
            child.wait()


def draw_here() -> None:
    """What the drawing process does: pictures of the states in a folder, as raw bytes to stdout."""
    mujoco = importlib.import_module("mujoco")
    folder, width, height, camera = sys.argv[1:]
    model = mujoco.MjModel.from_binary_path(f"{folder}/model.mjb")
    model.vis.global_.offwidth, model.vis.global_.offheight = int(width), int(height)
    _furnish(mujoco, model)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    view: Any = camera
    if camera == FOLLOW:
        view = mujoco.MjvCamera()
        robot = model.body_rootid[np.arange(model.nbody)] > 0
        geoms = robot[model.geom_bodyid]
        reach = model.geom_rbound[geoms, None]
        low = (data.geom_xpos[geoms] - reach).min(axis=0)
        high = (data.geom_xpos[geoms] + reach).max(axis=0)
        free = (model.jnt_type == mujoco.mjtJoint.mjJNT_FREE).any()
        view.azimuth, view.elevation = (120.0, -20.0) if free else (90.0, -8.0)
        view.distance = 1.95 * float((high - low).max())
        view.lookat[:] = 0.5 * (low + high)
    renderer = mujoco.Renderer(model, int(height), int(width))
    # Without a GPU they cost more than all the rest; an endless floor has black specks with shadows.
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    for qpos in np.load(f"{folder}/states.npy"):
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        if camera == FOLLOW:
            view.lookat[:2] = data.subtree_com[1, :2]
        for _ in range(2):  # an endless floor lies about where the camera was at the last call
            renderer.update_scene(data, view)
        sys.stdout.buffer.write(renderer.render().tobytes())
    sys.stdout.buffer.flush()


def _furnish(mujoco: Any, model: Any) -> None:
    """Makes the floor of a model endless, with pale chequers of 0.5 m.

    A floor's picture ends where the floor does not: the robot would run out of it.
    """
    model.vis.map.shadowclip = 4
    floors = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    model.geom_size[floors, :2] = 0.0
    for material in set(model.geom_matid[floors].tolist()) - {-1}:
        model.mat_texuniform[material] = 1
        model.mat_texrepeat[material] = 1.0
        for texture in set(model.mat_texid[material].tolist()) - {-1}:
            start = model.tex_adr[texture]
            count = np.prod([model.tex_height[texture], model.tex_width[texture]])
            pixels = model.tex_data[start : start + count * model.tex_nchannel[texture]]
            pixels[:] = 120 + pixels // 3
