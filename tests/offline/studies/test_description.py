import pathlib

import pytest

from offline_tf.studies import description
from offline_tf.types import UserError


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return description.read(path)


def test_lists_are_multiplied_and_names_tell_the_runs_apart(tmp_path):
    study = read(
        tmp_path,
        """
[flags]
preset = "quick"
inspection = false
[[runs]]
algorithm = ["morel", "mbop"]
dataset = ["logs/a.hdf5", "logs/b.hdf5"]
seed = [0, 1]
[[runs]]
algorithm = "mopp"
env = "plants/reactor.toml"
q_hidden = "256,256"
""",
    )
    assert study.folder.parts == ("runs", "studies", "mine") and study.search is None
    assert len(study.runs) == 9
    assert {"morel-a-seed0", "morel-b-seed1", "mbop-a-seed1", "mopp-reactor"} < set(study.runs)
    job = study.job("mbop-b-seed1", study.runs["mbop-b-seed1"], 2)
    assert job.words == [
        "mopp_tf.train",
        "--algorithm=mbop",
        "--preset=quick",
        "--noinspection",
        "--dataset=logs/b.hdf5",
        "--seed=1",
        "--threads=2",
    ]
    # Other machines begin elsewhere.
    assert job.folder == pathlib.Path.cwd() / study.folder / "mbop-b-seed1"
    assert job.cwd == pathlib.Path.cwd()
    assert job.log.name == "mbop-b-seed1.log" and job.end.name == "mbop-b-seed1.end.json"
    mopp = description.words_of(study.runs["mopp-reactor"])
    assert mopp[0] == "mopp_tf.train" and "--q_hidden=256,256" in mopp


RUNS = '[[runs]]\nalgorithm = "morel"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"expected \[\[runs\]\] in .*, found none"),
        ("runs = 3", r"expected \[\[runs\]\]"),
        ("[[runs]]\nseed = 1", "expected algorithm = one of morel, mopp, mbop .*, got none"),
        ('[[runs]]\nalgorithm = ["morel", "sac"]', "expected algorithm = .*, got 'sac'"),
        (RUNS + "seed = []", "expected a value or a list of values for seed"),
        (RUNS + "q_hidden = [[256, 256]]", "of a flag with commas write a string"),
        (RUNS + 'workdir = "here"', "workdir in .* is given by the study"),
        (RUNS + RUNS, "has the run morel-[0-9a-f]{6} twice"),
        ("name = 3\n" + RUNS, "expected the name of a folder for name .*, got 3"),
        ('name = "../../x"\n' + RUNS, "expected the name of a folder"),
        ("folder = 3\n" + RUNS, "expected a path for folder"),
        ("flags = 3\n" + RUNS, r"expected a table \[flags\]"),
        (RUNS + "[search.space]\nthreads = [1, 2]", "threads in .* is given by the study"),
        (RUNS + "[search.space]\nx = {low = 2, high = 1}", "numbers with low < high"),
        (RUNS + "[search.space]\nx = {low = 0, high = 1, log = true}", "low > 0 with log"),
        (RUNS + "[search]\nwarm_up = 1.5\n[search.space]\nx = [1]", "warm_up of -1 or more"),
        ("sedes = 3\n" + RUNS, "expected name, folder, .* at the top of .*, got 'sedes'"),
        (RUNS + "seed = ", "is no TOML"),
        (RUNS + "[search]\ncandidates = 3", r"expected flags under \[search.space\]"),
        (RUNS + '[search.space]\nhorizon = "4"', "expected a list, or {low"),
        (RUNS + "[search]\ncandidates = 0\n[search.space]\nhorizon = [2, 4]", "1 or more"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)


def test_runs_that_their_names_do_not_tell_apart_get_a_sign(tmp_path):
    table = '[[runs]]\nalgorithm = "mopp"\ndataset = ["a/log.csv", "b/log.csv"]\n'
    names = list(read(tmp_path, table).runs)
    assert len(set(names)) == 2 and all(name.startswith("mopp-log-") for name in names)
    # They keep it whatever their order is.
    assert set(
        read(tmp_path, table.replace('"a/log.csv", "b/log.csv"', '"b/log.csv", "a/log.csv"')).runs
    ) == set(names)
    named = read(tmp_path, '[[runs]]\nalgorithm = "mopp"\nenv = "x.py:TANK"\n')
    assert list(named.runs) == ["mopp-TANK"]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="found no .*none.toml"):
        description.read(tmp_path / "none.toml")


def test_a_search_has_ranges_and_lists(tmp_path):
    space = "[search.space]\nhorizon = [2, 4]\nkl = {low = 0.01, high = 0.1, log = true}\n"
    study = read(tmp_path, RUNS + "[search]\ncandidates = 5\n" + space)
    assert study.search.candidates == 5 and study.search.warm_up == 3
    assert study.search.space["kl"] == {"low": 0.01, "high": 0.1, "log": True}
