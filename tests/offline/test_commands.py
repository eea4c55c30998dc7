"""The table of commands in run.sh: every command is there, listed and explained."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
TABLE = re.search(r"<<'TABLE'\n(.*?)\nTABLE\n", (ROOT / "run.sh").read_text(), re.S)[1]
ROWS = [line.split(None, 2) for line in TABLE.splitlines() if not line.startswith("#")]
BINARIES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("offline_tf", "morel_tf", "mopp_tf")
    for path in (ROOT / package).rglob("*.py")
    if re.search(r'^if __name__ == "__main__":', path.read_text(), re.M)
} | {"benchmarks.campaign"}


def run(*words):
    return subprocess.run(["./run.sh", *words], cwd=ROOT, capture_output=True, text=True)


def test_the_script_is_sound():
    subprocess.run(["bash", "-n", "run.sh"], cwd=ROOT, check=True)


def test_every_binary_has_one_command_and_every_command_one_row():
    assert sorted(module for _, module, _ in ROWS if module != "-") == sorted(BINARIES)
    names = [name for name, _, _ in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]], ids=str)
def test_the_list_has_a_line_for_each_command(words):
    listed = run(*words)
    assert listed.returncode == 0 and not listed.stderr
    lines = [re.split(r"  +", line.strip(), maxsplit=1) for line in listed.stdout.splitlines()]
    assert [line for line in lines if len(line) == 2] == [[name, what] for name, _, what in ROWS]
    assert max(map(len, listed.stdout.splitlines())) <= 100
    for group in ("Learn", "Look", "Check data", "Deploy", "Many runs", "Develop"):
        assert f"\n\n{group}\n" in listed.stdout


@pytest.mark.parametrize("name", ["unknown", "#", "-", "mop", "morel_tf.train"])
def test_an_unknown_command_ends_with_the_error_and_status_2(name):
    found = run(name)
    assert found.returncode == 2 and not found.stdout
    expected = f"error: expected one of the commands above, got '{name}'"
    assert found.stderr.splitlines()[-1] == expected


def test_the_page_of_commands_names_them_all():
    page = (ROOT / "docs" / "commands.md").read_text()
    named = set(re.findall(r"`([a-z-]+)[ `]", page))
    assert {name for name, _, _ in ROWS} <= named
