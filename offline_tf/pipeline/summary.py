"""summary.json: what a run was, what it measured, how long it took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import logging

from offline_tf.models import learned_task
from offline_tf.pipeline.run import FREE_FLAGS, Experiment
from offline_tf.reports import report_layout, tensorboard
from offline_tf.reports.report_layout import Layout
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.tasks import environments


def write(
    experiment: Experiment[Any],
    *,
    algorithm: str,
    settings: dict[str, Any],
    results: dict[str, Any],
    fitted: dict[str, Any],
    in_words: Callable[[dict[str, Any]], str],
    report: Layout,
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened.

    Args:
      experiment: the run.
      algorithm: as tables name it.
      settings: knobs that tables show.
      results: what was measured; "true_return_mean", where it is there, is turned into D4RL's score.
      fitted: numbers of the fitted models, and of what the data decided.
      in_words: the summary as a person would say it.
      report: names the numbers by which runs are compared.

    Returns:
      The summary.
    """
    record, task, run = experiment.record, experiment.task, experiment.configs.run
    stages = {name: entry["seconds"] for name, entry in record.results().items()}
    mean_return = results.get("true_return_mean")
    summary = {
        "algorithm": algorithm,
        "env": task.name,
        "dataset": experiment.dataset,
        "physics": environments.physics_of(task, run.physics),
        "preset": run.preset,
        "seed": run.seed,
        "commit": record.commits,
        "command": provenance.command(FREE_FLAGS),
        **settings,
        "training_dtype": record.manifest.get("training_dtype"),
        "behavior_return": record.manifest["behavior_return"],
        **{name: value for name, value in results.items() if name != "real_environment"},
        "normalized_score": None if mean_return is None else task.normalized_score(mean_return),
        **fitted,
        **learned_task.errors(record),
        "wall_seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "export": str(record.folder / "export"),
    }
    write_json(record.folder / "summary.json", summary)
    flags = {k: v for k, v in experiment.configs.flat().items() if k not in FREE_FLAGS}
    tensorboard.show_run(record, flags, report_layout.numbers_of(report, summary))
    logging.info("%s", in_words(summary))
    return summary


def heading(summary: dict[str, Any]) -> str:
    """The first line of a summary in words: what ran, on what, for how long."""
    return (
        f"{summary['algorithm']} on {summary['dataset']} ({summary['physics']} physics), "
        f"seed {summary['seed']}, {summary['wall_seconds']:.0f} s:"
    )


NOTHING_RAN = "  nothing was run in a real environment: the task declares no simulator"
