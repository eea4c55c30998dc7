"""Columns on disk are the columns in memory, and everything that is made of them is the same."""

import tempfile

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf import blocks, fitting, standardize
from offline_tf.datasets import checks, d4rl, velocities
from offline_tf.types import UserError

ROWS = 150_000  # more than two blocks


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Every column of more than a few bytes goes to this folder."""
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
    monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def written(parts):
    writer = blocks.ColumnWriter()
    for part in parts:
        writer.append(part)
    return writer.finish()


def test_a_column_on_disk_is_the_column_in_memory_and_leaves_no_file(on_disk, monkeypatch):
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(n, 3)).astype(np.float32) for n in (5, 0, 70, 1)]
    mapped = written(parts)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    assert on_disk.is_dir() and not list(on_disk.iterdir())
    monkeypatch.delenv("OFFLINE_TF_COLUMN_MB")
    resident = written(parts)
    assert not isinstance(resident, np.memmap)
    for column in (mapped, resident):
        assert column.dtype == np.float32
        np.testing.assert_array_equal(column, np.concatenate(parts))


def test_a_column_takes_the_dtype_and_width_of_its_first_rows(on_disk):
    found = written([np.zeros((2, 1), bool), np.ones((99, 1), np.int64)])
    assert found.dtype == bool and found.sum() == 99
    with pytest.raises(ValueError, match="expected rows of"):
        written([np.zeros((2, 1)), np.zeros((2, 2))])
    assert written([np.zeros((0, 4), np.float32)]).shape == (0, 4)


def test_a_full_disk_ends_in_one_line(on_disk, monkeypatch):
    def full(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match="No space left on device.*OFFLINE_TF_SCRATCH"):
        written([np.zeros(1000)])


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan"])
def test_a_bad_limit_is_named(given, monkeypatch):
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", given)
    with pytest.raises(UserError, match="OFFLINE_TF_COLUMN_MB: expected a positive number"):
        blocks.largest_resident()


@pytest.mark.parametrize("mapped", [False, True])
def test_derive_is_the_function_of_the_whole(mapped, request):
    if mapped:
        request.getfixturevalue("on_disk")
    one, two = np.arange(ROWS), np.arange(2.0 * ROWS).reshape(ROWS, 2)
    found = blocks.derive(lambda a, b: b + a[:, None], one, two)
    np.testing.assert_array_equal(found, two + one[:, None])
    assert isinstance(found, np.memmap) is mapped
    assert blocks.derive(lambda a: a > 1, np.empty(0)).shape == (0,)


def test_statistics_by_blocks_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(3.0, 2.0, (ROWS, 2)).astype(np.float32)
    exact = values.astype(np.float64)
    found = standardize.statistics_of(lambda rows: values[rows], ROWS)
    np.testing.assert_allclose(found.shift, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale, exact.std(axis=0), rtol=1e-6)
    found = standardize.statistics(values, "mad")
    mad = np.abs(exact - exact.mean(axis=0)).mean(axis=0)
    np.testing.assert_allclose(found.scale, mad, rtol=1e-6)


def test_a_feed_gives_the_same_minibatches_held_or_gathered(monkeypatch):
    generator = np.random.default_rng(0)
    table = generator.normal(size=(50, 3)).astype(np.float32)
    asked = []

    def gather(rows):
        asked.append(len(rows))
        return table[rows], tf.constant(2.0 * table[rows, 0])

    rows = generator.permutation(50)[:40]
    chunk = generator.integers(40, size=(4, 2, 6)).astype(np.int32)
    held = fitting.Feed(gather, rows)
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
    gathered = fitting.Feed(gather, rows)
    assert asked == [1, 40, 1]
    for feed in (held, gathered):
        (first, second), positions = feed(chunk)
        np.testing.assert_array_equal(tf.gather(first, positions), table[rows[chunk]])
        np.testing.assert_array_equal(tf.gather(second, positions), 2.0 * table[rows[chunk], 0])
    assert asked[3:] == [len(np.unique(chunk))]


def test_restored_velocities_are_the_same_from_disk(on_disk, monkeypatch):
    task = toys.cart(limit=0.4)
    data = toys.transitions((20,) * 6, limit=0.4)
    for recorded in (True, False):
        monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
        mapped = velocities.restore(task, data, recorded)
        monkeypatch.delenv("OFFLINE_TF_COLUMN_MB")
        for a, b in zip(mapped, velocities.restore(task, data, recorded), strict=True):
            assert isinstance(a, np.memmap) and not isinstance(b, np.memmap)
            np.testing.assert_array_equal(a, b)


def test_large_data_are_checked_in_stretches_and_for_nan_everywhere(monkeypatch):
    monkeypatch.setattr(checks, "_LARGE", 400)
    task, data = toys.cart(), toys.transitions((20,) * 60)
    part = checks.stretches(data)
    assert len(part) == 200 and len(part.episode_bounds()) >= 20
    for start, end in part.episode_bounds():
        inside = slice(start, end - 1)
        following = part.observations[start + 1 : end]
        np.testing.assert_array_equal(part.next_observations[inside], following)
    assert "partly_checked" in [finding.code for finding in checks.cheap(data, task)]
    data.rewards[777] = np.nan
    assert [finding.code for finding in checks.cheap(data, task)] == ["not_finite/rewards"]


def test_a_file_read_to_disk_has_the_same_content(on_disk, monkeypatch, tmp_path):
    path = tmp_path / "data.hdf5"
    d4rl.write(path, toys.transitions())
    mapped = d4rl.read(path)
    monkeypatch.delenv("OFFLINE_TF_COLUMN_MB")
    assert isinstance(mapped.observations, np.memmap) and isinstance(mapped.qvel, np.memmap)
    assert d4rl.content_hash(mapped) == d4rl.content_hash(d4rl.read(path))
    again = tmp_path / "again.hdf5"
    d4rl.write(again, mapped)
    assert d4rl.content_hash(d4rl.read(again)) == d4rl.content_hash(mapped)
