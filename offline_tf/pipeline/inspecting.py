"""Looking at the models of a finished run again, also beside other data."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from absl import logging

from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.datasets import sources
from offline_tf.datasets.names import Reading
from offline_tf.models import compilation
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Transitions

Pairs = dict[str, tuple[Array, Array]]
_STAGE = "inspection"


def look_again(
    config: InspectConfig, inspect: Callable[[RunRecord, InspectConfig, int], dict[str, float]]
) -> None:
    """Inspects a finished run and prints the numbers.

    Args:
      config: which run, and the data beside it.
      inspect: (run, config, threads) -> numbers; each algorithm's.
    """
    threads = compilation.use_threads(config.threads)
    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    for name, value in inspect(record, config, threads).items():
        logging.info("  %-30s %.3f", name, value)
    logging.info("pictures: %s", record.folder / _STAGE)


def with_data_dir(run: Any, data_dir: str) -> Any:
    """A run's settings, with another folder of data where one is given."""
    return dataclasses.replace(run, data_dir=data_dir or run.data_dir)


def pairs_beside(
    config: InspectConfig,
    run: Any,
    task: TaskSpec,
    threads: int,
    states_of: Callable[[Transitions], Array] = lambda data: data.observations,
) -> Pairs:
    """States and actions of the data sets that --against names; see `sources.pairs_of`."""
    return sources.pairs_of(
        config.against,
        task=task,
        physics=run.physics,
        steps=run.data_steps,
        seed=run.seed,
        data_dir=run.data_dir,
        threads=threads,
        reading=Reading(run.columns, run.observation_keys),
        states_of=states_of,
    )


def keep(record: RunRecord, numbers: dict[str, float]) -> dict[str, float]:
    """Stores the numbers of a run that is evaluated; any other run will inspect once more itself."""
    stage = record.stage(_STAGE)
    if record.stage("evaluation").complete:
        seconds = record.results()[_STAGE]["seconds"] if stage.complete else None
        stage.finish(numbers, seconds)
    return numbers
