"""Other settings for a finished run, on its models, ranked by the judge; no simulator decides."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging

from morel_tf.experiment.configs import Configs, from_manifest
from offline_tf.models import compilation
from offline_tf.pipeline import tuning
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

# What is changed -> why it may help. Names are flags.
CANDIDATES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"kl_per_update": 0.005}, "smaller steps stay nearer to the data"),
    ({"cut_share": 0.3}, "a tighter threshold: more is unknown"),
    ({"cut_share": 0.02}, "a looser threshold: more is known"),
    ({"bc_share": 0.1}, "begins with the best tenth of the episodes"),
    ({"bc_share": 1.0}, "begins with all episodes"),
    ({"init_log_std": -1.0}, "explores more widely"),
    ({"start_mix": 0.5}, "paths begin in the middle of episodes too"),
)


class Candidate(NamedTuple):
    """One setting and what the judge says of its policy.

    Attributes:
      flags: what differs from the run; empty for the run itself.
      why: it may help.
      promise, expected, halt_share: of the judge.
      verdict: "green", "doubtful" or "bad".
      folder: of its run.
    """

    flags: dict[str, Any]
    why: str
    promise: float
    expected: float
    halt_share: float
    verdict: str
    folder: str

    @property
    def name(self) -> str:
        """The flags as one would give them."""
        return tuning.name_of(self.flags)


def rank(
    record: RunRecord,
    minutes: float,
    run: Callable[[Configs], dict[str, Any]],
    parent: pathlib.Path | None = None,
) -> list[Candidate]:
    """Plans with every candidate setting on the run's models, best promise first.

    Each candidate is a run folder of its own; finished ones are read again. The table lies in
    RUN/tune.json, the flags of the best one in RUN/tune.flags.

    Args:
      record: a finished run with a judge.
      minutes: a candidate that would not be done by then, if it took as long as the longest before,
        is not begun.
      run: `recipe.run`.
      parent: of the candidates' folders; None: RUN/tune.

    Raises:
      UserError: the run has no judge.
    """
    # Candidates are tried on this machine, and a stage's variables begin TensorFlow's threads.
    configs = changed(from_manifest(record.manifest), {"devices": "1"})
    compilation.use_threads(configs.run.threads)
    if not record.stage("judge").complete or not record.stage("planning").complete:
        raise UserError(
            f"--workdir: expected a finished run with a judge in {record.folder}; train it with "
            "--judge_members=3"
        )
    parent = parent or record.folder / "tune"
    began, longest = time.monotonic(), 0.0
    found = [_candidate({}, "", record)]
    for flags, why in CANDIDATES:
        if all(configs.flat()[name] == value for name, value in flags.items()):
            continue
        folder = parent / "-".join(f"{k}={v}" for k, v in flags.items())
        done, now = (folder / "summary.json").exists(), time.monotonic()
        if not done and now - began + longest > 60.0 * minutes:
            logging.info("tune: %s is left for another time", flags)
            continue
        if not done:
            run(changed(configs, {**flags, "workdir": str(folder), "inspection": False}, record))
            longest = max(longest, time.monotonic() - now)
        found.append(_candidate(flags, why, RunRecord.open_existing(folder)))
        found.sort(key=lambda candidate: -candidate.promise)
        tuning.write(record.folder, [c._asdict() for c in found])
    return found


def changed(configs: Configs, flags: dict[str, Any], models: RunRecord | None = None) -> Configs:
    """The configuration with other values, on a run's models where one is given."""
    if models is not None:
        flags = {**flags, "dynamics_from": str(models.folder)}
    parts: list[Any] = []
    for part in configs:
        names = {field.name for field in dataclasses.fields(part)}
        own = {name: value for name, value in flags.items() if name in names}
        parts.append(dataclasses.replace(part, **own) if own else part)
    return Configs(*parts)


def _candidate(flags: dict[str, Any], why: str, record: RunRecord) -> Candidate:
    planned = record.stage("planning").result
    summary = files.read_json(record.folder / "summary.json", "workdir")
    return Candidate(
        flags=flags,
        why=why,
        promise=planned["promise"],
        expected=planned["expected"],
        halt_share=planned["halted_share"],
        verdict=summary["verdict"]["level"],
        folder=str(record.folder),
    )


def in_words(found: list[Candidate]) -> str:
    """The table, and the flags of the best."""
    width = max(len(candidate.name) for candidate in found)
    lines = [f"{'setting':<{width}}  promise  expected   HALT  verdict"]
    lines += [
        f"{c.name:<{width}}  {c.promise:7.1f}  {c.expected:8.1f}  {c.halt_share:5.2f}  {c.verdict}"
        + (f"  ({c.why})" if c.why else "")
        for c in found
    ]
    best = found[0]
    if best.flags:
        lines.append(f"the judge promises most with {best.name}; its run is in {best.folder}")
        lines.append(tuning.HOW_TO_TAKE_OVER)
    else:
        lines.append("the judge promises most of the run as it is")
    return "\n".join(lines)
