"""Every format loads to the same transitions; nothing in a file is run; bad files end in one line."""

import contextlib
import csv
import dataclasses
import http.server
import io
import itertools
import os
import pathlib
import pickle
import threading
import zipfile

import h5py
import hypothesis
import numpy as np
import pytest
import toys
from hypothesis import strategies as st

from offline_tf import tasks
from offline_tf.datasets import convert, sources
from offline_tf.datasets.formats import (
    columns,
    d4rl,
    d4rl_download,
    episodes,
    minari,
    pickled_episodes,
    rlds,
)
from offline_tf.datasets.names import Reading
from offline_tf.numerics import size_limits
from offline_tf.types import UserError

TASK = toys.cart()


def fuzz(examples):
    """The same examples on every machine, so that a failure is a change's and not chance's."""
    return hypothesis.settings(
        max_examples=examples, derandomize=True, database=None, deadline=None
    )


def logged(seed=0, lengths=None):
    """Episodes as a recorder sees them: T + 1 observations, T actions and rewards, how it ended."""
    generator = np.random.default_rng(seed)
    if lengths is None:
        lengths = generator.integers(1, 7, size=generator.integers(1, 7))
    return [
        {
            "observations": generator.normal(size=(length + 1, 2)).astype(np.float32),
            "actions": generator.uniform(-1, 1, size=(length, 1)).astype(np.float32),
            "rewards": generator.normal(size=length).astype(np.float32),
            "terminated": bool(generator.integers(2)),
        }
        for length in lengths
    ]


def expected(recorded):
    """The transitions, by a loop over single steps."""
    rows = {name: [] for name in ("observations", "actions", "rewards", "next_observations")}
    flags = []
    for one in recorded:
        last = len(one["rewards"]) - 1
        for t in range(last + 1):
            rows["observations"].append(one["observations"][t])
            rows["next_observations"].append(one["observations"][t + 1])
            rows["actions"].append(one["actions"][t])
            rows["rewards"].append(one["rewards"][t])
            flags.append((t == last and one["terminated"], t == last and not one["terminated"]))
    flags = np.array(flags)
    found = {name: np.array(values, np.float32) for name, values in rows.items()}
    return found | {"terminals": flags[:, 0], "timeouts": flags[:, 1]}


def assert_transitions(data, wanted):
    for name, values in wanted.items():
        np.testing.assert_array_equal(getattr(data, name), values, name)
        assert getattr(data, name).dtype == values.dtype, name


def write_d4rl(folder, recorded):
    path = folder / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in expected(recorded).items():
            # (N, 1) and float64, as in some of D4RL's files.
            one = name in ("rewards", "terminals")
            file[name] = values[:, None].astype(np.float64) if one else values
    return path


def write_minari(folder, recorded):
    path = folder / "plant" / "data" / "main_data.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for number, one in enumerate(recorded):
            group = file.create_group(f"episode_{number}")
            ends = np.zeros(len(one["rewards"]), bool)
            ends[-1] = True
            group["observations"] = one["observations"].astype(np.float64)
            group["actions"] = one["actions"]
            group["rewards"] = one["rewards"].astype(np.float64)
            group["terminations"] = ends & one["terminated"]
            group["truncations"] = ends & (not one["terminated"])
            group.create_group("infos")
    return path.parent.parent


def write_mjrl(folder, recorded):
    path = folder / "paths.pickle"
    made = [
        {
            "observations": one["observations"][:-1],
            "next_observations": one["observations"][1:],
            "actions": one["actions"],
            "rewards": one["rewards"],
            "terminated": one["terminated"],
        }
        for one in recorded
    ]
    path.write_bytes(pickle.dumps(made, protocol=2))
    return path


def write_cs285(folder, recorded):
    path = folder / "expert.pkl"
    made = []
    for one in recorded:
        terminal = np.zeros(len(one["rewards"]), np.int64)
        terminal[-1] = one["terminated"]
        made.append(
            {
                "observation": one["observations"][:-1].astype(np.float64),
                "next_observation": one["observations"][1:].astype(np.float64),
                "action": one["actions"],
                "reward": one["rewards"],
                "image_obs": [],
                "terminal": terminal,
            }
        )
    path.write_bytes(pickle.dumps(made))
    return path


def write_npz(folder, recorded):
    path = folder / "data.npz"
    np.savez_compressed(path, **expected(recorded))
    return path


