"""Every policy along planning, as judges of several sizes see it, beside what it returns.

python -m benchmarks.robustness.looks --sets=hopper-narrow,walker2d-noisy --folder=DATA --seeds=0
python -m benchmarks.robustness.looks table                       what each way of keeping would keep

MOReL plans to its last update; nothing ends it early and no step is halved. At every tenth update
judges of 3 and of 6 models look at the policy, and the simulator runs it. `WAYS` then say which policy
each would have kept. Development sets only: what is chosen here is chosen by their returns. Run folders
lie beside the data; a run goes on where it stopped. Writes results/tables/looks.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.robustness import __main__ as bench
from benchmarks.robustness.data_sets import BY_NAME, DEVELOPMENT
from morel_tf import algorithm
from morel_tf.config import STAGES
from morel_tf.experiment import recipe
from morel_tf.experiment.candidates import changed
from morel_tf.experiment.configs import Configs
from offline_tf.evaluation import policy_episodes
from offline_tf.judging import clones
from offline_tf.judging import judge as judging
from offline_tf.judging.judge import Judge
from offline_tf.pipeline import run as pipeline
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, UserError

RECORD = pathlib.Path("results", "tables", "looks.json")
_MEMBERS = (3, 6)
_EVERY, _EPISODES = 10, 20
Seen = dict[str, Any]


def _seen(judge: Judge, policy: NumpyPolicy, after_halt: Array | None = None) -> Seen:
    found = judge.policy(policy, after_halt)
    return {
        "least": np.round(found.least).astype(int).tolist(),
        "halted": round(float(found.halted.mean()), 3),
        "expected": round(found.expected, 1),
    }


def look_on(
    name: str, file: pathlib.Path, seed: int, folder: pathlib.Path, iterations: int
) -> dict[str, Any]:
    """Plans on a set, and returns what was seen on the way."""
    data_set = BY_NAME[name]
    run: dict[str, Any] = {"env": data_set.env, "dataset": str(file), "seed": seed, "threads": 1}
    run |= {"workdir": str(folder), "inspection": False, "iterations": iterations}
    if data_set.kind != "plant":
        run["physics"] = data_set.physics
    of_run = {"judge_members": max(_MEMBERS), "judge_patience": iterations + 1}
    configs = changed(Configs(*(stage() for stage in STAGES)), run | of_run)
    experiment = recipe.within_the_time_limit(pipeline.begin(recipe.MOREL, configs))
    experiment.record.note(
        least_reward=float(experiment.data.rewards.min()),
        mean_reward=float(experiment.data.rewards.mean(dtype=np.float64)),
    )
    knobs = experiment.configs.knobs
    prepared = algorithm.prepare(experiment.task, experiment.data, knobs, seed)
    kept = folder / "looks.json"
    seen: dict[str, Seen] = json.loads(kept.read_text()) if kept.exists() else {}
    judges: dict[int, Judge] = {}

    def judges_of() -> dict[int, Judge]:
        for members in [size for size in _MEMBERS if size not in judges]:
            record = experiment.record
            if members != max(_MEMBERS):  # the largest is the run's own
                part = folder / f"judge{members}"
                (part / "stages").mkdir(parents=True, exist_ok=True)
                write_json(part / "manifest.json", record.manifest)
                record = RunRecord(part, dict(record.manifest))
            judges[members] = judging.fit_or_load(
                experiment.task,
                physics=configs.run.physics,
                data=experiment.data,
                config=dataclasses.replace(knobs.judge, judge_members=members),
                seed=seed,
                record=record,
            )
        return judges

    def look(policy: NumpyPolicy, iteration: int) -> dict[str, float]:
        if iteration % _EVERY or str(iteration) in seen:
            return {}
        true = policy_episodes.evaluate(
            policy,
            task=experiment.task,
            physics=configs.run.physics,
            episodes=_EPISODES,
            stochastic=False,
            seed=seed,
            name=f"looks/{iteration}",
            threads=1,
        )
        by_size = {str(m): _seen(judge, policy) for m, judge in judges_of().items()}
        error = true.std / np.sqrt(_EPISODES)
        seen[str(iteration)] = {"true": round(true.mean, 1), "error": round(error, 1)} | by_size
        write_json(kept, seen)
        return {"true_return_mean": true.mean}

    learned = algorithm.morel(
        task=experiment.task,
        physics=configs.run.physics,
        data=experiment.data,
        prepared=prepared,
        knobs=knobs,
        seed=seed,
        record=experiment.record,
        evaluate=look,
        keep_paths=lambda block, iteration: None,
    )
    look(learned.cloned, 0)
    share = learned.start["share"]
    worth = {
        str(members): _seen(
            judge,
            learned.cloned,
            clones.episodes_go_on(experiment.data, share, judge),
        )
        for members, judge in judges_of().items()
    }
    by_step = {step: seen[step] for step in sorted(seen, key=int)}
    return {"share": share, "worth": worth, "looks": by_step}


class Looked(NamedTuple):
    """What one judge saw of one run.

    Attributes:
      steps: [L] updates, 0 first.
      least: [L, M, E], see `Judgement.least`.
      halted: [L] share of the roll-outs that met HALT.
      worth: [M, E] of the clone, if beyond HALT it earns what its episodes did.
      true: [L] mean returns.
    """

    steps: Array
    least: Array
    halted: Array
    worth: Array
    true: Array


def looked(run: dict[str, Any], members: int) -> Looked:
    """Reads a run of the record."""
    looks, key = run["looks"], str(members)
    return Looked(
        np.array([int(step) for step in looks]),
        np.array([each[key]["least"] for each in looks.values()]),
        np.array([each[key]["halted"] for each in looks.values()]),
        np.array(run["worth"][key]["least"]),
        np.array([each["true"] for each in looks.values()]),
    )


def _over_clone(seen: Looked) -> Array:
    """[L, M, E] what each policy earns more than the clone, as `Keeper` compares them."""
    halts = np.maximum(seen.halted, seen.halted[0]) > judging.MOSTLY_HALTED  # [L]
    return seen.least - np.where(halts[:, None, None], seen.worth, seen.least[0])


def _likely(differences: Array, at: int, usual: float = 0.0) -> float:
    spread = max(judging.spread_of(differences[at]), usual)
    return judging.likely_gain_of(float(differences[at].mean()), spread, differences.shape[1])


def by_promise(seen: Looked) -> int:
    """--judge_keeps=promise: the highest bound, one in twenty; no spread below the usual one."""
    spreads = np.array([judging.spread_of(each) for each in seen.least])
    best = 0
    for now in range(len(spreads)):
        usual = float(np.sqrt((spreads[: now + 1] ** 2).mean()))

        def promised(at: int, usual: float = usual) -> float:
            centre, spread = float(seen.least[at].mean()), max(float(spreads[at]), usual)
            return judging.promise_of(centre, spread, len(seen.least[at]))

        if promised(now) > promised(best):
            best = now
    by_episodes = seen.halted[best] > judging.MOSTLY_HALTED
    clone = seen.worth if by_episodes else seen.least[0]
    return best if best and judging.gain(seen.least[best] - clone) > 0.0 else 0


def by_gain(seen: Looked) -> int:
    """--judge_keeps=gain: the highest bound of the gain over the clone, one in three."""
    differences = _over_clone(seen)
    spreads = np.array([judging.spread_of(each) for each in differences])

    def gained(at: int, now: int) -> float:
        return _likely(differences, at, float(np.sqrt((spreads[1 : now + 1] ** 2).mean())))

    best, last = 1, len(differences) - 1
    for now in range(2, len(differences)):
        if gained(now, now) > gained(best, now):
            best = now
    return best if gained(best, last) > 0.0 else 0


def by_middle(seen: Looked) -> int:
    """The highest middle of the gain over the clone, if there is one."""
    middles = _over_clone(seen).mean(axis=(1, 2))
    middles[0] = 0.0
    return int(np.argmax(middles))


def the_last(seen: Looked) -> int:
    """The last policy, where it likely gains over the clone."""
    last = len(seen.steps) - 1
    return last if _likely(_over_clone(seen), last) > 0.0 else 0


WAYS: dict[str, Callable[[Looked], int]] = {
    "promise": by_promise,
    "gain": by_gain,
    "middle": by_middle,
    "last": the_last,
}


def table(record: dict[str, Any]) -> str:
    """What each way keeps, by set: its true return and the update it is of."""
    names = [f"{way}, {members}" for members in _MEMBERS for way in WAYS]
    lines = [
        "| set, seed | clone | best | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for key, run in record.items():
        cells = []
        for members in _MEMBERS:
            seen = looked(run, members)
            cells += [(seen.true[way(seen)], seen.steps[way(seen)]) for way in WAYS.values()]
        shown = " | ".join(f"{value:.0f} ({step})" for value, step in cells)
        lines.append(f"| {key} | {seen.true[0]:.0f} | {seen.true.max():.0f} | {shown} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--sets", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--output", type=pathlib.Path, default=RECORD)
    bench.add_folders(parser)
    arguments = parser.parse_args(words)
    at = arguments.output
    record: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {}
    if arguments.command == "table":
        print(table(record))
        return 0
    chosen = bench.chosen(DEVELOPMENT, arguments.sets)
    if not chosen:
        raise UserError("--sets: expected development sets, as settings are chosen by these looks")
    for name, file in bench.make_data(chosen, arguments.folder, arguments.neorl2).items():
        for seed in (int(word) for word in arguments.seeds.split(",")):
            if (key := f"{name}, {seed}") in record:
                continue
            folder = arguments.folder.parent / "runs" / file.stem / f"looks-seed{seed}"
            found = look_on(name, file, seed, folder, arguments.iterations)
            record = json.loads(at.read_text()) if at.exists() else {}
            record[key] = found | {"commit": provenance.commit()}
            write_json(at, record)
            print(table({key: record[key]}), flush=True)
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
