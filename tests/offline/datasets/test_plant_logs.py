"""A plant's log, from time stamps to steps; expectations are worked out by hand or by loops."""

import datetime
from pathlib import Path

import numpy as np
import pytest

from offline_tf import tasks
from offline_tf.datasets import describe, sources
from offline_tf.datasets.description import draft, table_facts
from offline_tf.datasets.formats import plant_logs, timestamps
from offline_tf.tasks.plants import plant_file
from offline_tf.types import UserError

DESCRIPTION = """
name = "tank"
step_seconds = 10
max_episode_steps = 100
history = {history}
time_of_day = {time_of_day}
[log]
time = "time"
time_format = "{form}"
max_gap_seconds = 25
idle_seconds = {idle}
[[observations]]
name = "level"
column = "Level [m]"
resample = "{resample}"
[[actions]]
name = "valve"
low = 0
high = 1
{extra}
"""


def described(folder, **changes):
    values = {
        "history": 1,
        "time_of_day": "false",
        "form": "seconds",
        "idle": 0,
        "resample": "last",
        "extra": "",
    }
    path = folder / "plant.toml"
    path.write_text(DESCRIPTION.format(**values | changes))
    return tasks.get(str(path))


def log(folder, rows, name="log.csv"):
    """Writes (time, level, valve) rows."""
    path = folder / name
    lines = ["time,Level [m],valve", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


REGULAR = [(10 * k, k, 0.1 * (k % 3)) for k in range(8)]


def test_rows_at_the_sampling_time_are_steps(tmp_path):
    data, _ = sources.load(log(tmp_path, REGULAR), described(tmp_path))
    np.testing.assert_allclose(data.observations[:, 0], np.arange(7))
    np.testing.assert_allclose(data.next_observations[:, 0], np.arange(1, 8))
    np.testing.assert_allclose(data.actions[:, 0], [row[2] for row in REGULAR[:-1]], atol=1e-6)
    np.testing.assert_array_equal(data.timeouts, np.arange(7) == 6)
    assert not data.terminals.any() and not data.rewards.any()


def test_an_action_is_the_mean_over_its_step_and_a_measurement_what_was_seen_before(tmp_path):
    rows = [(0, 1, 0.0), (5, 3, 1.0), (10, 7, 0.5), (20, 9, 0.5), (30, 9, 0.5)]
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path, resample="mean"))
    np.testing.assert_allclose(data.actions[:, 0], [0.5, 0.5, 0.5])
    # Until ten seconds, 3 and 7 were seen; then 9 alone.
    np.testing.assert_allclose(data.observations[:, 0], [1.0, 5.0, 9.0])
    np.testing.assert_allclose(data.next_observations[:, 0], [5.0, 9.0, 9.0])


@pytest.mark.parametrize(
    ("start", "step"), [(1704103200.3, 0.1), (1704103212.34, 0.05), (0.0, 0.3)]
)
def test_rounding_of_stamps_moves_no_sample(tmp_path, start, step):
    rows = [(repr(round(start + step * k, 6)), k, k % 2) for k in range(200)]
    path = log(tmp_path, rows)
    for resample in ("last", "mean"):
        text = DESCRIPTION.replace("step_seconds = 10", f"step_seconds = {step}").replace("25", "1")
        values = {"history": 1, "time_of_day": "false", "form": "seconds", "idle": 0, "extra": ""}
        (tmp_path / "plant.toml").write_text(text.format(**values, resample=resample))
        data, _ = sources.load(path, tasks.get(str(tmp_path / "plant.toml")))
        np.testing.assert_allclose(data.observations[:, 0], np.arange(199))
        np.testing.assert_allclose(data.actions[:, 0], np.arange(199) % 2, atol=1e-4)


def test_a_measurement_after_a_silence_is_of_after_it(tmp_path):
    rows = [(0, 1, 0), (10, 1, 0), (20, 1, 0), (100, 9, 0), (110, 9, 0), (120, 9, 0)]
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path, resample="mean"))
    after = data.observations[data.episode_bounds()[1, 0] :, 0]
    np.testing.assert_array_equal(after, [9.0, 9.0])


def test_rows_of_one_stamp_fill_each_other(tmp_path):
    rows = [part for k in range(6) for part in ((10 * k, k, ""), (10 * k, "", 0.1 * k))]
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path))
    np.testing.assert_allclose(data.observations[:, 0], np.arange(5))
    np.testing.assert_allclose(data.actions[:, 0], 0.1 * np.arange(5), rtol=1e-6)


