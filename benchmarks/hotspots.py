"""python -m benchmarks.hotspots [NAME ...]: what the hot paths spend their time on, by operation.

A tf.profiler trace of three calls of what benchmarks/run.py times. Shares are
of the time that all threads spent in operations.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import run

_CALLS = 3
_SHOWN = 5
_NOT_WORK = ("Process", "Run", "While", "StatelessWhile")  # they contain others


def _first(call: Callable[[int], Any]) -> Callable[[], Any]:
    return lambda: call(7)


def _training() -> Callable[[], Any]:
    from benchmarks import training

    training.use_threads("inter")
    epoch, _ = training.make("float32")
    return lambda: epoch(0)


def _decision() -> Callable[[], Any]:
    """`decide` in a graph; the export that run.py times is gone when its folder is."""
    import tensorflow as tf

    from benchmarks import decision
    from offline_tf.models import compilation

    compilation.use_threads(0)
    planner, _ = decision.make_planner(decision.BenchmarkConfig(env="hopper"))
    observation = tf.random.stateless_normal([1, planner.task.state_dim], [0, 0])
    start, graph = planner.initial_plan(observation), compilation.function(planner.decide)
    return lambda: graph(observation, start, tf.constant([0, 1])).action.numpy()


PATHS: dict[str, Callable[[], Callable[[], Any]]] = {
    "training": _training,
    "roll_out": lambda: _first(run.make_npg("float32").roll_out),
    "npg_iteration": lambda: _first(run.make_npg("float32").whole),
    "mopp_training": lambda: _first(run.make_mopp_training("float32")),
    "decision": _decision,
}


def shares(call: Callable[[], Any]) -> list[tuple[str, float, float]]:
    """(operation, share of the time, calls per call) of the largest."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    call()
    call()
    spent: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
        tf.profiler.experimental.start(folder, options=options)
        for _ in range(_CALLS):
            call()
        tf.profiler.experimental.stop()
        for path in pathlib.Path(folder).rglob("*.xplane.pb"):
            space = xplane_pb2.XSpace()
            space.ParseFromString(path.read_bytes())
            for plane in space.planes:
                names = {key: value.name for key, value in plane.event_metadata.items()}
                for line in plane.lines:
                    for event in line.events:
                        # Operations are "name:type".
                        _, colon, kind = names[event.metadata_id].rpartition(":")
                        if colon and kind.isidentifier() and kind not in _NOT_WORK:
                            spent[kind] += event.duration_ps
                            count[kind] += 1
    total = sum(spent.values())
    return [
        (kind, picoseconds / total, count[kind] / _CALLS)
        for kind, picoseconds in spent.most_common(_SHOWN)
    ]


def main() -> int:
    """Prints a row per path; each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"among {', '.join(PATHS)}; none: all")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--one", choices=list(PATHS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(shares(PATHS[arguments.one]())))
        return 0
    unknown = [name for name in arguments.names if name not in PATHS]
    if unknown:
        parser.error(f"expected names among {', '.join(PATHS)}, got {unknown[0]}")
    by_path: dict[str, Any] = {}
    for name in arguments.names or PATHS:
        command = [sys.executable, "-m", "benchmarks.hotspots", f"--one={name}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        by_path[name] = json.loads(ended.stdout.strip().splitlines()[-1])
        words = [
            f"{kind} {100 * share:.0f} % ({calls:.0f})" for kind, share, calls in by_path[name]
        ]
        print(f"{name}: {', '.join(words)}", flush=True)
    if arguments.output:
        content = {"machine": run.machine(), "shares_and_calls": by_path}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
