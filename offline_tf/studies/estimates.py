"""What the runs of a study would take: each kind is asked with --dry_run, once per study."""

from __future__ import annotations

import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from offline_tf.pipeline import dry_run
from offline_tf.run_folder import stopping
from offline_tf.run_folder.files import write_json
from offline_tf.studies import description
from offline_tf.types import UserError

_FILE = "estimates.json"


class Estimate(NamedTuple):
    """Of one run, from its beginning.

    Attributes:
      minutes: on an idle machine, with its threads.
      memory: bytes at its peak.
    """

    minutes: float
    memory: float


def of_runs(
    study: description.Study, names: Sequence[str], threads: int, keep: bool
) -> dict[str, Estimate]:
    """Run -> what it would take; runs that differ by their seed alone are asked once.

    Args:
      study: its runs.
      names: of those that are asked; of a search, a candidate of each.
      threads: of each.
      keep: whether the answers are kept in the study's folder, or only read from there.

    Raises:
      UserError: a run's flags are wrong.
    """
    path = study.folder / _FILE
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = {}
    for name in names:
        stopping.check()
        flags = study.runs[name] | (study.search.example() if study.search else {})
        words = description.words_of({key: flags[key] for key in flags if key != "seed"})
        words.append(f"--threads={threads}")
        kind = shlex.join(words)
        if kind not in known:
            known[kind] = list(_asked(name, words, study.folder / name))
            if keep:
                write_json(path, known)
        found[name] = Estimate(*known[kind])
    return found


def _asked(name: str, words: list[str], folder: pathlib.Path) -> Estimate:
    """Asks a run that has not begun; one that has is asked in another folder."""
    new = folder.with_name(f"{folder.name}.estimate")
    command = [sys.executable, "-m", *words, f"--workdir={new}", "--dry_run"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        raise UserError(f"--study: {name}: {said[-1][7:] if said else done.stderr[-400:]}")
    return Estimate(*dry_run.read_words(done.stdout))
