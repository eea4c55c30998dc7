"""What a GPU is worth here, and whether it computes the same: ten minutes at most, installs nothing.

python -m benchmarks.gpu                    on a machine whose TensorFlow sees a GPU
python -m benchmarks.gpu --device=cpu       tries the script where there is none

Every part runs in a process of its own. First the CPU's results in float32 are kept; those of the
device, by graph and XLA, in float32 (TF32 off) and bfloat16, are compared with them, and timed. Last
comes the quick job. Writes results/tables/gpu.json after each part.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json

RECORD = pathlib.Path("results", "tables", "gpu.json")
PRECISIONS, COMPILERS = ("float32", "bfloat16"), ("graph", "xla")
_CALLS = 7
_ENVIRONMENTS = 64
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}
_Part = tuple[Callable[[int], Any], Callable[[], np.ndarray]]


def forward(precision: str) -> _Part:
    """Four dynamics models of MOReL, 512 wide, on 8192 pairs: predicted next states."""
    import tensorflow as tf

    from morel_tf import config
    from offline_tf import tasks
    from offline_tf.models import compilation, gaussian_ensemble, networks
    from offline_tf.pipeline import timing

    task = tasks.get("walker2d")
    width = task.state_dim + task.action_dim
    ensemble = gaussian_ensemble.GaussianEnsemble(
        task, config.DynamicsConfig(), timing.plain(width), timing.plain(task.state_dim), 0
    )
    draws = np.random.default_rng(0)
    states, actions = (
        tf.constant(draws.normal(size=(8192, n)), tf.float32)
        for n in (task.state_dim, task.action_dim)
    )
    dtype = networks.product_dtype(precision)

    @compilation.compiled
    def call() -> Any:
        return ensemble.means(ensemble.bind(dtype)(states, actions))

    return lambda _: call().numpy(), lambda: call().numpy()


def fit(precision: str) -> _Part:
    """Twenty Adam steps of three autoregressive models, batch 512: the losses."""
    from benchmarks import run

    call = run.make_mopp_training(precision)
    return call, lambda: np.asarray(call(0))


def roll_out(precision: str) -> _Part:
    """MOReL's paths in the pessimistic MDP, a whole update's: their rewards."""
    from benchmarks import run

    npg = run.make_npg(precision)
    return npg.roll_out, lambda: np.asarray(npg.roll_out(0))


def update(precision: str) -> _Part:
    """The same paths and the natural gradient after them; nothing is compared."""
    from benchmarks import run

    return run.make_npg(precision).whole, lambda: np.zeros(0)


def decision(precision: str) -> _Part:
    """MOPP's decisions for 64 robots at once, the authors' sizes: the actions."""
    import tensorflow as tf

    from benchmarks import decision as parts
    from offline_tf.models import compilation, networks

    dtype = networks.product_dtype(precision)
    planner, _ = parts.make_planner(parts.BenchmarkConfig(env="walker2d"), dtype)
    observation = tf.random.stateless_normal([_ENVIRONMENTS, planner.task.state_dim], [0, 0])
    plan = planner.initial_plan(observation)
    decide = compilation.compiled(planner.decide)

    def call(number: int) -> np.ndarray:
        return decide(observation, plan, tf.constant([0, number])).action.numpy()

    return call, lambda: call(0)


PARTS = {
    each.__name__: each for each in (forward, fit, roll_out, update, decision)
}  # cheap ones first


def one(
    name: str, precision: str, compiler: str, reference: pathlib.Path, is_reference: bool
) -> dict[str, Any]:
    """Measures a part in this process; keeps its result as the reference, or compares it."""
    from offline_tf.models import compilation

    compilation.use_threads(0)
    compilation.use_compiler(compiler)
    call, result = PARTS[name](precision)
    began = time.perf_counter()
    found = result()
    numbers: dict[str, Any] = {"first_s": time.perf_counter() - began}
    if is_reference:
        np.save(reference, found)
    elif found.size and reference.exists():
        expected = np.load(reference)
        scale = max(float(np.abs(expected).std()), 1e-9)
        numbers["worst_difference"] = float(np.abs(found - expected).max()) / scale
    spent = []
    for number in range(1, _CALLS + 1):
        began = time.perf_counter()
        call(number)
        spent.append(time.perf_counter() - began)
    return numbers | {"ms": 1e3 * float(np.median(spent))}


def quick(compiler: str, folder: pathlib.Path, limit: float, on_cpu: bool) -> dict[str, Any]:
    """The whole quick job of MOReL on Hopper, from making data to the export."""
    command = [sys.executable, "-m", "morel_tf.train", "--env=hopper", "--preset=quick"]
    command += [f"--compile={compiler}", f"--workdir={folder / compiler}"]
    command += [f"--data_dir={folder / compiler}-data"]  # each makes its own
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | (_HIDDEN if on_cpu else {}),
            timeout=max(limit, 1.0),
        )
    except subprocess.TimeoutExpired:
        return {"failed": "no time was left"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no words"])[-1]}
    summary = json.loads((folder / compiler / "summary.json").read_text())
    return {
        "seconds": time.perf_counter() - began,
        "stages": summary["stages"],
        "return": summary["true_return_mean"],
    }


def machine(device: str) -> dict[str, Any]:
    """What it is; in a process of its own, as TensorFlow takes the GPU's memory."""
    code = (
        "import json, tensorflow as tf\n"
        "found = [tf.config.experimental.get_device_details(d).get('device_name', d.name)\n"
        "         for d in tf.config.list_physical_devices('GPU')]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "gpus": json.loads(done.stdout.splitlines()[-1]),
        "device": device,
        "cores": os.cpu_count(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "commit": provenance.commit(),
    }


def table(found: dict[str, Any]) -> list[str]:
    """A record as a table for a page: milliseconds, and how far from the CPU's float32 results."""
    lines = ["| part | device | precision | compiler | ms | worst difference |"]
    lines.append("|---|---|---|---|---|---|")
    for part, numbers in found.items():
        words = part.split(", ")
        if len(words) == 4 and "ms" in numbers:
            worst = numbers.get("worst_difference")
            told = "" if worst is None else f"{worst:.1e}"
            lines.append(f"| {' | '.join(words)} | {numbers['ms']:.3g} | {told} |")
        elif isinstance(numbers, dict) and "seconds" in numbers:
            lines.append(f"| quick job | | | {words[1]} | {1e3 * numbers['seconds']:.3g} | |")
    return lines


def _child(words: list[str], on_cpu: bool, limit: float) -> dict[str, Any]:
    """Numbers of a part from a process; what went wrong where it fails."""
    hidden = _HIDDEN if on_cpu else {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *words],
            capture_output=True,
            text=True,
            env=os.environ | hidden | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=max(limit, 1.0),
        )
    except subprocess.TimeoutExpired:
        return {"failed": "no time was left"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no words"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Returns 0 where every part ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--record", type=pathlib.Path, default=RECORD)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, precision, compiler, reference, role = arguments.one
        numbers = one(name, precision, compiler, pathlib.Path(reference), role == "reference")
        print(json.dumps(numbers))
        return 0
    began = time.monotonic()
    found = machine(arguments.device)
    if arguments.device == "gpu" and not found["gpus"]:
        print(
            "error: expected a GPU that TensorFlow sees, found none; install tensorflow[and-cuda], or "
            "give --device=cpu to try the script",
            file=sys.stderr,
        )
        return 2

    def left() -> float:
        return 60.0 * arguments.minutes - (time.monotonic() - began)

    def note(part: str, numbers: dict[str, Any]) -> None:
        found[part] = numbers
        write_json(arguments.record, found)
        print(f"{part}: {numbers}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        for name in PARTS:
            reference = here / f"{name}.npy"
            words = ["--one", name, "float32", "graph", str(reference), "reference"]
            note(f"{name}, CPU, float32, graph", _child(words, True, left()))
            for precision in PRECISIONS:
                for compiler in COMPILERS:
                    words = ["--one", name, precision, compiler, str(reference), "compared"]
                    numbers = _child(words, arguments.device == "cpu", left())
                    note(f"{name}, {arguments.device}, {precision}, {compiler}", numbers)
        for compiler in COMPILERS:
            note(f"quick job, {compiler}", quick(compiler, here, left(), arguments.device == "cpu"))
    print("\n".join(table(found)))
    return int(any(isinstance(each, dict) and "failed" in each for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