def write_csv(folder, recorded):
    path = folder / "log.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["time", "force", "v", "x", "next_x", "next_v", "reward", "episode", "terminal"]
        )
        for number, one in enumerate(recorded):
            for t in range(len(one["rewards"])):
                x, v = (repr(float(value)) for value in one["observations"][t])
                x_next, v_next = (repr(float(value)) for value in one["observations"][t + 1])
                force, reward = repr(float(one["actions"][t, 0])), repr(float(one["rewards"][t]))
                ended = int(one["terminated"] and t == len(one["rewards"]) - 1)
                rows.writerow([t, force, v, x, x_next, v_next, reward, f"run {number}", ended])
    return path


WRITERS = [write_d4rl, write_minari, write_mjrl, write_cs285, write_npz, write_csv]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_every_format_loads_to_the_same_transitions(write, on_disk, tmp_path, monkeypatch):
    number = itertools.count()
    if on_disk:
        monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.000001")
        monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path))

    @fuzz(15)
    @hypothesis.given(ends=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=6))
    def load(ends):
        ends = [*ends, (3, True)]  # without any end a file cannot tell its episodes apart
        recorded = logged(len(ends), [length for length, _ in ends])
        for one, (_, terminated) in zip(recorded, ends, strict=True):
            one["terminated"] = terminated
        folder = tmp_path / str(next(number))
        folder.mkdir()
        found, _ = sources.load(str(write(folder, recorded)), TASK)
        assert_transitions(found, expected(recorded))
        assert isinstance(found.observations, np.memmap) is on_disk

    load()


def rlds_episodes(recorded, last=None):
    """Steps of RLDS: the last one holds the last observation and numbers that mean nothing."""
    for one in recorded:
        count = len(one["observations"])
        yield {
            "steps": [
                {
                    "observation": one["observations"][t]
                    if t < count - 1 or last is None
                    else last,
                    "action": one["actions"][t] if t < count - 1 else np.full(1, 9.0, np.float32),
                    "reward": one["rewards"][t] if t < count - 1 else 9.0,
                    "is_last": t == count - 1,
                    "is_terminal": t == count - 1 and one["terminated"],
                }
                for t in range(count)
            ]
        }


def test_rlds_steps_become_the_same_transitions():
    for seed in range(20):
        recorded = logged(seed)
        data = rlds.from_episodes(rlds_episodes(recorded), "toy", False, 2)
        assert_transitions(data, expected(recorded))


def test_what_is_no_rlds_is_named():
    with pytest.raises(UserError, match="expected RLDS: .* got none called 'steps'"):
        rlds.from_episodes([{"image": 0}], "mnist", False, 2)
    (first, *_) = rlds_episodes(logged(0))
    bare = [{"steps": [{"observation": s["observation"]} for s in first["steps"]]}]
    with pytest.raises(UserError, match="expected RLDS: .* got none called 'action'"):
        rlds.from_episodes(bare, "toy", False, 2)