def test_a_long_silence_cuts_the_log(tmp_path):
    rows = [*REGULAR, *((300 + 10 * k, 100 + k, 0.5) for k in range(4))]
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path))
    bounds = data.episode_bounds()
    assert len(bounds) == 2 and data.observations[bounds[1, 0], 0] == 100.0
    # Two samples may be missing (25 s); within them the last value holds.
    assert data.next_observations[bounds[0, 1] - 1, 0] == 7.0
    assert bounds[0, 1] == 9


def test_missing_cells_hold_the_last_value_for_so_long(tmp_path):
    rows = [list(row) for row in REGULAR]
    rows[3][1] = ""
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path))
    np.testing.assert_allclose(data.observations[:, 0], [0, 1, 2, 2, 4, 5, 6])
    for row in rows[3:7]:
        row[1] = "Bad"
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path))
    np.testing.assert_allclose(data.observations[:, 0], [0, 1, 2, 2])


def test_history_holds_earlier_rows_and_actions(tmp_path):
    task = described(tmp_path, history=3)
    assert task.observation_names == ("level", "level@-1", "valve@-1", "level@-2", "valve@-2")
    data, _ = sources.load(log(tmp_path, REGULAR), task)
    k = np.arange(2, 7)
    valve = np.array([row[2] for row in REGULAR])
    expected = np.stack([k, k - 1, valve[k - 1], k - 2, valve[k - 2]], axis=1)
    np.testing.assert_allclose(data.observations, expected, atol=1e-6)
    np.testing.assert_allclose(data.next_observations[:-1], expected[1:], atol=1e-6)
    np.testing.assert_allclose(data.actions[:, 0], valve[k], atol=1e-6)


