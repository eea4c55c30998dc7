"""python -m benchmarks.run [NAME ...]: the project's speeds beside their targets, in one table.

Each measurement runs in a process of its own, all of them in turn, `--rounds` times; the table holds
medians. Shares are of this machine's own matrix products in the same precision, measured in turn with
the work (benchmarks/peak.py). With `--peers=PYTHON`, an interpreter that has
requirements-benchmarks.txt, PyTorch and JAX do the same work in between (benchmarks/peers.py), compared
per product of numpy's in the same process. Run it on an idle machine; what a busy host slows down is
measured again. `--one=NAME` is what the processes call.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peak
from offline_tf.run_folder import files

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SLOW, _REPETITIONS = 0.93, 2
_NPG_HIDDEN = 512
Numbers = dict[str, float]


class Row(NamedTuple):
    """A line of the table: which number of which measurement, and what it should be."""

    title: str
    measurement: str
    number: str
    unit: str
    target: float
    at_least: bool


ROWS = (
    Row(
        "dynamics training, 4 x 512x512, batch 256, float32",
        "training_float32",
        "share",
        "of peak",
        0.75,
        True,
    ),
    Row("the same, over Keras fit", "training_float32", "over_keras_fit", "x", 1.0, True),
    Row("the same in bfloat16", "training_bfloat16", "share", "of peak", 0.0, True),
    Row("the same, over float32", "training_bfloat16", "over_float32", "x", 1.0, True),
    Row(
        "roll-outs in the model, 4 members, 80 paths, float32",
        "npg",
        "roll_out_share",
        "of peak",
        0.8,
        True,
    ),
    Row("NPG iteration over its roll-out", "npg", "over_roll_out", "x", 1.4, False),
    Row("NPG iteration, 80 paths x 1000 steps", "npg", "iteration_s", "s", 1.0, False),
    Row(
        "roll-outs in bfloat16",
        "npg_bfloat16",
        "roll_out_share",
        "of peak",
        0.0,
        True,
    ),
    Row("NPG iteration, roll-outs in bfloat16", "npg_bfloat16", "iteration_s", "s", 1.0, False),
    Row("MOPP decision, Hopper, float32", "decision_hopper_float32", "ms", "ms", 0.0, True),
    Row("MOPP decision, Walker2d, float32", "decision_walker2d_float32", "ms", "ms", 0.0, True),
    Row("MOPP decision, Hopper, bfloat16", "decision_hopper_bfloat16", "ms", "ms", 8.0, False),
    Row(
        "the same, p99 over median", "decision_hopper_bfloat16", "p99_over_median", "x", 1.25, False
    ),
    Row("MOPP decision, Walker2d, bfloat16", "decision_walker2d_bfloat16", "ms", "ms", 10.0, False),
    Row(
        "the same, p99 over median",
        "decision_walker2d_bfloat16",
        "p99_over_median",
        "x",
        1.25,
        False,
    ),
    Row(
        "MOPP decision, Hopper, LiteRT with 8 bits", "decision_hopper_int8", "ms", "ms", 8.0, False
    ),
    Row("the same, p99 over median", "decision_hopper_int8", "p99_over_median", "x", 1.25, False),
    Row(
        "MOPP decision, Walker2d, LiteRT with 8 bits",
        "decision_walker2d_int8",
        "ms",
        "ms",
        10.0,
        False,
    ),
    Row("the same, p99 over median", "decision_walker2d_int8", "p99_over_median", "x", 1.25, False),
    Row(
        "MOPP decision, Hopper, networks of the default, float32",
        "decision_hopper_default",
        "ms",
        "ms",
        8.0,
        False,
    ),
    Row(
        "the same, LiteRT with 8 bits",
        "decision_hopper_default_int8",
        "ms",
        "ms",
        8.0,
        False,
    ),
    Row(
        "20 environments in one call, over one by one",
        "decision_hopper_bfloat16",
        "batched_gain",
        "x",
        3.0,
        True,
    ),
    Row(
        "MOPP dynamics training step, Walker2d, float32",
        "mopp_training_float32",
        "step_ms",
        "ms",
        30.0,
        False,
    ),
    Row("the same in bfloat16", "mopp_training_bfloat16", "step_ms", "ms", 20.0, False),
    Row("collection, 1M Hopper steps", "collection", "million_s", "s", 40.0, False),
    Row("--help of a command", "start", "help_s", "s", 1.5, False),
    Row("first training step after the start", "start", "first_step_s", "s", 10.0, False),
)


# Ours over a peer's: title, our measurement and number, the peer's, whether more is better.
PEERS = (
    ("dynamics training over PyTorch, a model at a time", "training_float32", "rate", "torch_loop"),
    ("over PyTorch, one batched product, fused Adam", "training_float32", "rate", "torch_batched"),
    ("over JAX, fori_loop under jit", "training_float32", "rate", "jax_training"),
    (
        "the same in bfloat16 over PyTorch, batched",
        "training_bfloat16",
        "rate",
        "torch_batched_bfloat16",
    ),
    ("over JAX", "training_bfloat16", "rate", "jax_training_bfloat16"),
    ("roll-outs in the model over PyTorch", "npg", "roll_out_rate", "torch_rollout"),
    ("over JAX, scan under jit", "npg", "roll_out_rate", "jax_rollout"),
    ("MOPP decision, Hopper, over PyTorch", "decision_hopper_float32", "ms", "torch_decision"),
)


def training(precision: str) -> Numbers:
    """Ensemble training through `fitting.Fit`; Keras' fit, or float32, in turn with it."""
    from benchmarks import training as parts

    parts.use_threads("inter")
    if precision == "float32":
        other, name = "keras_fit", "over_keras_fit"
    else:
        other, name = "float32", "over_float32"
    measured = parts.measure([precision, other])
    return measured[precision] | {name: measured[precision]["rate"] / measured[other]["rate"]}