@pytest.mark.slow
def test_rlds_written_by_tensorflow_datasets_is_read_through_it(tmp_path):
    """Needs requirements-formats.txt."""
    tfds = pytest.importorskip("tensorflow_datasets")
    recorded = logged(5)
    step = {
        "observation": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "action": tfds.features.Tensor(shape=(1,), dtype=np.float32),
        "reward": np.float32,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
    }

    class Plant(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # nothing is downloaded

        def _info(self):
            features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(rlds_episodes(recorded))

    Plant(data_dir=tmp_path).download_and_prepare()
    # The builder's module is not known to the reader, as with a user's data set.
    tfds.core.add_data_dir(tmp_path)
    found, name = sources.load("tfds:plant", TASK)
    assert name == "plant"
    # tensorflow-datasets shuffles episodes.
    order = [
        int(np.flatnonzero((found.observations == o["observations"][0]).all(1))[0])
        for o in recorded
    ]
    assert_transitions(found, expected([recorded[i] for i in np.argsort(order)]))


def without_last_observations(recorded):
    """What the episodes teach without them: terminal steps lead nowhere known, cut ones are dropped."""
    known = []
    for one in recorded:
        if one["terminated"]:
            after = np.full((1, 2), np.nan, np.float32)
            observations = np.concatenate([one["observations"][:-1], after])
            known.append(one | {"observations": observations})
        elif len(one["rewards"]) > 1:
            columns = ("observations", "actions", "rewards")
            known.append(one | {name: one[name][:-1] for name in columns})
    return known


def test_rlds_with_a_wrong_last_observation_does_not_use_it():
    recorded = logged(3, (4, 1, 3, 2, 1, 5))
    assert len({one["terminated"] for one in recorded}) == 2
    data = rlds.from_episodes(rlds_episodes(recorded, np.full(2, 99.0)), "d4rl", True, 2)
    assert not (data.next_observations == 99.0).any()
    assert_transitions(data, expected(without_last_observations(recorded)))


@pytest.mark.parametrize("seed", range(10))
def test_without_next_observations_nothing_crosses_an_end(seed, tmp_path):
    recorded = logged(seed, None)
    path = tmp_path / "short.pkl"
    short = [one | {"observations": one["observations"][:-1]} for one in recorded]
    path.write_bytes(pickle.dumps(short))
    known = without_last_observations(recorded)
    if not any(len(one["rewards"]) > 1 for one in recorded):
        with pytest.raises(UserError, match="episodes with steps|no episode of two rows"):
            pickled_episodes.read(path, 2)
        return
    assert_transitions(pickled_episodes.read(path, 2), expected(known))


@pytest.mark.parametrize("form", ["d4rl", "minari"])
@pytest.mark.usefixtures("registered")
def test_converted_files_keep_what_is_not_known(form, tmp_path):
    recorded = logged(3, (4, 1, 3, 2, 1, 5))
    source, output = tmp_path / "short.pkl", tmp_path / "out.hdf5"
    short = [one | {"observations": one["observations"][:-1]} for one in recorded]
    source.write_bytes(pickle.dumps(short))
    convert.main(
        convert.ConvertConfig(dataset=str(source), output=str(output), form=form, env=TASK.name)
    )
    data, _ = sources.load(str(output), TASK)
    assert_transitions(data, expected(without_last_observations(recorded)))


@pytest.mark.parametrize("cell", ["nan", None])
def test_a_table_may_lack_what_followed_a_terminal_row(cell, tmp_path):
    path = tmp_path / "log.csv"
    rows = [("a", 0, 0), ("a", 1, 0), ("a", 2, 1), ("b", 0, 0), ("b", 1, 0)]
    lines = ["episode,x,v,force,reward,terminal" + (",next_x,next_v" if cell else "")]
    for episode, x, terminal in rows:
        after = f",{cell if terminal else x + 1},{cell if terminal else 0}" if cell else ""
        lines.append(f"{episode},{x},0,0.5,{10 * x},{terminal}{after}")
    path.write_text("\n".join(lines))
    data, _ = sources.load(str(path), TASK)
    kept = 5 if cell else 4  # without the columns, episode b's last row is a cut
    np.testing.assert_array_equal(data.next_known, [True, True, False, True, True][:kept])
    np.testing.assert_array_equal(data.terminals, [False, False, True, False, False][:kept])
    assert data.episode_returns()[0] == 30.0


def test_columns_without_a_next_row_are_named(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(
        path,
        observations=np.zeros((3, 2)),
        actions=np.zeros((3, 1)),
        rewards=np.zeros(3),
        terminals=np.ones(3, bool),
    )
    with pytest.raises(UserError, match="has no next_observations, and no episode of two rows"):
        sources.load(str(path), TASK)


def test_a_dict_of_unequal_episodes_is_named(tmp_path):
    path = tmp_path / "dict.pkl"
    recorded = logged(0, (3, 5))
    keys = ("observations", "actions", "rewards")
    path.write_bytes(pickle.dumps({key: [one[key] for one in recorded] for key in keys}))
    with pytest.raises(UserError, match="got lists of unequal lengths; give a list of episodes"):
        pickled_episodes.read(path, 2)


def test_a_file_of_another_process_is_left_until_it_is_old(tmp_path):
    """Two processes may make the same data; what a killed one left is cleared away."""
    data = toys.transitions((4, 3))
    other, old = (tmp_path / f"x.hdf5.{number}.partial" for number in (1, 2))
    for path in (other, old):
        path.write_bytes(b"unfinished")
    os.utime(old, (0, 0))
    d4rl.write(tmp_path / "x.hdf5", data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.hdf5", other.name]
    assert other.read_bytes() == b"unfinished"


def test_a_done_at_the_time_limit_is_no_terminal_state():
    lengths = (TASK.max_episode_steps, 7, TASK.max_episode_steps)
    recorded = [one | {"terminated": True} for one in logged(0, lengths)]
    recorded[2]["observations"][-1, 0] = 11.0  # beyond the cart's bound: truly terminal
    data = episodes.separate_time_limits(episodes.join(recorded, "toy", 2), TASK)
    ends = data.episode_bounds()[:, 1] - 1
    np.testing.assert_array_equal(data.terminals[ends], [False, True, True])
    np.testing.assert_array_equal(data.timeouts[ends], [True, False, False])


def test_a_done_at_the_time_limit_that_leads_nowhere_known_is_a_cut():
    """Whether it is a fall cannot be told; the limit is the likelier reason."""
    limit = TASK.max_episode_steps
    recorded = [one | {"terminated": True} for one in logged(0, (limit, 7, limit))]
    short = [one | {"observations": one["observations"][:-1]} for one in recorded]
    data = episodes.separate_time_limits(episodes.join(short, "toy", 2), TASK)
    np.testing.assert_array_equal(np.diff(data.episode_bounds())[:, 0], [limit - 1, 7, limit - 1])
    ends = data.episode_bounds()[:, 1] - 1
    np.testing.assert_array_equal(data.terminals[ends], [False, True, False])
    np.testing.assert_array_equal(data.timeouts[ends], [True, False, True])
    np.testing.assert_array_equal(data.next_known, np.arange(len(data)) != ends[1])


def test_lists_of_python_numbers_and_scalars_load():
    one = {"observations": [[1, 2], [3, 4]], "actions": [[0.5], [0.25]], "rewards": [1, 2]}
    data = episodes.join([one | {"next_observations": [[3, 4], [5, 6]], "terminated": 1}], "toy", 2)
    np.testing.assert_array_equal(data.next_observations, [[3, 4], [5, 6]])
    np.testing.assert_array_equal(data.terminals, [False, True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "episode 0 lacks 'rewards'"),
        ({"actions": np.zeros((2, 1))}, "expected 3 rows in actions as in rewards, got 2"),
        (
            {"observations": np.zeros((6, 2))},
            "expected 3 or 4 rows in observations for 3 rewards, got 6",
        ),
        ({"terminated": np.array([1, 0, 1])}, "goes on after its end at step 0"),
        ({"terminated": np.zeros(2)}, "expected 1 or 3 values in terminals, got 2"),
        ({"rewards": ["a", "b", "c"]}, "expected an array of numbers in 'rewards'"),
        ({"observations": np.zeros((4, 3))}, "observations of width 3, this task has 2"),
    ],
)
def test_a_bad_episode_is_named(change, message):
    one = logged(0, (3,))[0] | change
    given = {k: v for k, v in one.items() if v is not None}
    with pytest.raises(UserError, match=message):
        episodes.join([given], "file", 2)


class Evil:
    """Runs a command when it is unpickled, where that is allowed."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_not_run(tmp_path):
    marker, path = tmp_path / "was_here", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([{"observations": Evil(marker)}]))
    with pytest.raises(UserError, match=r"it refers to posix\.system; only numpy arrays are read"):
        pickled_episodes.read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "payload",
    [
        # numpy's own names, called with what no array pickle says.
        b"cnumpy\nndarray\n((I1000000000000\ntR.",
        b"cnumpy\ndtype\n(S'V999999999999'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(S'O'\nS'x'\ntR.",
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
        b"Pmodule\n.",
        b"",
        b"\x80\x05\x95",
        b"I1\n.",
        b"]q\x00(K\x01K\x02e.",
    ],
)
def test_hostile_pickles_end_in_one_line(payload, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(payload)
    with pytest.raises(UserError) as caught:
        pickled_episodes.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_all_kinds_survive_the_restricted_reader(protocol, tmp_path):
    generator = np.random.default_rng(0)
    arrays = {
        "f4": generator.normal(size=(3, 2)).astype(np.float32),
        "f8": generator.normal(size=5),
        "fortran": np.asfortranarray(generator.normal(size=(2, 3))),
        "big_endian": generator.normal(size=4).astype(">f8"),
        "i8": np.arange(4),
        "bool": np.array([True, False]),
        "scalar": np.float32(1.5),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = pickled_episodes.unpickle(path)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values, name)


def test_one_array_under_many_entries_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(size_limits, "largest_bytes", lambda: 1 << 20)
    monkeypatch.setattr(columns, "scratch_bytes", lambda: 1 << 20)
    one = logged(0, (100,))[0]
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps([one] * 10_000))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UserError, match="would take"):
        pickled_episodes.read(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(size_limits, "largest_bytes", lambda: 1 << 20)
    monkeypatch.setattr(columns, "scratch_bytes", lambda: 1 << 20)
    path = tmp_path / "bomb.npz"
    flags = {name: np.zeros(1 << 20, bool) for name in ("terminals", "timeouts")}
    values = {"observations": np.zeros((1 << 20, 2), np.float32), "rewards": np.zeros(1 << 20)}
    np.savez_compressed(path, actions=np.zeros((1 << 20, 1)), **values, **flags)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(UserError, match="would take"):
        sources.load(str(path), TASK)


def test_objects_in_an_npz_archive_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, observations=np.array([Evil(tmp_path / "was_here")], object))
    with pytest.raises(UserError, match="no readable npz archive"):
        sources.load(str(path), TASK)
    assert not (tmp_path / "was_here").exists()


def test_an_archive_that_lies_about_its_sizes_ends_in_one_line(tmp_path):
    path = tmp_path / "lies.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("observations.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(UserError, match="no readable npz archive"):
        sources.load(str(path), TASK)


def test_a_column_in_another_file_is_refused(tmp_path):
    other = tmp_path / "secret.hdf5"
    with h5py.File(other, "w") as file:
        file["observations"] = np.zeros((3, 2))
    path = write_d4rl(tmp_path, logged())
    with h5py.File(path, "a") as file:
        del file["observations"]
        file["observations"] = h5py.ExternalLink(str(other), "observations")
    with pytest.raises(UserError, match="observations lies in another file; refused"):
        sources.load(str(path), TASK)


@pytest.mark.parametrize(("rows", "wide"), [(1 << 40, 0), (1000, 40)])
def test_a_huge_column_is_refused_unread(tmp_path, rows, wide):
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        # Announced, not stored: chunks that were never written take no space.
        for name, width in (("observations", 2), ("actions", 1)):
            file.create_dataset(name, shape=(rows, width << wide), chunks=(1000, 1), dtype="f4")
        for name in ("rewards", "terminals", "timeouts"):
            file.create_dataset(name, shape=(rows,), chunks=(1000,), dtype="i1")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="would take|has observations of width"):
        sources.load(str(path), TASK)


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_and_corrupted_files_end_in_one_line(write, tmp_path):
    """A fuzz of each reader: cut anywhere, or with bytes overwritten, it loads or says why not."""
    made = write(tmp_path, logged(1))
    path = next(made.rglob("*.hdf5")) if made.is_dir() else made
    whole = path.read_bytes()
    places = st.integers(0, len(whole) - 1)

    @fuzz(150)
    @hypothesis.given(
        cut=st.none() | places,
        written=st.lists(st.tuples(places, st.binary(min_size=1, max_size=8)), max_size=8),
    )
    def load(cut, written):
        changed = bytearray(whole)
        for at, values in written:
            changed[at : at + len(values)] = values
        path.write_bytes(bytes(changed[:cut]))
        try:
            sources.load(str(made), TASK)
        except UserError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(("--dataset", "transitions"))

    load()


def test_dict_observations_of_minari_are_named(tmp_path):
    folder = write_minari(tmp_path, logged(0, (3,)))
    with h5py.File(next(folder.rglob("*.hdf5")), "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations/goal"] = np.zeros((4, 2))
    with pytest.raises(UserError, match=r"observations are a dict \(goal\)"):
        sources.load(str(folder), TASK)


def test_minari_ids_are_looked_up_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recorded = logged(0)
    write_minari(tmp_path, recorded).rename(tmp_path / "medium-v0")
    (tmp_path / "mujoco").mkdir()
    (tmp_path / "medium-v0").rename(tmp_path / "mujoco" / "medium-v0")
    data, name = sources.load("mujoco/medium-v0", TASK)
    assert name == "mujoco/medium-v0"
    assert_transitions(data, expected(recorded))
    with pytest.raises(
        UserError, match=r"python.* -m pip install -r .*requirements-formats.txt and try again"
    ):
        monkeypatch.setattr(minari.importlib.util, "find_spec", lambda name: None)
        sources.load("mujoco/x-v1", TASK)


def test_episodes_of_minari_come_in_the_order_of_their_numbers(tmp_path):
    recorded = logged(0, (2,) * 12)
    data, _ = sources.load(str(write_minari(tmp_path, recorded)), TASK)
    assert_transitions(data, expected(recorded))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,v\n1,2\n", "lacks the columns force of --env=cart, got x, v"),
        ("x,v,force\n1,2,3\n1,oops,3\n", "line 3: expected a number, got v='oops'"),
        ("x,v,force\n1,2\n", "line 2: expected a number, got force='nothing'"),
        ("x,v,force,timeout\n1,2,3,nan\n", "expected flags in 'timeouts', got NaN"),
        ("x,v,force\n", "expected rows under the header, found none"),
        ("x,v,force,v\n1,2,3,4\n", "has several columns called v; name each once"),
        ("", "got an empty file"),
    ],
)
def test_bad_tables_name_the_place(text, message, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        sources.load(str(path), TASK)


def test_a_table_says_where_episodes_end(tmp_path):
    path = tmp_path / "log.csv"
    rows = [(0, 0, 0), (1, 0, 1), (2, 0, 0), (3, 1, 0), (4, 0, 0)]
    lines = [f"{x},0,0.5,{x + 1},0,{terminal},{timeout}" for x, terminal, timeout in rows]
    path.write_text("x,v,force,next_x,next_v,terminal,timeout\n" + "\n".join(lines))
    data, _ = sources.load(str(path), toys.cart(bound=3.5))
    np.testing.assert_array_equal(data.timeouts, [False, True, False, False, True])
    np.testing.assert_array_equal(data.terminals, [False, False, False, True, False])


def test_a_table_without_flags_is_one_episode(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("x,v,force\n0,1,0.5\n1,2,0.5\n3,4,0.5\n")
    data, _ = sources.load(str(path), TASK)
    np.testing.assert_array_equal(data.observations, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(data.next_observations, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(data.timeouts, [False, True])


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("walker2d-medium-v2", "gym_mujoco_v2/walker2d_medium-v2.hdf5"),
        ("hopper-medium-replay-v2", "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"),
        ("hopper-medium-replay-v0", "gym_mujoco/hopper_mixed.hdf5"),
        ("walker2d-mixed-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("ant-full-replay-v1", "gym_mujoco_v1/ant_full_replay-v1.hdf5"),
    ],
)
def test_names_of_d4rl(name, remote):
    assert d4rl_download.is_name(name)
    assert d4rl_download.remote_path(name) == remote


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `body`; the first answer breaks off in the middle."""

    body = b""
    broken = 0
    ranges: list = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(self.body):
            self.send_error(416)
            return
        part = self.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if type(self).broken:
            type(self).broken -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    Server.ranges, Server.broken = [], 0
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    Server.body, Server.broken = os.urandom(100_000), 1
    path = tmp_path / "data" / "file.hdf5"
    with pytest.raises(OSError):
        d4rl_download.fetch(f"{server}/file.hdf5", path)
    assert not path.exists()
    d4rl_download.fetch(f"{server}/file.hdf5", path)
    assert path.read_bytes() == Server.body
    assert Server.ranges == [None, "bytes=50000-"]


def test_what_another_process_has_downloaded_is_left_alone(server, tmp_path, monkeypatch):
    Server.body, path = b"mine", tmp_path / "file.hdf5"

    @contextlib.contextmanager
    def waited_for(lock):
        assert lock == tmp_path / "file.hdf5.lock"
        path.write_bytes(b"theirs")  # while this process waited
        yield

    monkeypatch.setattr(d4rl_download.locks, "held", waited_for)
    d4rl_download.fetch(f"{server}/file.hdf5", path)
    assert path.read_bytes() == b"theirs" and Server.ranges == []


def test_a_name_of_d4rl_is_downloaded_once(server, tmp_path, monkeypatch):
    recorded = logged(0)
    Server.body = write_d4rl(tmp_path, recorded).read_bytes()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    # The first is no URL that http.client takes, and blanks do not count.
    monkeypatch.setenv("OFFLINE_TF_MIRRORS", f"http://127.0.0.1:80x , {server} ,")
    for _ in range(2):
        data, name = sources.load("hopper-medium-v2", TASK)
        assert_transitions(data, expected(recorded))
    assert name == "hopper-medium-v2"
    assert Server.ranges == [None]
    assert (tmp_path / "cache" / "hopper_medium-v2.hdf5").exists()


def test_without_a_network_the_error_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setattr(d4rl_download, "MIRRORS", ("http://127.0.0.1:9",))
    with pytest.raises(
        UserError, match=r"hopper_random-v1\.hdf5 and could not be downloaded.*put the"
    ):
        sources.load("hopper-random-v1", TASK)


def test_what_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "data.docx").write_text("x")
    for name, message in (
        (str(tmp_path / "data.docx"), "expected an HDF5 file with D4RL's keys, a Minari id"),
        (str(tmp_path / "none.hdf5"), "expected a file at"),
        ("medium", "a LeRobot folder, got 'medium'"),
        (str(tmp_path), "expected a folder of Minari"),
    ):
        with pytest.raises(UserError, match=message):
            sources.load(name, TASK)
    with pytest.raises(UserError, match="or one of random-ours, .*, got 'medium'"):
        sources.load_named(
            "medium", task=TASK, physics="v2", steps=10, seed=0, data_dir=str(tmp_path), threads=1
        )
    recorded = [one | {"actions": np.zeros((len(one["rewards"]), 2))} for one in logged()]
    with pytest.raises(UserError, match="actions of width 2, --env=cart has 1"):
        sources.load(str(write_mjrl(tmp_path, recorded)), TASK)


def test_what_d4rl_writes_is_what_it_reads(tmp_path):
    data = episodes.join(logged(5), "toy", 2)
    path = pathlib.Path(tmp_path, "again.hdf5")
    d4rl.write(path, data)
    again, _ = sources.load(str(path), TASK)
    for field in dataclasses.fields(data):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(data, field.name))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(tasks._registered, TASK.name, TASK)


