"""Other settings for a finished run's planner, ranked by the judge; no simulator decides."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from mopp_tf import algorithm
from mopp_tf.experiment import recipe
from mopp_tf.experiment.configs import from_manifest
from mopp_tf.planning import choice
from offline_tf.models import compilation
from offline_tf.pipeline import tuning
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError


class Candidate(NamedTuple):
    """One setting and what the judge says of a planner with it.

    Attributes:
      flags: what differs from the run's.
      gain: over the clone, a lower bound; see `judge.gain`.
      promise, expected, halt_share: of the judge, over its few starts and steps.
      is_own: whether the run acts by it.
    """

    flags: dict[str, Any]
    gain: float
    promise: float
    expected: float
    halt_share: float
    is_own: bool


def rank(record: RunRecord, minutes: float) -> list[Candidate]:
    """Judges other settings of the planner, those that gain most over the clone first.

    What was judged is kept in the run folder. The table lies in RUN/tune.json, the flags of the best
    one in RUN/tune.flags.

    Args:
      record: a finished run with a judge.
      minutes: of judging; see `choice.compare_more`.

    Raises:
      UserError: the run has no judge, or its data are no longer there.
    """
    configs = from_manifest(record.manifest)
    compilation.use_threads(configs.run.threads)  # a stage's variables begin TensorFlow's threads
    stage = record.stage(choice.STAGE)
    if not stage.complete or "changes" not in stage.result:
        raise UserError(
            f"--workdir: expected a finished run of MOPP with a judge in {record.folder}; train it "
            "with --judge_members=3"
        )
    known = stage.result["changes"]
    here = dataclasses.replace(configs.run, workdir=str(record.folder), devices="1")
    experiment, prepared = recipe.begin(configs._replace(run=here))
    learned = recipe.learn(experiment, prepared)
    assert isinstance(learned, algorithm.Learned) and prepared.few_starts is not None
    judged_by = algorithm.judging(
        experiment.task,
        models=learned.models,
        prepared=prepared,
        limit=learned.limit,
        seed=configs.run.seed,
    )
    planner = algorithm.by_rules(configs.planner, experiment.record)
    comparison = choice.Comparison(
        planner,
        judged_by(prepared.few_starts, after_halt=prepared.few_go_on),
        experiment.record,
    )
    for name, changes in known.items():
        if name != choice.CLONE:
            comparison.add(name, changes)
    if len(comparison.changes) == 1:
        comparison.add("planner", {"plan": "always"})
    choice.compare_more(comparison, minutes)
    found = [
        Candidate(
            comparison.changes[name],
            gain=numbers["gain"],
            promise=numbers["promise"],
            expected=numbers["expected"],
            halt_share=numbers["halted_share"],
            is_own=comparison.changes[name] == stage.result["knobs"],
        )
        for name, numbers in comparison.judged().items()
    ]
    found.sort(key=lambda candidate: -candidate.gain)
    tuning.write(record.folder, [candidate._asdict() for candidate in found])
    return found


def in_words(found: list[Candidate]) -> str:
    """The table, and what to do with it."""
    names = [tuning.name_of(candidate.flags) for candidate in found]
    width = max(map(len, names))
    lines = [f"{'setting':<{width}}     gain  promise  expected   HALT"]
    lines += [
        f"{name:<{width}}  {c.gain:7.1f}  {c.promise:7.1f}  {c.expected:8.1f}  {c.halt_share:5.2f}"
        + ("  (the run acts by it)" if c.is_own else "")
        for name, c in zip(names, found, strict=True)
    ]
    if found[0].is_own:
        lines.append(f"the judge sees most in {names[0]}, by which the run acts already")
    else:
        lines += [f"the judge sees most in {names[0]}", tuning.HOW_TO_TAKE_OVER]
    return "\n".join(lines)