class Npg(NamedTuple):
    """An update of MOReL's planner on Hopper's sizes, random models, a detector that knows all.

    Attributes:
      roll_out, whole: the paths alone; paths and update.
      steps: of all paths.
      work: operations of the paths' products.
    """

    roll_out: Callable[[int], Any]
    whole: Callable[[int], Any]
    steps: float
    work: float


def npg_models() -> Any:
    """Hopper's models of `make_npg`: states hardly move."""
    from morel_tf import config
    from offline_tf import tasks
    from offline_tf.models import gaussian_ensemble
    from offline_tf.numerics import standardize

    task = tasks.get("hopper")

    def plain(width: int, scale: float) -> standardize.Statistics:
        return standardize.Statistics(
            np.zeros(width, np.float32), np.full(width, scale, np.float32)
        )

    inputs, deltas = plain(task.state_dim + task.action_dim, 1.0), plain(task.state_dim, 1e-4)
    hidden = (_NPG_HIDDEN, _NPG_HIDDEN)
    return gaussian_ensemble.GaussianEnsemble(
        task, config.DynamicsConfig(), inputs, deltas, 0, hidden=hidden
    )


def make_npg(precision: str) -> Npg:
    """Builds the update; the models' products in "float32" or "bfloat16"."""
    import tensorflow as tf

    from morel_tf import config
    from morel_tf.planning import npg_planner, pessimistic_mdp, policy_update
    from offline_tf import tasks
    from offline_tf.models import compilation
    from offline_tf.numerics import seeds

    compilation.use_threads(0)
    task = tasks.get("hopper")
    knobs, pmdp_knobs = config.PlannerConfig(), config.PmdpConfig(rollout_precision=precision)
    s, a = task.state_dim, task.action_dim

    ensemble = npg_models()
    pmdp = pessimistic_mdp.make(
        task,
        physics="v2",
        ensemble=ensemble,
        weights=np.ones(s, np.float32),
        threshold=np.inf,
        least_reward=0.0,
        mean_reward=0.0,
        config=pmdp_knobs,
    )
    units = npg_planner.units_of(task, knobs, ensemble.inputs)
    policy = npg_planner.new_policy(units, knobs, 0)
    update = npg_planner.new_natural_gradient(policy, knobs)
    baseline = npg_planner.new_baseline(units, knobs, 0)
    paths = ensemble.size * pmdp_knobs.paths_per_member
    member = tf.repeat(tf.range(ensemble.size), pmdp_knobs.paths_per_member)
    start = np.tile(np.eye(1, s, dtype=np.float32) * 1.25, (paths, 1))  # upright: nobody falls

    @compilation.compiled
    def roll_out(seed: Any) -> Any:
        return pessimistic_mdp.roll_out_in_groups(
            pmdp, policy=policy, starts=tf.constant(start), member=member, seed=seed, groups=2
        )

    block = roll_out(tf.constant([0, 0]))
    steps = float(block.valid.numpy().sum())
    model = ensemble.size * ((s + a) * _NPG_HIDDEN + _NPG_HIDDEN**2 + _NPG_HIDDEN * s)

    def whole(number: int) -> None:
        sampled = npg_planner.to_paths(roll_out(tf.constant([1, number])))
        policy_update.update(
            sampled,
            natural_gradient=update,
            baseline=baseline,
            discount=0.995,
            gae_lambda=0.97,
            kl_per_update=0.01,
            generator=seeds.generator(0, "benchmark", number),
        )

    return Npg(
        lambda number: roll_out(tf.constant([0, number])).rewards.numpy(),
        whole,
        steps,
        2.0 * steps * (model + s * 64 + 64 * 64 + 64 * a),
    )