def test_reward_and_end_follow_from_expressions(tmp_path):
    extra = """[reward]
    expression = "level - 10*abs(valve - before(valve)) + before(level)"
    [termination]
    expression = "level >= 5"
    """
    data, _ = sources.load(log(tmp_path, REGULAR), described(tmp_path, history=2, extra=extra))
    k = np.arange(1, 7)
    valve = np.array([row[2] for row in REGULAR])
    np.testing.assert_allclose(
        data.rewards, (k + 1) - 10 * abs(valve[k] - valve[k - 1]) + k, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(data.terminals, k + 1 >= 5)


def test_a_column_may_be_the_reward(tmp_path):
    extra = '[reward]\ncolumn = "Level [m]"'
    data, _ = sources.load(log(tmp_path, REGULAR), described(tmp_path, extra=extra))
    np.testing.assert_allclose(data.rewards, np.arange(7))


def test_payments_now_and_then_are_added_up(tmp_path):
    """What is paid until the step's end counts for it; a step without a payment earns 0."""
    task = described(tmp_path, extra='[reward]\ncolumn = "paid"\nadd = true')
    lines = ["time,Level [m],valve,paid", *(f"{10 * k},{k},0.1," for k in range(7))]
    lines += ["12,,,5", "20,,,4", "20,,,3", "41,,,1"]  # two at once count both
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    data, _ = sources.load(str(tmp_path / "log.csv"), task)
    assert data.rewards.tolist() == [0, 12, 0, 0, 1, 0]
    with pytest.raises(UserError, match="add is for a column, found none"):
        described(tmp_path, extra="[reward]\nadd = true")


def test_stretches_without_a_moving_action_are_left_out(tmp_path):
    rows = [(10 * k, k, 0.5 if k > 5 else 0.1) for k in range(30)]
    data, _ = sources.load(log(tmp_path, rows), described(tmp_path, idle=30))
    np.testing.assert_allclose(data.observations[:, 0], np.arange(3, 10))


def test_the_time_of_day_turns_once_a_day(tmp_path):
    rows = [(3600 * 6 - 10 + 10 * k, 1, 0.5) for k in range(4)]
    task = described(tmp_path, time_of_day="true")
    assert task.observation_names[1:] == plant_file.TIME_OF_DAY
    data, _ = sources.load(log(tmp_path, rows), task)
    np.testing.assert_allclose(data.observations[1, 1:], [1.0, 0.0], atol=1e-6)


def test_files_are_put_in_the_order_of_their_stamps_and_doubles_left_out(tmp_path):
    (tmp_path / "logs").mkdir()
    log(tmp_path / "logs", REGULAR[4:], "a.csv")
    log(tmp_path / "logs", [(0, 99, 0.0), *REGULAR[:5]], "b.csv")  # stamps 0 and 40 twice
    data, _ = sources.load(str(tmp_path / "logs"), described(tmp_path))
    np.testing.assert_allclose(data.observations[:, 0], np.arange(7))


def test_the_last_episodes_are_held_out(tmp_path):
    from offline_tf.numerics import holdout

    bounds = np.array([[0, 40], [40, 80], [80, 100]])
    for seed in range(3):
        split = holdout.split_episodes(bounds, 0.2, seed, by_time=True)
        np.testing.assert_array_equal(split.held_out, np.arange(80, 100))


# --- stamps ---

MOMENT = datetime.datetime(2024, 3, 13, 14, 5, 6, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("words", "form", "seconds"),
    [
        (["2024-03-13T14:05:06"], "iso", MOMENT),
        (["2024-03-13 14:05:06"], "iso", MOMENT),
        (["2024-03-13 14:05:06.500"], "iso", MOMENT + 0.5),
        (["2024-03-13T15:05:06+01:00"], "iso", MOMENT),
        (["2024-03-13T14:05:06Z"], "iso", MOMENT),
        (["13.03.2024 14:05:06"], "%d.%m.%Y %H:%M:%S", MOMENT),
        (["13.03.2024 14:05"], "%d.%m.%Y %H:%M", MOMENT - 6),
        (["03/13/2024 14:05:06"], "%m/%d/%Y %H:%M:%S", MOMENT),
        (["13/03/2024 14:05:06"], "%d/%m/%Y %H:%M:%S", MOMENT),
        (["12.5"], "seconds", 12.5),
        (["12,5"], "seconds", 12.5),
    ],
)
def test_stamps_are_recognised(words, form, seconds):
    assert timestamps.guess(words) == form
    found = timestamps.seconds(np.array(words, object), form, "log.csv")
    np.testing.assert_allclose(found, [seconds])


@pytest.mark.parametrize("words", [[], [""], ["monday"], ["2024-03-13 14:05:06", "later"]])
def test_what_is_no_stamp_is_none(words):
    assert timestamps.guess(words) == ""


# --- the description ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("step_seconds = 10", "step_second = 10"), "unknown key 'step_second'; did you mean"),
        (("step_seconds = 10", "step_seconds = 0"), "step_seconds: expected more than 0"),
        (("step_seconds = 10", 'step_seconds = "10"'), "expected a number for step_seconds"),
        (("step_seconds = 10", ""), "expected step_seconds, found none"),
        (("history = 1", "history = 0"), "history of 1 to 100"),
        (("history = 1", "history = true"), "expected a whole number for history"),
        (('time = "time"', ""), r"\[log\]: expected time, found none"),
        (('resample = "last"', 'resample = "mode"'), "expected resample as one of mean, last"),
        (('name = "level"', 'name = "the level"'), "expected a name of letters, digits and _"),
        (('name = "level"', 'name = "valve"'), "several signals are called valve"),
        (("low = 0\n", ""), "expected low and high"),
        (("high = 1", "high = 0"), "expected low and high"),
        (("high = 1", "high = inf"), "expected a number for high"),
        (("[[actions]]", "[actions]"), "expected a table for actions"),
        (
            ("# end", '[reward]\nexpression = "x"\ncolumn = "y"'),
            "expected an expression or a column",
        ),
        (("# end", '[reward]\nexpression = "pressure"'), "unknown names pressure"),
        (("# end", '[reward]\nexpression = "before(valve)"'), "set history = 2 or more"),
        (("# end", '[termination]\nexpression = "valve > 1"'), "unknown names valve"),
        (("# end", '[termination]\nexpression = "before(level) > 1"'), "by what was reached"),
        (("# end", "name = 3"), "is no TOML|unknown key|Cannot"),
    ],
)
def test_a_description_that_is_wrong_is_named(tmp_path, change, message):
    described(tmp_path, extra="# end")
    path = tmp_path / "plant.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(UserError, match=f"^--env: .*plant.toml.*({message})"):
        tasks.get(str(path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected rows under the header"),
        ([(0, 1, 1)], "expected a log of several steps"),
        ([(0, 1, ""), (10, 1, ""), (100, "", 1), (110, "", 1)], "found no 1 steps of 10 s in a"),
        ([(10 * k, "", 1) for k in range(9)], r"column 'Level \[m\]' holds no number"),
        ([(10 * k, "x", 1) for k in range(9)], r"line 2: expected a number, got Level \[m\]='x'"),
        ([("now", 1, 1)], "expected time stamps of the form 'seconds'"),
        ([(0, 1, 1), (10, 1, 1), (1e11, 1, 1)], "rows 2 and 3 in time lie .*Is a stamp wrong"),
    ],
)
def test_a_log_that_gives_no_steps_is_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        sources.load(log(tmp_path, rows), described(tmp_path))


