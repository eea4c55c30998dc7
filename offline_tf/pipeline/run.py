"""A run of either algorithm: how it begins, and how a stage is done once.

Each algorithm's `experiment/recipe.py` is the list of its stages; what both do is here.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from absl import logging

from offline_tf import tasks
from offline_tf.config import knobs
from offline_tf.models import compilation, devices, learned_task, networks
from offline_tf.pipeline import opening
from offline_tf.reports import report_layout, tensorboard
from offline_tf.reports.report_layout import Layout
from offline_tf.reports.tensorboard import Chart
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import TaskSpec, Transitions

# Flags that may differ when a run is continued: they do not decide the result.
FREE_FLAGS = ("workdir", "data_dir", "threads", "devices", "inspection")


class Configs(Iterable[Any], Protocol):
    """The stage dataclasses of a run, as each algorithm's `experiment/configs.py` has them."""

    @property
    def run(self) -> Any:
        """Environment, data, seed, threads."""

    def flat(self) -> dict[str, Any]:
        """All flags by name."""


C = TypeVar("C", bound=Configs)


class Algorithm(NamedTuple, Generic[C]):
    """What the beginning of a run has to know of an algorithm.

    Attributes:
      name: as in the manifest.
      module: runs it: python -m MODULE.
      folder_of: where the run goes.
      check: raises UserError where flags do not go together; reads nothing.
      load_data: (configs, task, threads of simulators) -> the data and their name.
      reused_run: (configs, data, their hash) -> the run whose models are taken over, or None; raises
        UserError where the run cannot begin.
      fits_something: (configs, run whose models are taken over) -> whether this run fits a model.
      precision: of matrix products while fitting, as in --precision.
      fits: the stages that fit models.
      compiled: the stage whose graphs --compile makes.
      learns_reward: whether a reward that the task lacks is learned beside the termination.
      charts: for TensorBoard.
      report: the panels and numbers of the HTML page.
    """

    name: Callable[[C], str]
    module: str
    folder_of: Callable[[C], pathlib.Path]
    check: Callable[[C], None]
    load_data: Callable[[C, TaskSpec, int], tuple[Transitions, str]]
    reused_run: Callable[[C, Transitions, str], RunRecord | None]
    fits_something: Callable[[C, RunRecord | None], bool]
    precision: Callable[[C], str]
    fits: Sequence[str]
    compiled: str
    learns_reward: bool
    charts: Sequence[Chart]
    report: Layout


class Experiment(NamedTuple, Generic[C]):
    """A run that has begun.

    Attributes:
      configs: all knobs.
      task: with a reward and a termination, learned from the data where it declares none.
      data: what is learned from.
      dataset: the data's name.
      record: the run folder.
      reused: the run whose models are taken over, or None.
      threads: of TensorFlow and of simulators.
    """

    configs: C
    task: TaskSpec
    data: Transitions
    dataset: str
    record: RunRecord
    reused: RunRecord | None
    threads: int

    def once(self, name: str, work: Callable[[Stage], Any]) -> Any:
        """Does a stage, or reads the result that an earlier try has stored.

        Args:
          name: of the stage.
          work: does it; returns a result of JSON types.
        """
        stage = self.record.stage(name)
        return stage.result if stage.complete else stage.finish(work(stage))


def begin(algorithm: Algorithm[C], configs: C) -> Experiment[C]:
    """Checks flags and data, opens the run folder and notes what the run computes with.

    Args:
      algorithm: whose run it is.
      configs: all knobs.

    Raises:
      UserError: bad input; the run folder is as before.
    """
    algorithm.check(configs)
    settings = configs.run
    threads = compilation.use_threads(settings.threads)
    devices.use_devices(settings.devices)
    compiler = compilation.use_compiler(settings.compile)
    task = tasks.get(settings.env, settings.simulator)
    opened = opening.open_run(
        devices.own_folder(algorithm.folder_of(configs)),
        algorithm=algorithm.name(configs),
        flags=configs.flat(),
        free_flags=FREE_FLAGS,
        defaults=knobs.of_older_runs(configs),
        task=task,
        load=lambda: algorithm.load_data(configs, task, threads),
        reused_run=lambda data, data_hash: algorithm.reused_run(configs, data, data_hash),
    )
    devices.let_others_copy(opened.record.folder)
    dtype = networks.product_dtype(algorithm.precision(configs)).name
    _note_means(
        algorithm,
        configs=configs,
        record=opened.record,
        reused=opened.reused,
        dtype=dtype,
        compiler=compiler,
    )
    words = [compilation.in_words(threads, dtype), devices.in_words()]
    logging.info("%s", ", ".join(filter(None, words)))
    tensorboard.show_charts(opened.record, algorithm.charts)
    opened.record.note(module=algorithm.module)
    report_layout.write(opened.record.folder, algorithm.report)
    task = learned_task.complete(
        task, opened.data, settings.seed, opened.record, reward=algorithm.learns_reward
    )
    return Experiment(
        configs, task, opened.data, opened.dataset, opened.record, opened.reused, threads
    )


def _note_means(
    algorithm: Algorithm[C],
    *,
    configs: C,
    record: RunRecord,
    reused: RunRecord | None,
    dtype: str,
    compiler: str,
) -> None:
    """Notes what is not done yet; what is complete another machine may have computed."""
    if not all(record.stage(name).complete for name in algorithm.fits):
        if reused:
            record.note_commit(reused)
            record.note_also(training_dtype=reused.manifest.get("training_dtype"))
        if algorithm.fits_something(configs, reused):
            record.note_also(training_dtype=dtype)
    if not record.stage(algorithm.compiled).complete:
        record.note_also(compiler=compiler)
    if not all(record.stage(name).complete for name in algorithm.fits):
        record.note_also(devices=str(devices.replicas()))
