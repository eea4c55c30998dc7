"""Files of a film: text on the pictures, a GIF, an MP4, some pictures in a row."""

from __future__ import annotations

import fractions
import importlib
import importlib.util
import math
import pathlib
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from offline_tf.rendering.episodes import Frame
from offline_tf.types import Array

_IN_A_ROW, _SIDE = 8, 240
_GIF_FPS = 50.0  # browsers play faster ones slowly
_KNOWN, _DOUBT, _LIGHT, _DARK = (90, 230, 120), (255, 80, 70), (255, 255, 255), (20, 20, 20)


def annotate(picture: Array, frame: Frame) -> Image.Image:
    """A picture under a band with time, return and verdict; doubt has a red frame."""
    image = Image.fromarray(picture).convert("RGB")
    pen = ImageDraw.Draw(image)
    unit = max(image.height // 18, 10)
    font = ImageFont.load_default(size=unit)
    pen.rectangle((0, 0, image.width, 2 * unit), fill=_DARK)
    left = f"{frame.title}{frame.seconds:.2f} s   return {frame.reward:.1f}"
    pen.text((unit // 2, unit), left, fill=_LIGHT, anchor="lm", font=font)
    if frame.verdict:
        color = _DOUBT if frame.doubtful else _KNOWN if frame.verdict == "known" else _LIGHT
        at = (image.width - unit // 2, unit)
        pen.text(at, frame.verdict, fill=color, anchor="rm", font=font)
    if frame.doubtful:
        box = (0, 0, image.width - 1, image.height - 1)
        pen.rectangle(box, outline=_DOUBT, width=max(unit // 4, 2))
    return image


def in_a_row(pictures: Sequence[Array], frames: Sequence[Frame], side: int) -> Image.Image:
    """The squares in the middle of some pictures, each with its text, in one row."""
    row = Image.new("RGB", (len(pictures) * (side + 2) - 2, side), _LIGHT)
    for index, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
        height, width, _ = picture.shape
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = Image.fromarray(picture[top : top + edge, left : left + edge])
        small = np.asarray(square.resize((side, side)))
        row.paste(annotate(small, frame), (index * (side + 2), 0))
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
    frames: Sequence[Frame],
    fps: float,
    keep: int,
) -> dict[int, Image.Image]:
    """Writes episode.gif, episode.mp4 where PyAV is installed, and frames.png, eight in a row.

    Args:
      folder: where to; its files appear when all are complete.
      pictures: [H, W, 3] uint8 each.
      frames: of each picture.
      fps: pictures per second.
      keep: how many finished pictures to return.

    Returns:
      Number of the picture -> picture, for `keep` of them, evenly apart.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    in_row, returned = evenly(len(frames), _IN_A_ROW), evenly(len(frames), keep)
    row_pictures, finished = [], {}
    with tempfile.TemporaryDirectory(prefix=".render-", dir=folder.parent) as name:
        scratch = pathlib.Path(name)
        gif = GifWriter(scratch / "episode.gif", fps)
        mp4 = Mp4Writer(scratch / "episode.mp4", fps) if can_write_mp4() else None
        for number, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
            image = annotate(picture, frame)
            gif.add(image)
            if mp4:
                mp4.add(image)
            if number in in_row:
                row_pictures.append(picture)
            if number in returned:
                finished[number] = image
        gif.close()
        if mp4:
            mp4.close()
        in_a_row(row_pictures, [frames[i] for i in in_row], _SIDE).save(scratch / "frames.png")
        folder.mkdir(exist_ok=True)
        for path in sorted(scratch.iterdir()):
            path.replace(folder / path.name)
    return finished


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
            colors = image.quantize(254, Image.Quantize.MAXCOVERAGE).getpalette() or []
            self._palette = Image.new("P", (1, 1))
            self._palette.putpalette([*colors[: 3 * 254], *_KNOWN, *_DOUBT])
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