def npg(precision: str = "float32") -> Numbers:
    """Seconds of the paths and of the whole iteration."""
    planner_update = make_npg(precision)
    (rolled, in_all), (peaks, numpys) = peak.in_turn(
        [planner_update.roll_out, planner_update.whole],
        9,
        [peak.probe(precision), peak.numpy_probe()],
    )
    spent, iteration = float(np.median(rolled)), float(np.median(in_all))
    return {
        "roll_out_share": float(np.median(planner_update.work / rolled / peaks)),
        "roll_out_s": spent,
        "roll_out_rate": planner_update.steps / spent,
        "iteration_s": iteration,
        "over_roll_out": float(np.median(in_all / rolled)),
        "steps": planner_update.steps,
        "numpy": float(np.median(numpys)),
    }


def decision(robot: str, precision: str, sizes: str = "authors") -> Numbers:
    """`plan_one` of an exported planner, and `plan` for 20 robots."""
    import tensorflow as tf

    from benchmarks import decision as parts
    from mopp_tf.experiment import export_planner
    from offline_tf.export import saved_model
    from offline_tf.models import compilation

    compilation.use_threads(0)
    dtype = tf.bfloat16 if precision == "bfloat16" else tf.float32
    config = parts.BenchmarkConfig(env=robot, sizes=sizes)
    planner, scale = parts.make_planner(config, dtype)
    observation = tf.random.stateless_normal([20, planner.task.state_dim], [0, 0])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "export"
        exported = export_planner.Exported(planner, scale)
        saved_model.save(exported, path, exported.signatures(), planner.task, "")
        signatures = tf.saved_model.load(str(path)).signatures
        start = signatures["initial_plan"](observation=observation)["plan"]

        def call(name: str, count: int) -> Callable[[int], Any]:
            return lambda i: signatures[name](
                observation=observation[:count], plan=start[:count], seed=tf.constant([0, i])
            )["action"].numpy()

        one_by_one, together = call("plan_one", 1), call("plan", 20)
        probes = [peak.probe(precision), peak.numpy_probe()]
        (one,), (peaks, numpys) = peak.in_turn([one_by_one], 15, probes, repeats=20)

        def twenty(number: int) -> None:
            for robot_number in range(20):
                one_by_one(20 * number + robot_number)

        (separate, many), _ = peak.in_turn([twenty, together], 10, probes)
    middle = float(np.median(one))
    work = 1e9 * parts.work_gflop(config, planner.task.state_dim, planner.task.action_dim)
    return {
        "ms": 1e3 * middle,
        "p99_over_median": float(np.quantile(one, 0.99)) / middle,
        "batched_gain": float(np.median(separate / many)),
        "share": float(np.median(work / one / peaks)),
        "numpy": float(np.median(numpys)),
    }


