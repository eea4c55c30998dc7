"""How commands end on an error: one line, and for a fault of ours a file to report."""

import errno
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from flags import endings
from offline_tf.types import UserError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("--beta: expected a number"), "--beta: expected a number"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/d/x"),
            "/d/x: No space left on device; ",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/d"), "/d: Read-only file system; "),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; "),
        # As h5py 3.16 and TensorFlow 2.21 word them.
        (
            OSError(
                "Can't write data (file write failed: error message = 'No space left on device')"
            ),
            "No space left on device; ",
        ),
        (
            tf.errors.ResourceExhaustedError(
                None,
                None,
                "{{node x}} /run/checkpoints/a/ckpt-1; No space left on device [Op:SaveV2]",
            ),
            "/run/checkpoints/a/ckpt-1: No space left on device; ",
        ),
        (MemoryError(), "not enough memory; "),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "OOM when allocating tensor with shape[9]"
            ),
            "not enough memory; ",
        ),
    ],
)
@pytest.mark.parametrize("resumable", [False, True])
def test_what_is_no_fault_of_the_program_is_told_in_one_line(error, says, resumable):
    line = endings.in_one_line(error, resumable)
    assert line.startswith(says) and "\n" not in line
    if not isinstance(error, UserError):
        assert ("the same command goes on from there" in line) is resumable


def test_an_array_that_does_not_fit_is_a_matter_of_memory():
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 60, np.uint8)
    assert endings.in_one_line(raised.value).startswith("not enough memory")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/gone"),
        tf.errors.InvalidArgumentError(None, None, "shapes do not fit"),
        ValueError("No space left on device, said a user's text"),
    ],
)
def test_a_fault_of_the_program_leaves_a_file_to_report(error, monkeypatch, tmp_path):
    assert endings.in_one_line(error) is None
    monkeypatch.setattr(endings.tempfile, "tempdir", str(tmp_path))
    try:
        raise error
    except Exception as raised:
        line = endings.unforeseen(raised)
    assert line.startswith(f"{type(error).__name__}: ") and "\n" not in line
    report = pathlib.Path(re.search(r"report it with (\S+)$", line)[1]).read_text()
    assert (
        "Traceback (most recent call last)" in report
        and f"raise error\n{type(error)}"[:11] in report
    )
    assert report.startswith("command: python") and "tensorflow: 2." in report


def test_a_fault_is_told_where_no_file_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(endings.tempfile, "tempdir", str(tmp_path / "gone"))
    assert endings.unforeseen(KeyError("x")).endswith("please report it with what --debug shows")
