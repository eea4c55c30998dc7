"""A search over flags with a toy in the place of training; needs requirements-study.txt."""

import json

import pytest

from offline_tf.studies import conduct, description, pools, search
from offline_tf.types import UserError

TOY = """
import json, pathlib, sys, time
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, x = pathlib.Path(flags["workdir"]), float(flags["x"])
(folder / "metrics").mkdir(parents=True, exist_ok=True)
log = folder / "metrics" / "planning.judge.csv"
log.write_text("step,promise\\n" + "".join(f"{n},{-(x - 3) ** 2}\\n" for n in range(4)))
if flags["kind"] == "bad" and x > 4:
    level = "bad"
else:
    level = "green"
(folder / "summary.json").write_text(
    json.dumps({"promise": -((x - 3) ** 2), "verdict": {"level": level}})
)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(description.ALGORITHMS, "morel", "toy")
    space = {"x": {"low": 0.0, "high": 8.0}}
    searched = description.Search(space, candidates=6, warm_up=-1)
    return description.Study(tmp_path / "study", {"base": {}}, searched)


FLAGS = {"algorithm": "morel", "kind": "good", "x": 7.5}


def test_the_most_promising_candidate_is_first_and_the_runs_own_is_tried(study):
    pytest.importorskip("optuna")
    source = search.Search(study, "base", FLAGS, 1)
    conduct.conduct(source, pools.LocalPool(2))
    found = source.ranking()
    assert len(found) == 6 and found[0].worth == max(each.worth for each in found)
    assert {"x": 7.5} in [each.flags for each in found]
    kept = json.loads((study.folder / "base.search.json").read_text())
    assert [each["name"] for each in kept] == [each.name for each in found]
    assert search.in_words(found)[-1] == f"most is promised by {found[0].name}"
    # The same search again has nothing left.
    again = search.Search(study, "base", FLAGS, 1)
    assert again.next() is None and again.ranking() == found


def test_what_cannot_be_relied_on_is_not_chosen(study):
    pytest.importorskip("optuna")
    source = search.Search(study, "base", FLAGS | {"kind": "bad"}, 1)
    conduct.conduct(source, pools.LocalPool(2))
    by_name = {each.name: each for each in source.ranking()}
    assert by_name["base-try000"].worth is None and by_name["base-try000"].verdict == "bad"


def test_a_candidate_below_the_others_is_stopped(study):
    optuna = pytest.importorskip("optuna")
    del optuna
    source = search.Search(
        study._replace(search=study.search._replace(warm_up=1)), "base", FLAGS, 1
    )
    jobs = []
    for number, promise in enumerate([5.0, 6.0, 7.0, 8.0, 1.0, 9.0]):
        job = source.next()
        log = job.folder / "metrics" / "planning.judge.csv"
        log.parent.mkdir(parents=True)
        log.write_text(f"step,promise\n0,{promise}\n")
        stopped = source.to_stop([job])
        assert bool(stopped) == (number == 4), number
        if number < 4:
            summary = {"promise": promise, "verdict": {"level": "green"}}
            (job.folder / "summary.json").write_text(json.dumps(summary))
        jobs.append(job)
        if number < 4:
            source.ended(job, pools.End(0, "", 1.0, ""))
        elif number == 4:
            source.ended(job, pools.End(143, "", 1.0, ""))
    stopped = {each.name: each for each in source.ranking()}["base-try004"]
    assert (stopped.verdict, stopped.worth) == ("stopped", None)
    # Nor does one that goes on propose what was proposed.
    more = study._replace(search=study.search._replace(candidates=8))
    fresh = search.Search(more, "base", FLAGS, 1)
    fresh._open = []
    proposed = fresh.next()
    assert proposed.words not in [job.words for job in jobs]
    # One that was running when the search was killed is tried again, under its name.
    again = search.Search(study, "base", FLAGS, 1)
    assert again.next() == jobs[5]


def test_a_space_that_has_changed_is_told(study):
    pytest.importorskip("optuna")
    space = {"x": [7.5, 3.0]}
    study = study._replace(search=study.search._replace(space=space))
    search.Search(study, "base", FLAGS, 1).next()
    other = study._replace(search=study.search._replace(space={"x": [1.0, 2.0]}))
    with pytest.raises(UserError, match=r"\[search.space\] has changed"):
        search.Search(other, "base", FLAGS, 1).next()


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    log = tmp_path / "metrics" / "planning.judge.csv"
    log.parent.mkdir()
    log.write_text("step,promise\n0,1.5\n1,-")
    assert search.looks_of(tmp_path) == [1.5] and search.looks_of(tmp_path / "none") == []


def test_without_optuna_the_error_says_what_to_install(study, monkeypatch):
    monkeypatch.setitem(search.install_hints.importlib.sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"\[search\] needs optuna: .*requirements-study.txt"):
        search.Search(study, "base", FLAGS, 1)
