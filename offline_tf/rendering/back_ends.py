"""The MuJoCo back end that draws here: each is tried out in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

BACK_ENDS = ("egl", "osmesa")
INSTALL = "Debian: apt install libegl1 libgl1 libgl1-mesa-dri, or libosmesa6"
_OFF = ("0", "disable", "disabled", "false", "no", "off")
_PROBE_SECONDS = 60
_SPHERE = """<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>"""
_PROBE = """
import sys, mujoco
model = mujoco.MjModel.from_xml_string(sys.argv[1])
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
sys.exit(None if renderer.render().any() else "it draws nothing but black")
"""


class Choice(NamedTuple):
    """A back end that works here.

    Attributes:
      name: of the back end, or empty where none works.
      reason: of those that do not work, in one line.
    """

    name: str
    reason: str


def probe(name: str) -> str:
    """Draws one picture with a back end in a process of its own; returns "" or what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, _SPHERE],
            env=environment(name),
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not answer ({type(error).__name__})"
    return "" if done.returncode == 0 else last_words(done.stderr, done.returncode)


def choose(asked: str = "", try_out: Callable[[str], str] = probe) -> Choice:
    """Returns the back end that is asked for, else the first of egl and osmesa that works.

    Args:
      asked: the value of MUJOCO_GL, or empty.
      try_out: back end -> "" or what is wrong with it.
    """
    asked = asked.strip().lower()
    if asked in _OFF:
        return Choice("", f"MUJOCO_GL={asked} forbids it")
    reasons: list[str] = []
    for name in (asked,) if asked else BACK_ENDS:
        wrong = try_out(name)
        if not wrong:
            return Choice(name, "; ".join(reasons))
        reasons.append(f"{'MUJOCO_GL=' if asked else ''}{name}: {wrong}")
    return Choice("", "; ".join(reasons))


def environment(back_end: str) -> dict[str, str]:
    """Variables of a process that draws with a back end."""
    # PyOpenGL has to go the same way: MuJoCo refuses where a variable sends it another.
    changes = {name: back_end for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return {**os.environ, **changes}


def last_words(text: str, code: int) -> str:
    """One line that says why a process ended, from its stderr and its exit status."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        return f"it crashes (signal {-code})"
    return lines[-1][:160] if lines else f"exit status {code}"
