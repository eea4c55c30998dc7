"""python -m benchmarks.estimates: what --dry_run says about finished runs, over what they took.

On an idle machine of the kind that made the runs every ratio should be 1. On another one, or a busy
one, all ratios are off by the same factor: the last column leaves it out.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from flags import schema
from mopp_tf import config as of_mopp
from mopp_tf.experiment import configs as mopp_configs
from mopp_tf.experiment import dry_run as mopp_dry_run
from morel_tf import config as of_morel
from morel_tf.experiment import configs as morel_configs
from morel_tf.experiment import dry_run as morel_dry_run
from offline_tf import tasks
from offline_tf.config.knobs import check, knob
from offline_tf.models import compilation
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

USAGE = """
usage: python -m benchmarks.estimates [--runs=FOLDER ...] [--records=FILE ...] [--threads=1]

Prints the estimate of each stage, the seconds that the stage took, and their ratio. Run folders are
read from --runs; of records in results/ the runs of seed 0 are taken. Give --threads as the runs had.
"""

_OLDER = {"dynamics_final": "dynamics"}
_LEFT_OUT = ("data", "units", "fqe")  # their seconds depend on what lay in the cache


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmark."""

    runs: tuple[str, ...] = knob((), "Folders of finished runs.", repeated=True)
    records: tuple[str, ...] = knob((), "Records of campaigns, results/*.json.", repeated=True)
    threads: int = knob(0, "CPU threads of the estimate; 0: all cores.", low=0)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.runs and not self.records:
            raise UserError("--runs, --records: expected one of them, got none")


class Finished(NamedTuple):
    """A run: its knobs, its rows, and stage -> seconds that it took."""

    name: str
    family: str
    configs: Any
    rows: int
    took: dict[str, float]


def of_folder(path: str) -> Finished:
    """Reads a run folder."""
    record = RunRecord.open_existing(pathlib.Path(path), "runs")
    family = "morel" if record.manifest["algorithm"] == "morel" else "mopp"
    configs_module = morel_configs if family == "morel" else mopp_configs
    results = record.results()
    took = {name: stage["seconds"] for name, stage in results.items()}
    rows = results["data"]["result"]["rows"]
    return Finished(path, family, configs_module.from_manifest(record.manifest), rows, took)


def of_record(path: str) -> Iterator[Finished]:
    """Reads the runs of seed 0 with models of their own from a campaign's record."""
    for row in json.loads(pathlib.Path(path).read_text()):
        if row["seed"] or "_from=" in row["command"]:
            continue
        module, *words = shlex.split(row["command"])[2:]
        family = module.split("_")[0]
        stages = of_morel.STAGES if family == "morel" else of_mopp.STAGES
        values = schema.flags.FlagValues()
        for stage in stages:
            schema.define(stage, values)
        default = {"morel": "", "mopp": "medium-ours"}[family]
        values(schema.expand([module, *words], family, tasks.names(), "hopper", default))
        read = [schema.read(stage, values) for stage in stages]
        configs_module = morel_configs if family == "morel" else mopp_configs
        configs = configs_module.Configs(*read)  # type: ignore[call-arg]
        took = {_OLDER.get(name, name): spent for name, spent in row["stages"].items()}
        name = " ".join([row["algorithm"], *words])
        yield Finished(name, family, configs, configs.run.data_steps, took)


def estimate(run: Finished, threads: int) -> dict[str, float]:
    """Stage -> seconds, as --dry_run says."""
    task = tasks.get(run.configs.run.env, run.configs.run.simulator)
    compilation.use_compiler(run.configs.run.compile)
    if run.family == "morel":
        return morel_dry_run.seconds(task, run.configs, run.rows, threads)
    return mopp_dry_run.seconds(task, run.configs, threads)


def compare(told: dict[str, float], took: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Stage -> estimate and measured seconds, of stages that both have; "in all" adds them up."""
    names = [name for name in told if name in took and name not in _LEFT_OUT]
    pairs = {name: (told[name], took[name]) for name in names}
    sums = tuple(sum(pair[i] for pair in pairs.values()) for i in (0, 1))
    return pairs | {"in all": (sums[0], sums[1])}


def main(config: BenchmarkConfig) -> None:
    """Prints a table."""
    threads = compilation.use_threads(config.threads)
    runs = [of_folder(path) for path in config.runs]
    runs += [run for path in config.records for run in of_record(path)]
    compared = [(run.name, compare(estimate(run, threads), run.took)) for run in runs]
    ratios = [estimated / took for _, stages in compared for estimated, took in [stages["in all"]]]
    usual = float(np.median(ratios))
    print(f"{'stage':18s} {'estimate s':>10s} {'took s':>10s} {'ratio':>8s} {'/ median':>9s}")
    for name, stages in compared:
        print(name)
        for stage, (estimated, took) in stages.items():
            ratio = estimated / max(took, 0.01)
            print(f"  {stage:16s} {estimated:10.1f} {took:10.1f} {ratio:8.2f} {ratio / usual:9.2f}")
    print(f"median ratio in all {usual:.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    schema.run(main, configs=[BenchmarkConfig], usage=USAGE)