# --- describe ---


def historian(folder, days=0.5):
    """A tank as a historian logs it: irregular rows, a gap, decimal commas, a slow answer."""
    generator = np.random.default_rng(1)
    lines = ["Zeit;Füllstand [m];Ventil SP [%];Pumpe;Notiz"]
    seconds, level, valve, past = 0.0, 1.0, 50.0, [50.0] * 6
    while seconds < 86_400 * days:
        seconds += 10.0 + generator.uniform(-1, 1)
        if len(lines) == 1000:
            seconds += 3600
        if generator.random() < 0.02:
            valve = float(generator.choice([30, 40, 50, 60, 70]))
        past = [*past[1:], valve]
        level += 0.05 * (past[0] / 50 - level) + 0.001 * generator.normal()
        stamp = datetime.datetime(2024, 3, 13) + datetime.timedelta(seconds=round(seconds))
        cells = [f"{stamp:%d.%m.%Y %H:%M:%S}", f"{level:.4f}", f"{valve:.1f}", "1", "ok"]
        lines.append(";".join(cells[:1] + [cell.replace(".", ",") for cell in cells[1:]]))
    path = folder / "tank.csv"
    path.write_text("\n".join(lines) + "\n", encoding="cp1252")
    return path


def test_a_table_is_described_with_its_evidence(tmp_path):
    facts = table_facts.find(historian(tmp_path))
    assert facts.dialect == "semicolons between columns, decimal commas, text in cp1252"
    assert (facts.time, facts.time_format) == ("Zeit", "%d.%m.%Y %H:%M:%S")
    assert [c.name for c in facts.of_kind("observation")] == ["Füllstand [m]"]
    assert [c.name for c in facts.of_kind("action")] == ["Ventil SP [%]"]
    assert [c.name for c in facts.of_kind("constant")] == ["Pumpe"]
    assert facts.left_out == ["Notiz"]
    assert len(facts.gaps) == 1 and abs(facts.gaps[0][1] - 3610) < 5
    facts = table_facts.find(historian(tmp_path), step_seconds=10.0)
    (delay,) = facts.delays
    assert 5 <= delay.steps <= 7 and delay.correlation > 0.3


def test_a_draft_is_a_task_whose_log_can_be_read(tmp_path):
    path, output = historian(tmp_path), tmp_path / "plant.toml"
    describe.main(describe.DescribeConfig(table=str(path), output=str(output), step_seconds=10.0))
    task = tasks.get(str(output))
    assert task.action_names == ("ventil_sp",) and task.observation_names[0] == "fuellstand"
    np.testing.assert_array_equal([task.action_low, task.action_high], [[0.0], [100.0]])
    assert task.log.history >= 6
    data, name = sources.load(str(path), task)
    assert name == "tank.csv" and len(data) > 3000 and len(data.episode_bounds()) >= 2
    with pytest.raises(UserError, match="exists; it is not replaced"):
        describe.main(describe.DescribeConfig(table=str(path), output=str(output)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n2,3\n", "found no time stamps in any column"),
        ("time,a,b\n1,2,3\n", "expected ten rows"),
        (
            "time,a,b\n" + "".join(f"{k},1,2\n" for k in range(20)),
            "two columns of numbers that change",
        ),
        (
            "time,a\n" + "".join(f"{k},{k}\n" for k in range(20)),
            "two columns of numbers that change",
        ),
    ],
)
def test_a_table_that_cannot_be_described_is_named(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^--table: .*{message}"):
        table_facts.find(path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Level [m]", "level"),
        ("T1 (°C)", "t1"),
        ("Füllstand Größe", "fuellstand_groesse"),
        ("2nd flow", "x_2nd_flow"),
        ("[m]", "x"),
        ("Débit d'eau", "debit_d_eau"),
    ],
)
def test_columns_get_names_for_expressions(name, found):
    assert draft.identifier(name) == found


def long_table(folder, rows, name="long.csv"):
    path = folder / name
    lines = ["Tag;When;Value", *(";".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines).replace(".", ",") + "\n")
    return str(path)


def long_rows():
    """The regular log, tag by tag as historians export it: first all levels, then all valves."""
    levels = [("FT 1", time, level) for time, level, _ in REGULAR]
    return levels + [("valve", time, valve) for time, _, valve in REGULAR]


LONG = 'tag = "Tag"\nvalue = "Value"\n'