def small_decision(robot: str, sizes: str = "authors") -> Numbers:
    """`plan` of planner_int8.tflite: the same networks, their products in 8-bit integers."""
    from benchmarks import decision as parts
    from mopp_tf import lite
    from mopp_tf.experiment import export_planner
    from offline_tf.export import saved_model
    from offline_tf.models import compilation

    compilation.use_threads(0)
    config = parts.BenchmarkConfig(env=robot, sizes=sizes)
    planner, _ = parts.make_planner(config)
    observation = np.random.default_rng(0).normal(size=planner.task.state_dim).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "planner.tflite"
        signatures = export_planner.Lite(planner).signatures()

        def call(eight_bits: bool) -> Callable[[int], Any]:
            saved_model.save_constant_lite(signatures, path, eight_bits)
            lite_planner = lite.Planner(path, threads=os.cpu_count() or 1)
            return lambda _: lite_planner.act(observation)

        small, whole = call(True), call(False)
        (spent,), (peaks,) = peak.in_turn([small], 15, [peak.probe()], repeats=20)
        (full,), _ = peak.in_turn([whole], 5, [], repeats=10)
    middle = float(np.median(spent))
    work = 1e9 * parts.work_gflop(config, planner.task.state_dim, planner.task.action_dim)
    return {
        "ms": 1e3 * middle,
        "p99_over_median": float(np.quantile(spent, 0.99)) / middle,
        "litert_float32_ms": 1e3 * float(np.median(full)),
        "over_float32_peak": float(np.median(work / spent / peaks)),
    }


def make_mopp_training(precision: str) -> Callable[[int], Any]:
    """20 Adam steps of three autoregressive dynamics models, Walker2d's sizes, batch 512."""
    import tensorflow as tf

    from benchmarks.decision import AUTHORS as knobs
    from mopp_tf.models import autoregressive_network
    from mopp_tf.models import training as parts
    from offline_tf.models import compilation, fitting, networks

    compilation.use_threads(0)
    dtype = tf.bfloat16 if precision == "bfloat16" else tf.float32
    s, a = 17, 6
    orders = autoregressive_network.orderings(s + 1, True, 3, 0, "dynamics")
    members = [
        autoregressive_network.make_network(
            "adm",
            input_dim=s + a,
            order=order,
            latent_dim=s,
            encoder_hidden=knobs.encoder_hidden,
            head_hidden=knobs.head_hidden,
            mlp_hidden=knobs.mlp_hidden,
            components=1,
            generator=np.random.default_rng(i),
            name=f"dynamics_{i}",
        )
        for i, order in enumerate(orders)
    ]
    by_dimension = parts.negative_log_likelihood(s + 1, False, knobs.conditioning)

    def loss(batches: list[tuple[Any, ...]]) -> list[Any]:
        return [
            tf.reduce_sum(by_dimension(member, x, y, dtype))
            for member, (x, y) in zip(members, batches, strict=True)
        ]

    loop = fitting.Fit(networks.variables(*members), loss=loss, weight_decay=knobs.weight_decay)
    draws = np.random.default_rng(0)
    data = tuple(tf.constant(draws.normal(size=(20_000, n)), tf.float32) for n in (s + a, s + 1))
    rows = tf.constant(draws.integers(20_000, size=(20, 3, 512)), tf.int32)
    rates = tf.fill([20], 1e-4)
    return lambda _: loop.run(data, rows, rates).numpy()


def mopp_training(precision: str) -> Numbers:
    """Milliseconds of a step."""
    (spent,), _ = peak.in_turn([make_mopp_training(precision)], 9, [])
    return {"step_ms": 1e3 * float(np.median(spent)) / 20}


