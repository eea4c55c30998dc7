"""Columns on disk are the columns in memory, and everything that is made of them is the same."""

import dataclasses
import pathlib
import tempfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf.models import rows
from offline_tf.datasets import velocities
from offline_tf.datasets.formats import columns, d4rl
from offline_tf.datasets.quality import checks, column_checks
from offline_tf.datasets.simulated import generated
from offline_tf.models import minibatches
from offline_tf.numerics import large_columns, standardize
from offline_tf.types import UserError

ROWS = 150_000  # more than two blocks


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Every column of more than a few bytes goes to this folder."""
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
    monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def written(parts):
    writer = large_columns.ColumnWriter()
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


@pytest.mark.parametrize("size", [10, 1000])
def test_a_full_disk_ends_in_one_line(on_disk, monkeypatch, size):
    with pathlib.Path("/dev/full").open("r+b", 0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full)
        with pytest.raises(UserError, match="No space left on device.*OFFLINE_TF_SCRATCH"):
            written([np.zeros(size)] * 3)


def test_an_unusable_scratch_folder_is_named(on_disk, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path / "file"))
    path = tmp_path / "data.hdf5"
    d4rl.write(path, toys.transitions())
    with pytest.raises(UserError, match="OFFLINE_TF_SCRATCH: expected a folder"):
        d4rl.read(path)


def test_more_than_half_of_the_free_disk_is_refused_unwritten(on_disk, monkeypatch, tmp_path):
    path = tmp_path / "data.hdf5"
    d4rl.write(path, toys.transitions())
    monkeypatch.setattr(columns, "scratch_bytes", lambda: 1000)
    monkeypatch.setattr(large_columns.ColumnWriter, "append", lambda *_: pytest.fail("written"))
    with pytest.raises(UserError, match="would take .* set OFFLINE_TF_SCRATCH"):
        d4rl.read(path)
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "1")
    with pytest.raises(pytest.fail.Exception):
        d4rl.read(path)


@pytest.mark.parametrize("recorded", [True, False])
def test_nothing_changes_where_blocks_end(on_disk, monkeypatch, tmp_path, recorded):
    """Readers, restored velocities and MOPP's columns, in blocks of 7 rows and in one."""
    task, data = toys.cart(limit=0.4), toys.transitions((9, 1, 20, 13), limit=0.4)
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            values = getattr(data, name)
            chunks = (5, *values.shape[1:]) if name == "actions" else None
            file.create_dataset(name, data=values, chunks=chunks)
        file["infos/qvel"] = data.qvel
        if recorded:
            file["next_observations"] = data.next_observations

    def made():
        found = d4rl.read(path)
        table = rows.prepare(task, found, rows.RewardScale(0.0, 1.0))
        return [
            *vars(found).values(),
            *velocities.restore(task, found),
            *table,
            *velocities.restore(task, found, use_recorded=False),
            checks.stretches(found).observations,
            *column_checks.duplicates(found, task),
        ]

    whole = made()
    monkeypatch.setattr(large_columns, "_ROWS", 7)
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 28)
    for a, b in zip(whole, made(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_a_bad_limit_is_named(given, monkeypatch):
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", given)
    with pytest.raises(UserError, match="OFFLINE_TF_COLUMN_MB: expected a positive number"):
        large_columns.largest_resident()


@pytest.mark.parametrize("mapped", [False, True])
def test_derive_is_the_function_of_the_whole(mapped, request):
    if mapped:
        request.getfixturevalue("on_disk")
    one, two = np.arange(ROWS), np.arange(2.0 * ROWS).reshape(ROWS, 2)
    found = large_columns.derive(lambda a, b: b + a[:, None], one, two)
    np.testing.assert_array_equal(found, two + one[:, None])
    assert isinstance(found, np.memmap) is mapped
    assert large_columns.derive(lambda a: a > 1, np.empty(0)).shape == (0,)


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
    held = minibatches.Feed(gather, rows)
    monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
    gathered = minibatches.Feed(gather, rows)
    assert asked == [1, 40, 1]
    for feed in (held, gathered):
        (first, second), positions = feed(chunk)
        np.testing.assert_array_equal(tf.gather(first, positions), table[rows[chunk]])
        np.testing.assert_array_equal(tf.gather(second, positions), 2.0 * table[rows[chunk], 0])
    assert asked[3:] == [len(np.unique(chunk))]
    monkeypatch.setattr(
        minibatches.compilation, "compiler", lambda: "xla"
    )  # compiles for each shape
    (first, _), positions = gathered(chunk)
    assert len(first) == chunk.size
    np.testing.assert_array_equal(tf.gather(first, positions), table[rows[chunk]])


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
    monkeypatch.setattr(checks, "_LARGE", 1600)
    task, data = toys.cart(), toys.transitions((10,) * 300)
    part = checks.stretches(data)
    # Twenty stretches of 40 rows, with three or four whole episodes in each.
    assert 600 <= len(part) <= 800
    assert set(np.diff(part.episode_bounds(), axis=1)[:, 0]) == {10}
    np.testing.assert_array_equal(part.timeouts.sum() + part.terminals.sum(), len(part) / 10)
    for start, end in part.episode_bounds():
        inside = slice(start, end - 1)
        following = part.observations[start + 1 : end]
        np.testing.assert_array_equal(part.next_observations[inside], following)
    long = checks.stretches(toys.transitions((3000,)))
    assert len(long) == 800 and set(np.diff(long.episode_bounds(), axis=1)[:, 0]) == {40}
    assert "partly_checked" in [finding.code for finding in checks.cheap(data, task)]
    # Faults that are seen in all episodes' ends, and rows far apart.
    wrong = data.next_observations.copy()
    ends = data.episode_bounds()[:, 1] - 1
    wrong[ends[:-1]] = data.observations[ends[:-1] + 1]
    data.terminals[:], data.timeouts[ends] = False, True
    found = checks.cheap(dataclasses.replace(data, next_observations=wrong), task)
    assert "next_of_other_episode" in [finding.code for finding in found]
    twice = generated.joined(data, data)
    assert "duplicates" in [finding.code for finding in checks.thorough(twice, task)]
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