@pytest.mark.parametrize("form", ["d4rl", "minari"])
@pytest.mark.usefixtures("registered")
def test_a_round_trip_keeps_every_bit(form, tmp_path):
    for seed in range(10):
        recorded = logged(seed)
        source = write_mjrl(tmp_path, recorded)
        first, second = tmp_path / f"{form}{seed}.hdf5", tmp_path / f"back{form}{seed}.hdf5"
        for given, output, kind in ((source, first, form), (first, second, "d4rl")):
            convert.main(
                convert.ConvertConfig(
                    dataset=str(given), output=str(output), form=kind, env=TASK.name
                )
            )
        data, _ = sources.load(str(second), TASK)
        assert_transitions(data, expected(recorded))


def test_minari_keeps_the_physical_state(tmp_path):
    data = episodes.join(logged(3), "toy", 2)
    generator = np.random.default_rng(0)
    qpos, qvel = (generator.normal(size=(len(data), 3)) for _ in range(2))
    minari.write(tmp_path / "log", dataclasses.replace(data, qpos=qpos, qvel=qvel), TASK, "a/b-v0")
    again, _ = sources.load(str(tmp_path / "log"), TASK)
    np.testing.assert_array_equal(again.qpos, qpos)
    np.testing.assert_array_equal(again.qvel, qvel)