def collection() -> Numbers:
    """The shipped policy in Hopper, a million steps."""
    from offline_tf import tasks
    from offline_tf.datasets.simulated import collection as parts
    from offline_tf.policies import gaussian

    threads, steps = os.cpu_count() or 1, 1_000_000
    shipped = gaussian.load(gaussian.shipped("hopper"))[0]
    began = time.perf_counter()
    parts.collect(
        tasks.get("hopper"),
        physics="v2",
        policy=shipped,
        exploration="pure",
        num_steps=steps,
        seed=0,
        threads=threads,
    )
    return {"million_s": time.perf_counter() - began}


FIRST_STEP = """
import numpy as np, tensorflow as tf
from morel_tf.experiment import recipe
from offline_tf.models import fitting, networks
sizes = dict(hidden=(512, 512), output_dim=11, activation="relu")
nets = [networks.mlp(14, generator=np.random.default_rng(i), **sizes) for i in range(4)]
error = lambda n, x, y: tf.reduce_mean((networks.bind(n)(x) - y) ** 2)
loss = lambda batches: [error(n, *batch) for n, batch in zip(nets, batches)]
loop = fitting.Fit(networks.variables(*nets), loss=loss)
data = (tf.zeros([9999, 14]), tf.zeros([9999, 11]))
print(loop.run(data, tf.zeros([1, 4, 256], tf.int32), tf.ones([1])).numpy())
"""


