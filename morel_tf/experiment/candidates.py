"""Other settings for a finished run, on its models, ranked by the judge; no simulator decides."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from morel_tf.experiment import restore
from morel_tf.experiment.configs import Configs, check, from_manifest
from morel_tf.planning import pessimistic_mdp, start
from offline_tf import tasks
from offline_tf.models import compilation
from offline_tf.pipeline import tuning
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, UserError

Setting = tuple[dict[str, Any], str]  # flags, and why they may help
_WIDER = 0.69  # log standard deviation: twice the spread


class Own(NamedTuple):
    """What a run was planned with, rules included; see the flags of these names.

    Attributes:
      kl_per_update: nats.
      cut_share: None where another rule than auto sets the threshold.
      bc_share: share of the episodes that were cloned.
      start_mix: share of start states from all data.
      init_log_std: [A] first noise, in the policy's units.
      least_log_std, max_log_std: its bounds.
    """

    kl_per_update: float
    cut_share: float | None
    bc_share: float
    start_mix: float
    init_log_std: Array
    least_log_std: float
    max_log_std: float


def own_of(record: RunRecord, configs: Configs) -> Own:
    """Reads what a finished run was planned with.

    Args:
      record: of the run.
      configs: its flags.
    """
    planner, task = configs.planner, tasks.get(configs.run.env, configs.run.simulator)
    begun = restore.load_cloned(configs, task, record)
    share = configs.cloning.bc_share
    return Own(
        kl_per_update=planner.kl_per_update,
        cut_share=configs.usad.cut_share if configs.usad.threshold_rule == "auto" else None,
        bc_share=record.stage(start.STAGE).result.get("share", 1.0 if share is None else share),
        start_mix=pessimistic_mdp.start_mix(configs.pmdp, task),
        init_log_std=begun.log_std.numpy() - np.log(begun.units.output_scale),
        least_log_std=planner.least_log_std,
        max_log_std=planner.max_log_std,
    )


def others(own: Own) -> list[Setting]:
    """Settings that plan otherwise than the run did: flags, and why they may help.

    The wider noise has twice the spread, in the geometric mean over the actions and within the bounds.
    It is left out where some action's own noise is no narrower.
    """
    cut_share = own.cut_share
    twice = round(float(own.init_log_std.mean()) + _WIDER, 2)
    wider = min(max(twice, own.least_log_std), own.max_log_std)
    settings: list[tuple[bool, dict[str, Any], str]] = [
        (
            own.kl_per_update > 0.005,
            {"kl_per_update": 0.005},
            "smaller steps stay nearer to the data",
        ),
        (
            cut_share is not None and cut_share < 0.3,
            {"cut_share": 0.3},
            "a tighter threshold: more is unknown",
        ),
        (
            cut_share is not None and cut_share > 0.02,
            {"cut_share": 0.02},
            "a looser threshold: more is known",
        ),
        (own.bc_share != 0.1, {"bc_share": 0.1}, "begins with the best tenth of the episodes"),
        (own.bc_share != 1.0, {"bc_share": 1.0}, "begins with all episodes"),
        (wider > own.init_log_std.max(), {"init_log_std": wider}, "explores more widely"),
        (
            own.start_mix < 0.5,
            {"start_mix": 0.5},
            "paths begin in the middle of episodes too",
        ),
    ]
    return [(flags, why) for differs, flags, why in settings if differs]


def settings_of(record: RunRecord, configs: Configs) -> list[Setting]:
    """What is worth planning with beside a finished run; see `others`.

    Args:
      record: of the run.
      configs: its flags.
    """
    return others(own_of(record, configs))


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

    Left out is what would change nothing, and what the run's other flags forbid. Each candidate is a
    run folder of its own; finished ones are read again. The table lies in
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
    tuning.write(record.folder, [c._asdict() for c in found])
    for flags, why in _allowed(settings_of(record, configs), configs):
        folder = parent / "-".join(f"{k}={v}" for k, v in flags.items())
        done, now = (folder / "summary.json").exists(), time.monotonic()
        if not done and now - began + longest > 60.0 * minutes:
            logging.info("tune: %s is left for another time", tuning.name_of(flags))
            continue
        if not done:
            run(changed(configs, {**flags, "workdir": str(folder), "inspection": False}, record))
            longest = max(longest, time.monotonic() - now)
        found.append(_candidate(flags, why, RunRecord.open_existing(folder)))
        found.sort(key=lambda candidate: -candidate.promise)
        tuning.write(record.folder, [c._asdict() for c in found])
    return found


def _allowed(settings: list[Setting], configs: Configs) -> list[Setting]:
    """Those that go together with the run's other flags."""
    allowed = []
    for flags, why in settings:
        try:
            check(changed(configs, flags))
        except UserError as error:
            logging.info("tune: %s is left out: %s", tuning.name_of(flags), error)
        else:
            allowed.append((flags, why))
    return allowed


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


def table(found: list[Candidate]) -> list[str]:
    """Lines for a person: a heading, and one for each setting."""
    width = max(len(candidate.name) for candidate in found)
    lines = [f"{'setting':<{width}}  promise  expected   HALT  verdict"]
    return lines + [
        f"{c.name:<{width}}  {c.promise:7.1f}  {c.expected:8.1f}  {c.halt_share:5.2f}  {c.verdict}"
        + (f"  ({c.why})" if c.why else "")
        for c in found
    ]


def in_words(found: list[Candidate]) -> str:
    """The table, and what to do with the best."""
    lines, best = table(found), found[0]
    if best.flags:
        lines.append(f"the judge promises most with {best.name}; its run is in {best.folder}")
        lines.append(tuning.HOW_TO_TAKE_OVER)
    else:
        lines.append("the judge promises most of the run as it is")
    return "\n".join(lines)