def long_task(folder):
    text = DESCRIPTION.replace('time = "time"', 'time = "When"\n' + LONG)
    (folder / "long.toml").write_text(
        text.replace("Level [m]", "FT 1").format(
            history=1, time_of_day="false", form="seconds", idle=0, resample="last", extra=""
        )
    )
    return tasks.get(str(folder / "long.toml"))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_table_of_tags_is_the_same_log(tmp_path, shuffle):
    """Other tags are left out; the order of the rows says nothing."""
    rows = [*long_rows(), ("alarm", 5, 1)]
    if shuffle:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    found, _ = sources.load(long_table(tmp_path, rows), long_task(tmp_path))
    wide, _ = sources.load(log(tmp_path, REGULAR), described(tmp_path))
    for name in ("observations", "actions", "next_observations", "timeouts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wide, name))


def test_of_two_values_of_a_tag_and_stamp_the_later_counts(tmp_path):
    rows = [*long_rows(), ("FT 1", 30, 99)]
    found, _ = sources.load(long_table(tmp_path, rows), long_task(tmp_path))
    assert found.observations[:, 0].tolist() == [0, 1, 2, 99, 4, 5, 6]


def test_a_tag_that_never_comes_is_named(tmp_path):
    with pytest.raises(UserError, match="found no row with a number and the tag valve"):
        sources.load(long_table(tmp_path, long_rows()[:8]), long_task(tmp_path))
    (tmp_path / "half.toml").write_text(
        (tmp_path / "long.toml").read_text().replace('value = "Value"', "")
    )
    with pytest.raises(UserError, match="expected both tag and value"):
        tasks.get(str(tmp_path / "half.toml"))


def test_a_table_of_tags_is_described_as_one(tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for k in range(400):
        rows.append(("TI 7 [K]", 10 * k, round(300 + generator.normal(), 2)))
        rows.append(("VALVE SP", 10 * k, 20 + 10 * (k // 80)))
    facts = table_facts.find(Path(long_table(tmp_path, rows)))
    assert facts.long == ("Tag", "Value")
    assert [c.name for c in facts.of_kind("action")] == ["VALVE SP"]
    (tmp_path / "drafted.toml").write_text(draft.write(facts, "plant", 0))
    made = plant_file.read(tmp_path / "drafted.toml")
    assert made.log.tag == "Tag" and made.log.value == "Value"
    data, _ = sources.load(str(tmp_path / "long.csv"), made)
    assert len(data) > 100


BATCHES = DESCRIPTION.replace('time = "time"', 'time = "time"\nbatch = "run"')


def batch_task(folder):
    (folder / "batch.toml").write_text(
        BATCHES.format(
            history=1, time_of_day="false", form="seconds", idle=0, resample="last", extra=""
        )
    )
    return tasks.get(str(folder / "batch.toml"))


def batch_table(folder, rows, name):
    path = folder / name
    lines = ["run,time,Level [m],valve", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("starts", [(0, 0, 0), (0, 50, 100), (0, 50, 20), (7, 3, 1007)])
def test_runs_are_episodes_whether_their_clocks_begin_anew_or_go_on(tmp_path, starts):
    """Five rows a run are four steps each, none of them across two runs or beyond a run's end."""
    rows = [
        (run, start + 10 * k, 100 * run + k, 0.5)
        for run, start in enumerate(starts)
        for k in range(5)
    ]
    data, _ = sources.load(batch_table(tmp_path, rows, "log.csv"), batch_task(tmp_path))
    levels = [100 * run + k for run in range(3) for k in range(4)]
    assert data.observations[:, 0].tolist() == levels
    assert data.next_observations[:, 0].tolist() == [level + 1 for level in levels]
    assert np.diff(data.episode_bounds()).ravel().tolist() == [4, 4, 4]


def test_clocks_that_go_on_are_told_as_they_are(tmp_path):
    rows = [(run, 100 * run + 10 * k, k, 0.5) for run in range(2) for k in range(5)]
    path = Path(batch_table(tmp_path, rows, "log.csv"))
    _, times = plant_logs.read_with_times([path], batch_task(tmp_path))
    assert times.tolist() == [0, 10, 20, 30, 100, 110, 120, 130]


def test_another_file_may_number_its_runs_anew(tmp_path):
    for number in (1, 2):
        rows = [(1, 10 * k, 100 * number + k, 0.5) for k in range(5)]
        batch_table(tmp_path, rows, f"machine{number}.csv")
    data, _ = sources.load(str(tmp_path / "machine*.csv"), batch_task(tmp_path))
    assert data.observations[:, 0].tolist() == [100, 101, 102, 103, 200, 201, 202, 203]
    assert len(data.episode_bounds()) == 2