def test_what_minari_cannot_hold_is_refused(tmp_path):
    data = episodes.join(logged(0, (3, 3)), "toy", 2)
    data.next_observations[1] += 1.0
    with pytest.raises(UserError, match=r"in 1 rows .* \(the first is row 1\)"):
        minari.write(tmp_path / "log", data, TASK, "a/b-v0")
    assert not (tmp_path / "log").exists()


@pytest.mark.usefixtures("registered")
def test_nothing_is_replaced(tmp_path):
    path = write_d4rl(tmp_path, logged())
    with pytest.raises(UserError, match="exists; it is not replaced"):
        convert.main(convert.ConvertConfig(dataset=str(path), output=str(path), env=TASK.name))


def test_observations_that_are_a_dict_are_joined_in_the_order_that_is_asked_for(tmp_path):
    wanted = expected(logged(0, (3, 4)))
    path = write_minari(tmp_path, logged(0, (3, 4)))
    with h5py.File(next(path.rglob("*.hdf5")), "a") as file:
        for group in file.values():
            whole = group["observations"][()]
            del group["observations"]
            group["observations/position"], group["observations/speed"] = whole[:, :1], whole[:, 1:]
    keys = Reading(observation_keys=("position", "speed"))
    assert_transitions(sources.load(str(path), TASK, keys)[0], wanted)
    data, _ = sources.load(str(path), TASK, Reading(observation_keys=("speed", "position")))
    np.testing.assert_array_equal(data.observations, wanted["observations"][:, ::-1])
    with pytest.raises(UserError, match="a dict without force .position, speed.; say which"):
        sources.load(str(path), TASK, Reading(observation_keys=("force",)))