def start() -> Numbers:
    """Wall time of --help, and of a process until its first minibatch step is done."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "morel_tf.train", "--help"], check=True, capture_output=True
    )
    help_seconds = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, capture_output=True)
    return {"help_s": help_seconds, "first_step_s": time.perf_counter() - began}


MEASUREMENTS: dict[str, Callable[[], Numbers]] = {
    "training_float32": lambda: training("float32"),
    "training_bfloat16": lambda: training("bfloat16"),
    "npg": npg,
    "npg_bfloat16": lambda: npg("bfloat16"),
    **{
        f"decision_{robot}_{precision}": functools.partial(decision, robot, precision)
        for robot in ("hopper", "walker2d")
        for precision in ("float32", "bfloat16")
    },
    "decision_hopper_default": lambda: decision("hopper", "float32", "default"),
    "decision_hopper_default_int8": lambda: small_decision("hopper", "default"),
    "decision_hopper_int8": lambda: small_decision("hopper"),
    "decision_walker2d_int8": lambda: small_decision("walker2d"),
    "mopp_training_float32": lambda: mopp_training("float32"),
    "mopp_training_bfloat16": lambda: mopp_training("bfloat16"),
    "collection": collection,
    "start": start,
}


def machine() -> str:
    """The processor, its cores here, and what matters of its instructions."""
    text = pathlib.Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    has = " ".join(name for name in known if name in text)
    return f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, {has or 'no AVX2'}"


def _shown(values: list[float]) -> str:
    """The median; the range of several rounds beside it."""
    spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{np.median(values):.3g}{spread}"


def table(found: dict[str, list[Numbers]]) -> list[str]:
    """The Markdown of the rows that were measured, from the numbers of all rounds."""
    lines = ["| work | median (rounds) | | target | |", "|---|---|---|---|---|"]
    for row in ROWS:
        values = [numbers[row.number] for numbers in found.get(row.measurement, [])]
        if not values:
            continue
        value = np.median(values)
        reached = value >= row.target if row.at_least else value <= row.target
        sign = ">=" if row.at_least else "<="
        wanted = f"{sign} {row.target:g}" if row.target else "-"
        verdict = "" if not row.target else "reached" if reached else "**missed**"
        if row.target and row.measurement.endswith("bfloat16") and "amx_bf16" not in machine():
            verdict = "not applicable: no AMX"
        lines.append(f"| {row.title} | {_shown(values)} | {row.unit} | {wanted} | {verdict} |")
    for title, measurement, number, peer in PEERS:
        values = []
        for ours, theirs in zip(found.get(measurement, []), found.get(peer, []), strict=False):
            drift = theirs["numpy"] / ours["numpy"]  # the machine's speed beside them and beside us
            if number == "ms":
                values.append(theirs["ms"] / ours["ms"] * drift)
            else:
                values.append(ours[number] / theirs["rate"] * drift)
        if values:
            verdict = "reached" if np.median(values) >= 1.0 else "**missed**"
            lines.append(f"| {title} | {_shown(values)} | x | >= 1 | {verdict} |")
    return lines


def _one(name: str, peers: str) -> Numbers:
    """Runs a measurement in a process of its own; without numbers if that failed."""
    command = [sys.executable, "-m", "benchmarks.run", f"--one={name}"]
    if name not in MEASUREMENTS:
        command = [peers, "-m", "benchmarks.peers", name]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(_ROOT)}
    run = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    if run.returncode:
        said = run.stderr.strip().splitlines() or [f"status {run.returncode}, nothing was said"]
        print(f"{name} failed: {said[-1]}", file=sys.stderr)
        return {}
    numbers: Numbers = json.loads(run.stdout.strip().splitlines()[-1])
    shown = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
    print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return numbers


Runs = dict[str, list[Numbers]]


def _measured(names: list[str], rounds: int, peers: str, keep: Callable[[Runs], None]) -> Runs:
    """All rounds; measurements during which the machine was slow are made again, twice at most.

    Slow is numpy's product rate before and after at less than _SLOW of the best rate seen. Of
    repetitions the one at the highest rate counts, whatever it found.

    Args:
      names: of the measurements.
      rounds: how often.
      peers: the interpreter of the peers.
      keep: gets all that there is, after each measurement.
    """
    probe = peak.numpy_probe()
    by_turn: dict[tuple[int, str], Numbers] = {}

    def so_far() -> Runs:
        turns_of = {name: [(number, name) for number in range(rounds)] for name in names}
        found = {name: [by_turn.get(turn, {}) for turn in own] for name, own in turns_of.items()}
        return {name: [numbers for numbers in own if numbers] for name, own in found.items()}

    turns = [(number, name) for number in range(rounds) for name in names]
    for _ in range(1 + _REPETITIONS):
        for turn in turns:
            before = probe()
            numbers = _one(turn[1], peers)
            numbers |= {"machine": (before + probe()) / 2} if numbers else {}
            if numbers.get("machine", 0.0) > by_turn.get(turn, {}).get("machine", -1.0):
                by_turn[turn] = numbers
                keep(so_far())
        best = max((numbers.get("machine", 0.0) for numbers in by_turn.values()), default=0.0)
        turns = [
            turn
            for turn, numbers in by_turn.items()
            if 0.0 < numbers.get("machine", 0.0) < _SLOW * best
        ]
        if turns:
            slow = ", ".join(sorted({name for _, name in turns}))
            print(f"the machine was slow during {slow}", file=sys.stderr, flush=True)
    return so_far()


def record(runs: Runs, rounds: int) -> dict[str, Any]:
    """What the file holds: medians, and what each round found."""
    medians = {
        name: {key: float(np.median([run[key] for run in several])) for key in several[0]}
        for name, several in runs.items()
        if several
    }
    return {"machine": machine(), "rounds": rounds, "numbers": medians, "runs": runs}


def main() -> int:
    """Measures and prints; returns how many measurements failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"among {', '.join(MEASUREMENTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--peers", help="an interpreter with requirements-benchmarks.txt")
    parser.add_argument("--one", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASUREMENTS[arguments.one]()))
        return 0
    peers = [peer for *_, peer in PEERS] if arguments.peers else []
    names = arguments.names or [*MEASUREMENTS, *peers]
    unknown = [name for name in names if name not in (*MEASUREMENTS, *peers)]
    if unknown:
        parser.error(f"expected names among {', '.join(MEASUREMENTS)}, got {unknown[0]}")
    output: pathlib.Path | None = arguments.output

    def keep(runs: Runs) -> None:
        if output:
            with files.whole(output) as partial:
                partial.write_text(json.dumps(record(runs, arguments.rounds), indent=1) + "\n")

    runs = _measured(names, arguments.rounds, arguments.peers if peers else "", keep)
    print("\n".join([machine(), "", *table(runs)]))
    return sum(len(several) < arguments.rounds for several in runs.values())


if __name__ == "__main__":
    sys.exit(main())
