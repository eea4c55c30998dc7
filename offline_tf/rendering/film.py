"""Films of episodes: a MuJoCo back end that works here, pictures of states, text on them, files.

Pictures of MuJoCo are drawn by a process of their own: Mesa's software renderers and TensorFlow bring
one LLVM each, and a process that holds both crashes. Nothing here imports MuJoCo or TensorFlow, so
that this module serves in both processes.
"""

from __future__ import annotations

import fractions
import importlib
import importlib.util
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from offline_tf import install_hints
from offline_tf.types import Array, EnvironmentSpec, TaskSpec, UserError

BACK_ENDS = ("egl", "osmesa")
INSTALL = "Debian: apt install libegl1 libgl1 libgl1-mesa-dri, or libosmesa6"
FOLLOW = "follow"
_OFF = ("0", "disable", "disabled", "false", "no", "off")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PROBE_SECONDS = 60
_IN_A_ROW, _SIDE = 8, 240
_GIF_FPS = 50.0  # browsers play faster ones slowly
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
_KNOWN, _DOUBT, _LIGHT, _DARK = (90, 230, 120), (255, 80, 70), (255, 255, 255), (20, 20, 20)


class Choice(NamedTuple):
    """A back end that works here.

    Attributes:
      name: of the back end, or empty where none works.
      reason: of those that do not work, in one line.
    """

    name: str
    reason: str


class Said(NamedTuple):
    """What a controller does in one step.

    Attributes:
      action: [A].
      verdict: words for the picture; may be empty.
      doubtful: the data do not support the action.
    """

    action: Array
    verdict: str = ""
    doubtful: bool = False


class Moment(NamedTuple):
    """One picture of a film, and what is written on it.

    Attributes:
      title: of the episode; may be empty.
      seconds: since the episode began.
      reward: summed so far.
      verdict, doubtful: as in `Said`; doubtful where any step until the next picture is.
      drawn: qpos [Q], or the picture itself [H, W, 3].
    """

    title: str
    seconds: float
    reward: float
    verdict: str
    doubtful: bool
    drawn: Array


class Stepped(Protocol):
    """One simulator that steps; see `tasks.simulator.Simulator`."""

    def reset(self, generator: np.random.Generator) -> None:
        """Begins an episode."""

    def observations(self) -> Array:
        """[1, S]."""
        ...

    def step(self, actions: Array) -> tuple[Array, Array]:
        """[1, A] -> rewards [1], terminated [1]."""
        ...


