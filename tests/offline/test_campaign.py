"""Campaigns: nothing is lost when a run fails, or when two write one record."""

import json
import multiprocessing
import sys

import pytest

from benchmarks import campaign
from offline_tf.reports import campaign_record


def _summary(seed, **more):
    return {"algorithm": "toy", "dataset": "d", "seed": seed, "commit": "c", **more}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A command that leaves what its flags say in its folder."""
    (tmp_path / "toy.py").write_text(
        "import json, pathlib, sys\n"
        "flags = dict(word.removeprefix('--').split('=', 1) for word in sys.argv[1:])\n"
        "if flags['kind'] == 'fails': sys.exit(3)\n"
        "folder = pathlib.Path(flags['workdir']); folder.mkdir()\n"
        f"summary = {_summary(0)!r} | {{'seed': int(flags['seed'])}}\n"
        "if flags['kind'] == 'other': del summary['dataset']\n"
        "(folder / 'summary.json').write_text(json.dumps(summary))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_failures_are_counted_and_the_rest_is_done(here, monkeypatch, capsys):
    kinds = ["other", "fails", "other", "good", "good"]
    lines = [f"toy --kind={kind} --seed={seed}" for seed, kind in enumerate(kinds)]
    (here / "list.txt").write_text("# a comment\n" + "\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["campaign", "list.txt", "--record=record.json"])
    assert campaign.main() == 3
    record = json.loads((here / "record.json").read_text())
    assert [run["seed"] for run in record] == [3, 4]
    assert record[0]["command"] == "python -m toy --kind=good --seed=3"
    said = capsys.readouterr().out
    assert "5 of 5 runs to do" in said and said.count("not recorded: KeyError('dataset')") == 2
    (here / "list.txt").write_text("\n".join(lines[3:]))
    assert campaign.main() == 0
    assert "0 of 2 runs to do" in capsys.readouterr().out


def test_a_name_stands_for_a_list_or_for_all_of_its_kind(here):
    (here / "mine.txt").write_text("")
    assert [path.name for path in campaign.lists_of("mine.txt")] == ["mine.txt"]
    assert [path.name for path in campaign.lists_of("mopp-default")] == ["mopp-default.txt"]
    assert "papers-morel.txt" in [path.name for path in campaign.lists_of("papers")]


def test_an_unknown_list_is_told(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["campaign", "pappers"])
    assert campaign.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    names = ", ".join(sorted(path.stem for path in campaign._LISTS.glob("*.txt")))
    assert line == f"error: expected the file of a list, or one of {names}, got pappers"


def test_morels_list_has_each_cell_of_the_paper_three_times():
    (path,) = campaign.lists_of("papers-morel")
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    cells = [(line.split()[1], line.split()[2], line.split()[4]) for line in lines]
    assert len(set(cells)) == len(lines) == 4 * 5 * 3
    assert all("--preset=rules" in line for line in lines)


def _add(path, seeds):
    for seed in seeds:
        campaign_record.add(path, [_summary(seed)], "command")


def test_two_processes_write_one_record_and_lose_nothing(tmp_path):
    path = tmp_path / "record.json"
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_add, args=(path, range(first, 60, 3))) for first in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [run["seed"] for run in json.loads(path.read_text())] == list(range(60))
