"""npz archives of columns, unpacked by blocks of rows."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

from offline_tf.datasets.formats import columns, synonyms
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, Transitions, UserError


class _Member:
    """A column of an npz archive that is unpacked by blocks.

    Going back means to begin anew, so blocks are asked for in order.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        """Reads the header.

        Raises:
          ValueError: it holds objects, is no array, or has another size than its header says.
        """
        self._file = archive.open(name)
        major, _ = np.lib.format.read_magic(self._file)
        readers = {
            1: np.lib.format.read_array_header_1_0,
            2: np.lib.format.read_array_header_2_0,
        }
        if major not in readers:
            raise ValueError(f"{name} is of the unknown version {major}")
        self.shape, self._fortran, self.dtype = readers[major](self._file)
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        self._start = self._file.tell()
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._whole: Array | None = None
        promised = self._start + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.float64))
        if promised != archive.getinfo(name).file_size:
            raise ValueError(f"{name} has another size than its header says")

    @property
    def resident(self) -> int:
        """Bytes that have to be in memory at once: all of a column that lies by columns."""
        return self._row * len(self) if self._fortran else 0

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Rows [start, stop), without a step."""
        if self._fortran and self._whole is None:
            self._file.seek(self._start)
            flat = np.frombuffer(self._file.read(self._row * len(self)), self.dtype)
            self._whole = flat.reshape(self.shape[::-1]).T
        if self._whole is not None:
            return self._whole[rows]
        start, stop, _ = rows.indices(len(self))
        self._file.seek(self._start + self._row * start)
        part = self._file.read(self._row * (stop - start))
        if len(part) < self._row * (stop - start):
            raise ValueError("it ends too early")
        return np.frombuffer(part, self.dtype).reshape(stop - start, *self.shape[1:])


def count(path: pathlib.Path) -> int:
    """Rows of an archive's actions, by their header.

    Raises:
      ValueError, OSError, zipfile.BadZipFile: it is damaged; KeyError: it has none.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        return len(_Member(archive, members[synonyms.found_in(members)["actions"]]))


def read(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads an archive of D4RL's columns, or of others' names for them; no pickled objects.

    Raises:
      UserError: the archive is damaged, holds objects, or would not fit on the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            synonyms.tell(members, str(path))
            member_of = synonyms.found_in(members)
            arrays = {name: _Member(archive, members[key]) for name, key in member_of.items()}
            check_size(sum(column.resident for column in arrays.values()), str(path))
            return columns.from_columns(arrays, str(path), state_dim)
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged archive
        raise UserError(columns.unreadable(path, "npz archive", error)) from None