def probe(name: str) -> str:
    """Draws one picture with a back end in a process of its own; returns "" or what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, _SPHERE],
            env=_environment(name),
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not answer ({type(error).__name__})"
    return "" if done.returncode == 0 else _last_words(done.stderr, done.returncode)


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


def _environment(back_end: str) -> dict[str, str]:
    # PyOpenGL has to go the same way: MuJoCo refuses where a variable sends it another.
    changes = {name: back_end for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return {**os.environ, **changes}


def _last_words(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        return f"it crashes (signal {-code})"
    return lines[-1][:160] if lines else f"exit status {code}"


def play(
    task: TaskSpec,
    simulator: Stepped,
    act: Callable[[Array], Said],
    steps: int,
    stride: int,
    dt: float,
    generator: np.random.Generator,
    look: Callable[[], Array],
    title: str = "",
) -> list[Moment]:
    """Runs one episode.

    Args:
      task: bounds of the actions.
      simulator: of one robot.
      act: observation [S] -> what is done.
      steps: at most.
      stride: control steps from one picture to the next.
      dt: seconds per control step.
      generator: of the start state.
      look: returns what is to be drawn of the present state.
      title: to be written on its pictures.

    Returns:
      Its pictures in time order; the last one is the state after the last step.
    """
    simulator.reset(generator)
    total, step, ended = 0.0, 0, False
    moments: list[Moment] = []
    while step < steps and not ended:
        said = act(simulator.observations()[0])
        if step % stride == 0:
            moments.append(Moment(title, step * dt, total, said.verdict, said.doubtful, look()))
        elif said.doubtful:
            moments[-1] = moments[-1]._replace(verdict=said.verdict, doubtful=True)
        rewards, terminated = simulator.step(task.clip_actions(said.action)[None])
        total, ended = total + float(rewards[0]), bool(terminated[0])
        step += 1
    return [*moments, Moment(title, step * dt, total, "ended" if ended else "", False, look())]


class Filmed:
    """A Gymnasium environment that can be looked at; see `Stepped`.

    Attributes:
      model: its MuJoCo model, or None where it draws itself.
      dt: seconds per control step.
    """

    def __init__(self, task: TaskSpec) -> None:
        """Makes it.

        Raises:
          UserError: it does not make pictures.
        """
        assert isinstance(task.simulation, EnvironmentSpec)
        self._task = task
        name = task.simulation.id
        try:
            self._environment: Any = gymnasium.make(name, render_mode="rgb_array").unwrapped
            self._environment.reset(seed=0)
            self.model = getattr(self._environment, "model", None)
            if not hasattr(self.model, "geom_size"):
                self.model = None
                self._environment.render()
        except Exception as error:  # an environment may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--env: Gymnasium's {name} makes no pictures here: {reason}; its classic environments "
                f"need {install_hints.install('requirements-render.txt')}"
            ) from None
        rate = self._environment.metadata.get("render_fps") or 30
        self.dt = task.dt if hasattr(self._environment, "dt") else 1.0 / rate
        self._observation = np.zeros(task.state_dim, np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """See `Stepped`."""
        self._observation, _ = self._environment.reset(seed=int(generator.integers(2**31)))

    def observations(self) -> Array:
        """See `Stepped`."""
        return np.asarray(self._observation, np.float32)[None]

    def step(self, actions: Array) -> tuple[Array, Array]:
        """See `Stepped`."""
        action = np.asarray(actions[0], np.float64)
        self._observation, reward, terminated, *_ = self._environment.step(action)
        return np.array([reward], float), np.array([terminated], bool)

    def look(self) -> Array:
        """Its qpos [Q], or its own picture [H, W, 3]."""
        if self.model is not None:
            return self._environment.data.qpos.copy()
        return np.array(self._environment.render())


def draw(
    model: Any, states: Array, size: tuple[int, int], camera: str, back_end: str
) -> Iterator[Array]:
    """Yields [H, W, 3] uint8 pictures of a MuJoCo model, drawn in a process of its own.

    Args:
      model: mujoco.MjModel; not changed.
      states: qpos [F, Q].
      size: width W and height H in pixels.
      camera: "follow", beside the robot and moving with it, or the name of one of the model's.
      back_end: one that works; see `choose`.

    Raises:
      UserError: the back end fails.
    """
    mujoco = importlib.import_module("mujoco")
    width, height = size
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as words:
        mujoco.mj_saveModel(model, f"{folder}/model.mjb")
        np.save(f"{folder}/states.npy", np.asarray(states, np.float64))
        code = "from offline_tf.rendering import film; film.serve()"
        given = [folder, str(width), str(height), camera]
        child = subprocess.Popen(
            [sys.executable, "-c", code, *given],
            env=_environment(back_end),
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=words,
        )
        assert child.stdout is not None
        try:
            for _ in states:
                raw = child.stdout.read(height * width * 3)
                if len(raw) < height * width * 3:
                    words.seek(0)
                    reason = _last_words(words.read(), child.wait())
                    raise UserError(f"the rendering back end {back_end} fails: {reason}")
                yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        finally:
            child.stdout.close()
            child.kill()
            child.wait()


def serve() -> None:
    """What the drawing process does: pictures of the states in a folder, as raw bytes to stdout."""
    mujoco = importlib.import_module("mujoco")
    folder, width, height, name = sys.argv[1:]
    model = mujoco.MjModel.from_binary_path(f"{folder}/model.mjb")
    model.vis.global_.offwidth, model.vis.global_.offheight = int(width), int(height)
    _furnish(mujoco, model)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    view: Any = name
    if name == FOLLOW:
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
        if name == FOLLOW:
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


def annotate(picture: Array, moment: Moment) -> Image.Image:
    """A picture under a band with time, return and verdict; doubt has a red frame."""
    image = Image.fromarray(picture).convert("RGB")
    pen = ImageDraw.Draw(image)
    unit = max(image.height // 18, 10)
    font = ImageFont.load_default(size=unit)
    pen.rectangle((0, 0, image.width, 2 * unit), fill=_DARK)
    left = f"{moment.title}{moment.seconds:.2f} s   return {moment.reward:.1f}"
    pen.text((unit // 2, unit), left, fill=_LIGHT, anchor="lm", font=font)
    if moment.verdict:
        color = _DOUBT if moment.doubtful else _KNOWN if moment.verdict == "known" else _LIGHT
        at = (image.width - unit // 2, unit)
        pen.text(at, moment.verdict, fill=color, anchor="rm", font=font)
    if moment.doubtful:
        box = (0, 0, image.width - 1, image.height - 1)
        pen.rectangle(box, outline=_DOUBT, width=max(unit // 4, 2))
    return image


def in_a_row(pictures: Sequence[Array], moments: Sequence[Moment], side: int) -> Image.Image:
    """The squares in the middle of some pictures, each with its text, in one row."""
    row = Image.new("RGB", (len(pictures) * (side + 2) - 2, side), _LIGHT)
    for index, (picture, moment) in enumerate(zip(pictures, moments, strict=True)):
        height, width, _ = picture.shape
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = Image.fromarray(picture[top : top + edge, left : left + edge])
        small = np.asarray(square.resize((side, side)))
        row.paste(annotate(small, moment), (index * (side + 2), 0))
    return row


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0 .. count - 1, evenly apart, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def can_write_mp4() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def write(
    folder: pathlib.Path,
    pictures: Iterable[Array],
    moments: Sequence[Moment],
    fps: float,
    keep: int,
) -> dict[int, Image.Image]:
    """Writes episode.gif, episode.mp4 where PyAV is installed, and frames.png, eight in a row.

    Args:
      folder: where to; its files appear when all are complete.
      pictures: [H, W, 3] uint8 each.
      moments: of each picture.
      fps: pictures per second.
      keep: how many finished pictures to return.

    Returns:
      Number of the picture -> picture, for `keep` of them, evenly apart.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    in_row, wanted = evenly(len(moments), _IN_A_ROW), evenly(len(moments), keep)
    plain, kept = [], {}
    with tempfile.TemporaryDirectory(prefix=".render-", dir=folder.parent) as name:
        scratch = pathlib.Path(name)
        gif = GifWriter(scratch / "episode.gif", fps)
        film = Mp4Writer(scratch / "episode.mp4", fps) if can_write_mp4() else None
        for number, (picture, moment) in enumerate(zip(pictures, moments, strict=True)):
            image = annotate(picture, moment)
            gif.add(image)
            if film:
                film.add(image)
            if number in in_row:
                plain.append(picture)
            if number in wanted:
                kept[number] = image
        gif.close()
        if film:
            film.close()
        in_a_row(plain, [moments[i] for i in in_row], _SIDE).save(scratch / "frames.png")
        folder.mkdir(exist_ok=True)
        for path in sorted(scratch.iterdir()):
            path.replace(folder / path.name)
    return kept


