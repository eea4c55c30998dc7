from __future__ import annotations

import sys

import pytest

from offline_tf import process


@pytest.mark.parametrize(
    "given, kept",
    [
        ("--env=hopper --seed=3", "--env=hopper --seed=3"),
        ("--workdir=a --env=hopper", "--env=hopper"),
        ("--workdir a --env hopper", "--env hopper"),
        ("--quiet --env=hopper --max_hours=2 --verbose", "--env=hopper"),
        ("--max_hours 2 --env=hopper", "--env=hopper"),
        ("--noinspection --env=hopper", "--env=hopper"),
        ("--inspection --noprune --env=hopper", "--noprune --env=hopper"),
    ],
)
def test_a_command_names_what_decides_the_result_and_nothing_else(monkeypatch, given, kept):
    monkeypatch.setattr(sys, "argv", ["binary", *given.split()])
    assert process.command(("workdir", "threads", "inspection")).endswith(kept)
    assert process.command(("workdir", "threads", "inspection")).split()[0] == "python"
    assert len(process.command(("workdir", "inspection")).split()) <= 3 + len(kept.split())
