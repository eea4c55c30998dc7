"""Wrong input of every kind ends in one line and status 2, and leaves the disk as it was."""

import json
import pathlib
import pickle
import shutil
import zipfile

import forks
import h5py
import numpy as np
import pytest

from offline_tf.policies import gaussian

TRAIN, PLAN = "morel_tf.train", "mopp_tf.train"


def columns(rows=40, state=11, action=3, **changes):
    """D4RL's columns of a sound Hopper file of two episodes."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(rows + 1, state)).astype(np.float32)
    found = {
        "observations": states[:-1],
        "actions": generator.uniform(-1, 1, (rows, action)).astype(np.float32),
        "rewards": generator.normal(size=rows).astype(np.float32),
        "next_observations": states[1:],
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % 20 == 19,
    }
    found |= changes
    return {name: values for name, values in found.items() if values is not None}


def hdf5(path, **changes):
    with h5py.File(path, "w") as file:
        for name, values in columns(**changes).items():
            file[name] = values


def write_with(path, change):
    """A sound file, changed while it is open."""
    hdf5(path)
    with h5py.File(path, "a") as file:
        change(file)


def set_cell(name, value):
    found = columns()
    found[name] = found[name].copy()
    found[name][3] = value
    return found[name]


class Opened:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("opened"),)


def run_folder(path, **changes):
    """A folder with a manifest of a run that is not finished."""
    path.mkdir()
    manifest = {"algorithm": "morel", "flags": {"env": "hopper", "seed": 0}, "seed": 0} | changes
    (path / "manifest.json").write_text(json.dumps(manifest))


PLANTS = {
    "syntax.py": "SPEC = (\n",
    "raises.py": "raise KeyError('sensor')\n",
    "number.py": "SPEC = 7\n",
    "missing.py": "import a_package_that_is_not_there\n",
    "bounds.py": (
        "import numpy as np\nfrom offline_tf.types import TaskSpec\n"
        "SPEC = TaskSpec(name='p', observation_names=('x',), action_names=('u',),\n"
        "    action_low=np.ones(1, np.float32), action_high=-np.ones(1, np.float32), dt=1.0,\n"
        "    max_episode_steps=10, velocity_indices=(), reward=None, termination=None,\n"
        "    alive_bonus=0.0, control_cost=0.0)\n"
    ),
}


DESCRIPTION = """name = "p"
step_seconds = 1
[log]
time = "time"
time_format = "seconds"
[[observations]]
name = "x"
[[actions]]
name = "u"
low = 0
high = 2
[reward]
expression = "-x**2"
"""
DESCRIPTIONS = {
    "plant.toml": ("", ""),
    "typo.toml": ("step_seconds", "step_secnds"),
    "no_toml.toml": ("[log]", "[log"),
    "code.toml": ("-x**2", "__import__('os').system('touch opened')"),
    "other_names.toml": ('name = "x"', 'name = "pressure"'),
    "dates.toml": ('"seconds"', '"iso"'),
}


def make_files(folder):
    """Everything that the cases name."""
    folder.mkdir()
    for name, text in PLANTS.items():
        (folder / name).write_text(text)
    hdf5(folder / "good.hdf5")
    (folder / "empty.hdf5").write_bytes(b"")
    (folder / "text.hdf5").write_text("observations\n1.0\n")
    whole = (folder / "good.hdf5").read_bytes()
    (folder / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    hdf5(folder / "no_actions.hdf5", actions=None)
    hdf5(folder / "no_ends.hdf5", terminals=None, timeouts=None, next_observations=None)
    hdf5(folder / "walker.hdf5", state=17, action=6)
    hdf5(folder / "wide_actions.hdf5", action=4)
    hdf5(folder / "short_rewards.hdf5", rewards=np.zeros(39, np.float32))
    hdf5(folder / "flat.hdf5", observations=np.zeros(40, np.float32))
    hdf5(folder / "cube.hdf5", observations=np.zeros((40, 11, 2), np.float32))
    hdf5(folder / "no_rows.hdf5", rows=0)
    hdf5(folder / "words.hdf5", rewards=np.array([b"much"] * 40))
    hdf5(folder / "complex.hdf5", rewards=np.zeros(40, complex))
    hdf5(folder / "halves.hdf5", terminals=np.full(40, 0.5))
    hdf5(folder / "nan_observation.hdf5", observations=set_cell("observations", np.nan))
    hdf5(folder / "nan_action.hdf5", actions=set_cell("actions", np.nan))
    hdf5(folder / "inf_reward.hdf5", rewards=set_cell("rewards", np.inf))
    hdf5(folder / "huge_reward.hdf5", rewards=set_cell("rewards", 1e30))
    hdf5(folder / "same_next.hdf5", next_observations=columns()["observations"])
    hdf5(folder / "one_step.hdf5", timeouts=np.ones(40, bool))
    hdf5(folder / "constant.hdf5", observations=np.ones((40, 11), np.float32))
    write_with(folder / "group.hdf5", lambda f: (f.pop("rewards"), f.create_group("rewards")))
    write_with(
        folder / "linked.hdf5",
        lambda f: (
            f.pop("rewards"),
            f.__setitem__("rewards", h5py.ExternalLink("/etc/passwd", "/x")),
        ),
    )
    write_with(
        folder / "dangling.hdf5",
        lambda f: (f.pop("rewards"), f.__setitem__("rewards", h5py.SoftLink("/nowhere"))),
    )
    with (folder / "hostile.pkl").open("wb") as file:
        pickle.dump([{"observations": Opened()}], file)
    (folder / "cut.pkl").write_bytes(pickle.dumps([columns()])[:200])
    with (folder / "number.pkl").open("wb") as file:
        pickle.dump(7, file)
    np.savez(folder / "good.npz", **columns())
    np.savez(folder / "no_actions.npz", **columns(actions=None))
    np.savez(folder / "objects.npz", **columns(rewards=np.array([Opened()] * 40, object)))
    (folder / "text.npz").write_text("no archive")
    with zipfile.ZipFile(folder / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    names = ",".join(("rootz", "rooty"))
    (folder / "no_columns.csv").write_text(f"{names}\n1,2\n")
    (folder / "empty.csv").write_text("")
    (folder / "nameless.csv").write_text("1;2;3\n4;5;6\n")
    (folder / "log.csv").write_text("time,x,u\n" + "".join(f"{k},{k},1\n" for k in range(20)))
    (folder / "empty.parquet").write_bytes(b"PAR1")
    (folder / "lerobot" / "meta").mkdir(parents=True)
    (folder / "lerobot" / "meta" / "info.json").write_text("{}")
    for name, (old, new) in DESCRIPTIONS.items():
        assert old in DESCRIPTION
        (folder / name).write_text(DESCRIPTION.replace(old, new, 1))
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    (folder / "minari").mkdir()
    (folder / "minari" / "data").mkdir()
    (folder / "minari" / "data" / "main_data.hdf5").write_bytes(b"nothing")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    run_folder(folder / "unfinished")
    run_folder(folder / "planner", algorithm="mopp")
    run_folder(folder / "listed", flags=["env"])
    (folder / "damaged").mkdir()
    (folder / "damaged" / "manifest.json").write_text("{")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "manifest.json").write_text('{"name": "an app"}')
    (folder / "export").mkdir()
    (folder / "export" / "saved_model.pb").write_bytes(b"nothing")
    (folder / "export" / "interface.json").write_text("{}")
    (folder / "bare_export").mkdir()
    (folder / "bare_export" / "saved_model.pb").write_bytes(b"nothing")
    (folder / "observations.csv").write_text("x\n1.0\n")
    (folder / "observations.txt").write_text("1.0\n")
    (folder / "taken.csv").write_text("kept\n")
    (folder / "taken.hdf5").write_bytes(whole)
    np.savez(folder / "policy.npz", weights=np.zeros(3))
    (folder / "policy.zip").write_bytes(b"no zip")
    with zipfile.ZipFile(folder / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "no policy")
    (folder / "normalizer.pkl").write_bytes(pickle.dumps(Opened()))
    (folder / "flags.txt").write_text("--beta=much\n")
    walker, about = gaussian.load(gaussian.shipped("walker2d"))
    gaussian.save(folder / "walker.npz", walker, about)


def on(*words, env="hopper"):
    """Training of MOReL on a file."""
    return (TRAIN, f"--env={env}", *words, "--workdir=new")


def data(name, *words):
    return on(f"--dataset={name}", *words)


# What is wrong -> (the command, what its line has to say).
CASES = {
    # The command line.
    "unknown flag": (on("--betta=5"), "Unknown command line flag 'betta'"),
    "a word": (on("hopper"), "expected flags only"),
    "a word for a number": (on("--beta=much"), "beta"),
    "a number for a switch": (on("--inspection=7"), "inspection"),
    "out of bounds": (on("--ensemble_size=0"), "--ensemble_size: expected a value in"),
    "not a number": (on("--discount=nan"), "--discount: expected a value in"),
    "infinite": (on("--kl_per_update=inf"), "--kl_per_update"),
    "negative seed": (on("--seed=-1"), "--seed: expected a value in"),
    "no such choice": (on("--halt=sometimes"), "halt"),
    "words in a list": (
        on("--policy_hidden=wide,deep"),
        "--policy_hidden: expected a comma-separated list",
    ),
    "an empty layer": (on("--policy_hidden=32,0"), "--policy_hidden"),
    "no file of flags": (on("--flagfile=nowhere"), "nowhere"),
    "a bad file of flags": (on("--flagfile=flags.txt"), "beta"),
    "quiet and verbose": (on("--quiet", "--verbose"), "--quiet, --verbose: expected one of them"),
    "no such preset": (on("--preset=best"), "--preset: expected a preset that exists"),
    "one model": (
        on("--ensemble_size=1", "--dataset=good.hdf5"),
        "--ensemble_size: expected 2 models",
    ),
    "negative hours": (on("--max_hours=-1"), "--max_hours"),
    "no such algorithm": ((PLAN, "--algorithm=mppi"), "algorithm"),
    "one planner model": (
        (PLAN, "--dataset=good.hdf5", "--dynamics_members=1", "--workdir=new"),
        "--dynamics_members",
    ),
    # The task.
    "mistyped robot": (on(env="hoper"), "did you mean 'hopper'"),
    "no such task file": (on(env="nowhere.py:SPEC"), "nowhere.py"),
    "no name in the file": (on(env="number.py:PLANT"), "PLANT"),
    "no task under the name": (on(env="number.py:SPEC"), "SPEC"),
    "a syntax error": (on(env="syntax.py:SPEC"), "syntax.py"),
    "a file that raises": (on(env="raises.py:SPEC"), "sensor"),
    "a file that lacks a package": (on(env="missing.py:SPEC"), "a_package_that_is_not_there"),
    "bounds the wrong way": (on(env="bounds.py:SPEC"), "bounds.py"),
    "no such environment": (on(env="Hoper-v4"), "Hoper-v4"),
    "discrete actions": (on("--dataset=good.hdf5", env="CartPole-v1"), "CartPole-v1"),
    # The data.
    "no such file": (data("nowhere.hdf5"), "--dataset: expected"),
    "a folder": (data("full"), "--dataset: expected"),
    "an empty file": (data("empty.hdf5"), "empty.hdf5"),
    "text": (data("text.hdf5"), "text.hdf5"),
    "a file cut short": (data("cut.hdf5"), "cut.hdf5"),
    "no actions": (data("no_actions.hdf5"), "lacks 'actions'"),
    "no ends": (data("no_ends.hdf5"), "cannot be told apart"),
    "another robot's": (data("walker.hdf5"), "width 17"),
    "too many actions": (data("wide_actions.hdf5"), "width 4"),
    "columns of two lengths": (data("short_rewards.hdf5"), "rewards"),
    "observations in one column": (data("flat.hdf5"), "observations"),
    "observations in a cube": (data("cube.hdf5"), "observations"),
    "no rows": (data("no_rows.hdf5"), "no_rows.hdf5"),
    "words": (data("words.hdf5"), "rewards"),
    "complex numbers": (data("complex.hdf5"), "rewards"),
    "half an end": (data("halves.hdf5"), "terminals"),
    "an observation that is no number": (data("nan_observation.hdf5"), "NaN or infinity"),
    "an action that is no number": (data("nan_action.hdf5"), "NaN or infinity"),
    "an infinite reward": (data("inf_reward.hdf5"), "NaN or infinity"),
    "the next observation is the same": (
        data("same_next.hdf5"),
        "next_observations equal observations",
    ),
    "episodes of one step": (data("one_step.hdf5"), "% of the episodes have one step"),
    "observations that never change": (data("constant.hdf5"), "the same in every row"),
    "a group for a column": (data("group.hdf5"), "rewards"),
    "a link to another file": (data("linked.hdf5"), "rewards"),
    "a link to nothing": (data("dangling.hdf5"), "dangling.hdf5"),
    "a hostile pickle": (data("hostile.pkl"), "hostile.pkl"),
    "a pickle cut short": (data("cut.pkl"), "cut.pkl"),
    "a pickle of a number": (data("number.pkl"), "number.pkl"),
    "an archive without actions": (data("no_actions.npz"), "actions"),
    "an archive of objects": (data("objects.npz"), "objects.npz"),
    "no archive": (data("text.npz"), "text.npz"),
    "an archive of other files": (data("other.npz"), "other.npz"),
    "a table without the columns": (data("no_columns.csv"), "lacks the columns"),
    "an empty table": (data("empty.csv"), "empty.csv"),
    "a binary table": (data("binary.csv"), "binary.csv"),
    "a table without names": (data("nameless.csv"), "such as --columns=observation:2"),
    "names for other columns": (data("nameless.csv", "--columns=a,b"), "--columns: expected names"),
    "a broken Parquet file": (data("empty.parquet"), "no readable Parquet file"),
    "a LeRobot folder without features": (data("lerobot"), "info.json"),
    "a pattern that names nothing": (data("nowhere*.csv"), "--dataset: expected a file"),
    "a plant with a typo": (
        on("--dataset=log.csv", env="typo.toml"),
        "did you mean 'step_seconds'",
    ),
    "a plant that is no TOML": (on("--dataset=log.csv", env="no_toml.toml"), "is no TOML"),
    "a plant with code": (on("--dataset=log.csv", env="code.toml"), "[reward]: the function"),
    "a plant of other names": (on("--dataset=log.csv", env="other_names.toml"), "unknown names x"),
    "a plant with other stamps": (
        on("--dataset=log.csv", env="dates.toml"),
        "expected time stamps",
    ),
    "a plant without a file": (on("--dataset=log.csv", env="nowhere.toml"), "./run.sh describe"),
    "a description of nothing": (
        ("offline_tf.datasets.describe", "--table=nowhere.csv"),
        "--table",
    ),
    "a description of a table without stamps": (
        ("offline_tf.datasets.describe", "--table=no_columns.csv", "--output=new.toml"),
        "found no time stamps",
    ),
    "a description where one is": (
        ("offline_tf.datasets.describe", "--table=log.csv", "--output=plant.toml"),
        "it is not replaced",
    ),
    "a broken Minari folder": (data("minari"), "minari"),
    "no such kind of data": (data("great-ours"), "--dataset: expected"),
    "no such D4RL set": (data("hopper-medium-v7"), "--dataset"),
    "no RLDS package": (data("tfds:d4rl_mujoco_hopper"), "requirements-formats.txt"),
    # The run's folder.
    "the folder is a file": ((TRAIN, "--workdir=good.hdf5"), "--workdir: expected a folder"),
    "a folder of other files": ((TRAIN, "--workdir=full"), "holds other files"),
    "a damaged manifest": ((TRAIN, "--workdir=damaged"), "cannot be read"),
    "another program's manifest": ((TRAIN, "--workdir=foreign"), "expected a run's manifest"),
    "a manifest whose flags are a list": (
        (TRAIN, "--workdir=listed"),
        "expected a run's manifest",
    ),
    "another algorithm's run": ((TRAIN, "--workdir=planner"), "algorithm is mopp there"),
    "a run with other flags": (
        (TRAIN, "--workdir=unfinished", "--seed=4"),
        "--seed is 0 there and 4 now",
    ),
    "no models to take over": (data("good.hdf5", "--dynamics_from=nowhere"), "--dynamics_from"),
    # Commands on a run.
    "evaluate nothing": (("morel_tf.evaluate",), "--workdir"),
    "evaluate no run": (("morel_tf.evaluate", "--workdir=full"), "manifest.json"),
    "evaluate an unfinished run": (("morel_tf.evaluate", "--workdir=unfinished"), "unfinished"),
    "see what evaluating an unfinished run would take": (
        ("morel_tf.evaluate", "--workdir=unfinished", "--dry_run"),
        "not finished",
    ),
    "see what a run would take whose data cannot be made": (
        (TRAIN, "--env=Pendulum-v1", "--dry_run"),
        "no shipped behaviour policy",
    ),
    "see what a planner would take whose data cannot be made": (
        ("mopp_tf.train", "--env=ant", "--dry_run"),
        "no shipped behaviour policy",
    ),
    "evaluate the other algorithm's": (("mopp_tf.evaluate", "--workdir=unfinished"), "unfinished"),
    "no episodes": (("morel_tf.evaluate", "--workdir=unfinished", "--episodes=0"), "--episodes"),
    "inspect an unfinished run": (("morel_tf.inspect", "--workdir=unfinished"), "unfinished"),
    "tune an unfinished run": (("morel_tf.tune", "--workdir=unfinished"), "--workdir"),
    "tune another algorithm's": (("mopp_tf.tune", "--workdir=unfinished"), "--workdir"),
    "repeat an unfinished run": (("offline_tf.repro", "--workdir=unfinished"), "finished run"),
    "report on nothing": (("offline_tf.report",), "--workdir"),
    "report on no run": (("offline_tf.report", "--workdir=full"), "full"),
    "a report that is no page": (
        ("offline_tf.report", "--workdir=unfinished", "--output=report.doc"),
        ".html",
    ),
    "export an unfinished run": (
        ("morel_tf.export", "--workdir=unfinished", "--output=new"),
        "unfinished",
    ),
    "export over a folder": (("morel_tf.export", "--workdir=unfinished", "--output=full"), "full"),
    "film nothing": (("offline_tf.render",), "--workdir"),
    # Commands on an export.
    "predict without an export": (("offline_tf.predict", "--input=observations.csv"), "--export"),
    "predict from no export": (
        ("offline_tf.predict", "--export=full", "--input=observations.csv", "--output=new.csv"),
        "expected a run folder or an export",
    ),
    "an export without an interface": (
        (
            "offline_tf.predict",
            "--export=bare_export",
            "--input=observations.csv",
            "--output=new.csv",
        ),
        "interface.json",
    ),
    "a damaged export": (
        ("offline_tf.predict", "--export=export", "--input=observations.csv", "--output=new.csv"),
        "export",
    ),
    "no input": (
        ("offline_tf.predict", "--export=export", "--input=nowhere.csv", "--output=new.csv"),
        "nowhere.csv",
    ),
    "input of another kind": (
        ("offline_tf.predict", "--export=export", "--input=observations.xlsx", "--output=new.csv"),
        "observations.xlsx",
    ),
    "output that exists": (
        ("offline_tf.predict", "--export=export", "--input=observations.csv", "--output=taken.csv"),
        "taken.csv",
    ),
    "output of another kind": (
        ("offline_tf.predict", "--export=export", "--input=observations.csv", "--output=new.doc"),
        "new.doc",
    ),
    "serve nothing": (("offline_tf.serve",), "--export"),
    "serve no export": (
        ("offline_tf.serve", "--export=full"),
        "expected a run folder or an export",
    ),
    "a port that is none": (("offline_tf.serve", "--export=export", "--port=70000"), "--port"),
    # Making and converting data.
    "collect no steps": (
        ("offline_tf.collect", "--num_steps=0", "--output=new.hdf5"),
        "--num_steps",
    ),
    "collect over a file": (
        ("offline_tf.collect", "--num_steps=50", "--output=taken.hdf5"),
        "taken.hdf5",
    ),
    "no such policy": (
        ("offline_tf.collect", "--num_steps=50", "--policy=nowhere.npz", "--output=new.hdf5"),
        "nowhere.npz",
    ),
    "a file that is no policy": (
        ("offline_tf.collect", "--num_steps=50", "--policy=policy.npz", "--output=new.hdf5"),
        "policy.npz",
    ),
    "a zip that is none": (
        ("offline_tf.collect", "--num_steps=50", "--policy=policy.zip", "--output=new.hdf5"),
        "policy.zip",
    ),
    "a zip without a policy": (
        ("offline_tf.collect", "--num_steps=50", "--policy=empty.zip", "--output=new.hdf5"),
        "empty.zip",
    ),
    "another robot's policy": (
        ("offline_tf.collect", "--num_steps=50", "--policy=walker.npz", "--output=new.hdf5"),
        "walker.npz",
    ),
    "see what data of no task would take": (
        ("offline_tf.collect", "--env=hooper", "--output=new.hdf5", "--dry_run"),
        "hooper",
    ),
    "see what data of another robot's policy would take": (
        ("offline_tf.collect", "--policy=walker.npz", "--output=new.hdf5", "--dry_run"),
        "walker.npz",
    ),
    "see what data would take that cannot be written": (
        ("offline_tf.collect", "--output=good.hdf5/new.hdf5", "--dry_run"),
        "cannot be written",
    ),
    "other settings of a planner without a judge": (
        ("mopp_tf.train", "--dataset=good.hdf5", "--select=offline", "--judge_members=0"),
        "expected a judge",
    ),
    "convert nothing": (("offline_tf.datasets.convert", "--output=new.hdf5"), "--dataset"),
    "convert to nowhere": (("offline_tf.datasets.convert", "--dataset=good.hdf5"), "--output"),
    "convert over a file": (
        ("offline_tf.datasets.convert", "--dataset=good.hdf5", "--output=taken.hdf5"),
        "taken.hdf5",
    ),
    "look at nothing": (("offline_tf.datasets.doctor",), "--dataset"),
    "look at text": (("offline_tf.datasets.doctor", "--dataset=text.hdf5"), "text.hdf5"),
    "a plot of no record": (("offline_tf.results", "nowhere.json"), "nowhere.json"),
}


@pytest.fixture(scope="module")
def commands():
    found = forks.Commands()
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad") / "here"
    make_files(path)
    return path


def snapshot(folder):
    """Every path with its size and time."""
    paths = sorted(folder.rglob("*"))
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file()] + [
        str(p) for p in paths if p.is_dir()
    ]


def test_there_are_eighty_and_more():
    assert len(CASES) >= 80


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_ends_in_one_line_and_changes_nothing(commands, folder, name):
    words, says = CASES[name]
    before = snapshot(folder)
    assert not (folder / "new").exists()
    ended = commands.run(words, folder, D4RL_DATASET_DIR=str(folder / "d4rl"), HOME=str(folder))
    shutil.rmtree(folder / "new", ignore_errors=True)  # or the next cases would be judged by it
    assert ended.status == 2, ended
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), ended
    assert says in lines[0], ended
    assert snapshot(folder) == before
    assert not ended.out


def test_the_files_that_are_called_good_are_good(commands, folder):
    for name in ("good.hdf5", "good.npz"):
        ended = commands.run(
            ("offline_tf.datasets.convert", f"--dataset={name}", "--output=new"), folder
        )
        assert ended.status == 0, ended
        (folder / "new").unlink()


def test_debug_shows_the_traceback(commands, folder):
    ended = commands.run([*data("text.hdf5"), "--debug"], folder)
    assert ended.status == 1 and "Traceback" in ended.err and "UserError" in ended.err