class GifWriter:
    """An endless GIF of at most 50 pictures per second: where there are more, some are left out.

    Its colours are those of the first picture and of the verdicts.
    """

    def __init__(self, path: pathlib.Path, fps: float) -> None:
        """Nothing is written before `close`."""
        self._path, self._fps, self._every = path, fps, math.ceil(fps / _GIF_FPS)
        self._number = 0
        self._pictures: list[Image.Image] = []
        self._palette: Image.Image | None = None

    def add(self, image: Image.Image) -> None:
        """Adds a picture."""
        self._number += 1
        if (self._number - 1) % self._every:
            return
        if self._palette is None:
            found = image.quantize(254, Image.Quantize.MAXCOVERAGE).getpalette() or []
            self._palette = Image.new("P", (1, 1))
            self._palette.putpalette([*found[: 3 * 254], *_KNOWN, *_DOUBT])
        self._pictures.append(image.quantize(palette=self._palette, dither=Image.Dither.NONE))

    def close(self) -> None:
        """Writes the file. GIF counts in hundredths of a second; rounding does not add up."""
        numbers = np.arange(1, len(self._pictures) + 1)
        ends = np.round(100.0 * self._every * numbers / self._fps).astype(int)
        times = [int(t) for t in 10 * np.diff(ends, prepend=0)]
        first, *others = self._pictures
        first.save(
            self._path, save_all=True, append_images=others, duration=times, loop=0, optimize=False
        )


class Mp4Writer:
    """H.264 in mp4, by PyAV."""

    def __init__(self, path: pathlib.Path, fps: float) -> None:
        """Opens the file."""
        self._av = importlib.import_module("av")
        self._file = self._av.open(str(path), "w")
        rate = fractions.Fraction(fps).limit_denominator(1000)
        self._stream = self._file.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._first = True

    def add(self, image: Image.Image) -> None:
        """Adds a picture; an odd last row or column is cut off."""
        image = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
        if self._first:
            self._stream.width, self._stream.height = image.size
            self._first = False
        frame = self._av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file."""
        self._file.mux(self._stream.encode())
        self._file.close()
