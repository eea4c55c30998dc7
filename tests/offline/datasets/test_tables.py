"""Tables as people keep them; each kind stands for one that somebody held."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from offline_tf.datasets import sources
from offline_tf.datasets.formats import dialects, table_rows, tables, timestamps
from offline_tf.datasets.names import Reading
from offline_tf.types import TaskSpec, UserError

PLANT = TaskSpec(
    name="plant",
    observation_names=("level", "temp"),
    action_names=("valve",),
    action_low=np.array([0.0], np.float32),
    action_high=np.array([1.0], np.float32),
    dt=1.0,
    max_episode_steps=60,
)
NAMES = ("episode", "level", "temp", "valve", "reward", "terminal")
# Three episodes of four rows; the second ends in a terminal state.
ROWS = [
    (
        number,
        round(0.1 * t + number, 3),
        round(20.5 - 0.25 * t, 3),
        round(0.125 * t, 3),
        round(-0.5 * t, 3),
        number == 1 and t == 3,
    )
    for number in range(3)
    for t in range(4)
]


def text(delimiter=",", decimal=".", header=NAMES, rows=ROWS, flags=str, end="\n"):
    def cell(value):
        if isinstance(value, bool):
            return flags(value)
        return str(value).replace(".", decimal)

    lines = [delimiter.join(header)] if header else []
    lines += [delimiter.join(cell(value) for value in row) for row in rows]
    return end.join(lines) + end


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def is_the_log(data):
    """Whether data are ROWS, without the last rows of the two cut episodes."""
    used = [row for i, row in enumerate(ROWS) if i not in (3, 11)]
    np.testing.assert_allclose(data.observations, [row[1:3] for row in used], rtol=1e-6)
    np.testing.assert_allclose(data.actions[:, 0], [row[3] for row in used], rtol=1e-6)
    np.testing.assert_allclose(data.rewards, [row[4] for row in used], rtol=1e-6)
    np.testing.assert_array_equal(data.terminals, [row[5] for row in used])
    np.testing.assert_array_equal(data.timeouts, np.isin(np.arange(10), (2, 9)))


WRITERS = {
    "numbers.csv": lambda path: write(path, text(flags=lambda flag: str(int(flag)))),
    "words.csv": lambda path: write(path, text()),
    "small_words.csv": lambda path: write(path, text(flags=lambda flag: str(flag).lower())),
    "semicolons.csv": lambda path: write(path, text(";", ",")),
    "semicolons_and_points.csv": lambda path: write(path, text(";")),
    "tabs.tsv": lambda path: write(path, text("\t", ",")),
    "bars.txt": lambda path: write(path, text("|")),
    "windows.csv": lambda path: write(path, text(end="\r\n"), "utf-8-sig"),
    "latin.csv": lambda path: write(
        path, text(";", ",", (*NAMES, "T [°C]"), [(*row, 1.5) for row in ROWS]), "cp1252"
    ),
    "excel.txt": lambda path: write(path, text("\t"), "utf-16"),
    "spaces.csv": lambda path: write(path, text(", ")),
    "blank_lines.csv": lambda path: write(path, text(end="\n\n")),
    "quoted.csv": lambda path: write(
        path, text().replace("level", '"level"').replace("20.5", '"20.5"')
    ),
    "gzip.csv.gz": lambda path: path.write_bytes(gzip.compress(text().encode())),
    "bzip2.csv.bz2": lambda path: path.write_bytes(bz2.compress(text(";", ",").encode())),
    "xz.csv.xz": lambda path: path.write_bytes(lzma.compress(text().encode())),
    "columns.parquet": lambda path: write_parquet(path),
    "others.csv": lambda path: write(
        path, text(header=("episode_id", "level", "temp", "valve", "rew", "terminated"))
    ),
}


def write_parquet(path, rows=ROWS):
    columns = dict(zip(NAMES, zip(*rows, strict=True), strict=True))
    columns["episode"] = pa.array([f"batch {n}" for n in columns["episode"]]).dictionary_encode()
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=5)


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_is_read_however_it_is_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data, short = sources.load(str(tmp_path / name), PLANT)
    is_the_log(data)
    assert short == name


def test_what_is_unusual_about_a_table_is_told(tmp_path):
    write(tmp_path / "log.csv", text(";", ","), "utf-16")
    dialect, _ = dialects.sniff(tmp_path / "log.csv")
    assert dialect.in_words() == "semicolons between columns, decimal commas, text in utf-16"
    write(tmp_path / "log.csv", text())
    assert dialects.sniff(tmp_path / "log.csv")[0].in_words() == ""


def test_a_table_without_names_is_read_by_the_names_that_are_given(tmp_path):
    path = write(tmp_path / "log.csv", text(header=(), flags=lambda flag: str(int(flag))))
    with pytest.raises(UserError, match=r"has no line of names.*6 columns in order.*--columns="):
        sources.load(str(path), PLANT)
    given = ("episode", "observation:2", "action:1", "reward", "terminal")
    is_the_log(sources.load(str(path), PLANT, Reading(columns=given))[0])
    named = write(tmp_path / "named.csv", text(header=("a", "b", "c", "d", "e", "f")))
    is_the_log(sources.load(str(named), PLANT, Reading(columns=given))[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("observation:3", "action:1", "reward"), "expected observation:2 for --env=plant"),
        (("observations:2",), "expected names, or observation, action, next_observation with a"),
        (("observation:2", "action:1", "reward"), "expected names for the 6 columns"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, given, message):
    path = write(tmp_path / "log.csv", text(header=()))
    with pytest.raises(UserError, match=f"^--columns: {message}"):
        sources.load(str(path), PLANT, Reading(columns=given))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("form", ["folder", "pattern"])
def test_several_tables_are_one_log_and_a_file_ends_an_episode(tmp_path, ending, form):
    for number in range(3):
        rows = [(0, *row[1:]) for row in ROWS if row[0] == number]  # all of one name
        path = tmp_path / f"day{number}{ending}"
        if ending == ".csv":
            write(path, text(rows=rows))
        else:
            write_parquet(path, rows)
    (tmp_path / "notes.md").write_text("ours")
    name = tmp_path if form == "folder" else tmp_path / f"day*{ending}"
    is_the_log(sources.load(str(name), PLANT)[0])
    (tmp_path / f"day3{ending}").write_text("level,temp,valve\n1,2,3\n")
    with pytest.raises(UserError, match=r"day3.*(other columns than|no readable Parquet file)"):
        sources.load(str(name), PLANT)


def test_a_cell_of_a_later_block_that_is_no_number_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 200)
    rows = [*ROWS, *ROWS, (9, 0.5, "broken", 0.5, 0.0, False)]
    path = write(tmp_path / "log.csv", text(rows=rows))
    with pytest.raises(UserError, match=r"line 26: expected a number, got temp='broken'"):
        sources.load(str(path), PLANT)
    is_the_log(sources.load(str(write(path, text())), PLANT)[0])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 20, b"\x00" * 50, b"\x1f\x8b\x08"])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        sources.load(str(tmp_path / name), PLANT)


def test_missing_cells_are_nan_where_they_are_allowed(tmp_path):
    path = write(tmp_path / "log.csv", "time;p\n1;1,5\n2;\n3;NaN\n4;Bad\n")
    table = tables.Table(path)
    (block,) = table.blocks(["p"], ["time"], allow_missing=True)
    np.testing.assert_array_equal(block["p"], [1.5, np.nan, np.nan, np.nan])
    assert block["time"].tolist() == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match="line 3: expected a number, got p=''"):
        list(table.blocks(["p"]))


@pytest.mark.parametrize(
    ("content", "names", "first"),
    [
        ("\n\na,b\n1,2\n3,4\n", ("a", "b"), 1.0),
        ('"a\nnote",b\n1,2\n', ("a\nnote", "b"), 1.0),
        ('a,b\n1,"one\nnote"\n3,x\n', ("a", "b"), 1.0),
        ("1,False,\n2,True,3\n", None, 1.0),
        ("batch 1,2\nbatch 2,3\n", None, 2.0),
    ],
)
def test_the_first_row_of_data_is_found(tmp_path, content, names, first):
    table = tables.Table(write(tmp_path / "log.csv", content))
    assert table.has_names == (names is not None)
    if names:
        assert table.names == names
    column = table.names[1 if content.startswith("batch") else 0]
    (block, *_) = table.blocks([column], allow_missing=True)
    assert block[column][0] == first


def test_rows_of_r_have_names_and_a_sign_at_the_end_of_rows_is_none(tmp_path):
    table = tables.Table(write(tmp_path / "r.csv", '"a","b"\n"1",5,6\n"2",7,8\n'))
    assert table.names == ("", "a", "b")
    (block,) = table.blocks(["b"])
    assert block["b"].tolist() == [6.0, 8.0]
    with pytest.raises(UserError):
        list(tables.Table(write(tmp_path / "end.csv", "a,b\n5,6,\n7,8,\n")).blocks(["b"]))


def test_flags_may_be_missing(tmp_path):
    path = write(tmp_path / "log.csv", "on,p\nTrue,1\n,2\nFalse, Bad\nTrue,  \n")
    (block,) = tables.Table(path).blocks(["on", "p"], allow_missing=True)
    np.testing.assert_array_equal(block["on"], [1.0, np.nan, 0.0, 1.0])
    np.testing.assert_array_equal(block["p"], [1.0, 2.0, np.nan, np.nan])


def test_columns_of_parquet_are_read_whatever_their_types(tmp_path):
    stamps = [1_710_338_706_123_456_789, 1_710_338_707_000_000_000]
    columns = {
        "time": pa.array(stamps, pa.timestamp("ns", "UTC")),
        "tag": pa.array([2**60, 1]),
        "part": pa.array([{"a": 1}, None]),
        "raw": pa.array([b"\xff", None]),
        "p": pa.array([None, 2], pa.int32()),
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    table = tables.Table(tmp_path / "log.parquet")
    assert table.sample()["p"] == ["", "2"] and table.sample()["part"] == ["", ""]
    (block,) = table.blocks(["tag", "p"], ["time"])
    np.testing.assert_array_equal(block["tag"], [2.0**60, 1.0])
    np.testing.assert_array_equal(block["p"], [np.nan, 2.0])
    assert timestamps.guess(block["time"].tolist()) == "iso"
    seconds = timestamps.seconds(block["time"], "iso", "x")
    np.testing.assert_allclose(seconds, [1710338706.123456, 1710338707.0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["episodes", "index", "is_first"])
def test_episodes_of_an_archive_may_be_numbered(tmp_path, name):
    columns = {
        "observations": np.array([row[1:3] for row in ROWS]),
        "actions": np.array([row[3:4] for row in ROWS]),
        "rewards": np.array([row[4] for row in ROWS]),
        "terminals": np.array([row[5] for row in ROWS]),
    }
    numbers = np.array([row[0] for row in ROWS])
    starts = np.append(True, np.diff(numbers) != 0)
    columns[name] = {"episodes": numbers, "index": np.flatnonzero(starts), "is_first": starts}[name]
    np.savez(tmp_path / "log.npz", **columns)
    is_the_log(sources.load(str(tmp_path / "log.npz"), PLANT)[0])


# --- LeRobot ---


def write_lerobot(folder, success=True):
    features = {
        "observation.state": {"dtype": "float32", "shape": [2]},
        "observation.force": {"dtype": "float32", "shape": [1]},
        "observation.images.top": {"dtype": "video", "shape": [480, 640, 3]},
        "action": {"dtype": "float32", "shape": [1]},
        "next.reward": {"dtype": "float32", "shape": [1]},
        "next.done": {"dtype": "bool", "shape": [1]},
        "episode_index": {"dtype": "int64", "shape": [1]},
    }
    if success:
        features["next.success"] = {"dtype": "bool", "shape": [1]}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({"features": features}))
    (folder / "data" / "chunk-000").mkdir(parents=True)
    for number in range(3):
        rows = [row for row in ROWS if row[0] == number]
        columns = {
            "observation.state": [list(row[1:3]) for row in rows],
            "observation.force": [row[2] for row in rows],
            "action": [[row[3]] for row in rows],
            "next.reward": [row[4] for row in rows],
            "next.done": [t == 3 for t in range(4)],
            "episode_index": [row[0] for row in rows],
        }
        if success:
            columns["next.success"] = [row[5] for row in rows]
        path = folder / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        pyarrow.parquet.write_table(pa.table(columns), path)
    return folder


def test_a_lerobot_folder_is_read_without_its_pictures(tmp_path):
    folder = write_lerobot(tmp_path / "arm")
    is_the_log(sources.load(str(folder), PLANT)[0])


def test_without_success_the_end_of_an_episode_is_terminal(tmp_path):
    data, _ = sources.load(str(write_lerobot(tmp_path / "arm", success=False)), PLANT)
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [3, 7, 11])


def test_features_are_joined_in_the_order_that_is_asked_for(tmp_path):
    folder = write_lerobot(tmp_path / "arm")
    task = TaskSpec(**{**vars(PLANT), "observation_names": ("force", "level", "temp")})
    keys = ("observation.force", "observation.state")
    data, _ = sources.load(str(folder), task, Reading(observation_keys=keys))
    np.testing.assert_allclose(data.observations[0], [ROWS[0][2], *ROWS[0][1:3]])
    with pytest.raises(UserError, match=r"no numbers called observation\.images\.top; choose"):
        sources.load(str(folder), task, Reading(observation_keys=("observation.images.top",)))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"features": []}', '{"features": {"a": 1}}'])
def test_a_damaged_description_is_named(tmp_path, content):
    folder = write_lerobot(tmp_path / "arm")
    (folder / "meta" / "info.json").write_text(content)
    with pytest.raises(UserError, match=r"info\.json"):
        sources.load(str(folder), PLANT)


# --- names ---


def test_the_names_of_a_layout_are_the_tasks_own():
    found = table_rows.named(("observation:2", "action:1", "next_observation:2", "reward"), PLANT)
    assert found == ["level", "temp", "valve", "next_level", "next_temp", "reward"]
