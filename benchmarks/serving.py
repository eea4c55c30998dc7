"""python -m benchmarks.serving --export=FOLDER: latency and errors of offline_tf.serve.

The server is one process; a second one sends, over several connections that stay open, each the next
request when it has the last answer. Signatures and row counts are mixed, some requests are bad.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from flags import schema
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

USAGE = """
usage: python -m benchmarks.serving --export=FOLDER [--requests=10000] [--numbers=FILE]

Sends requests to a server of its own, checks every status and a sample of the numbers against the
SavedModel, and prints latencies. Needs `pip install -r requirements-serve.txt`.
"""
_ROWS = (1, 16)
_ONE_ROW = 0.8
# A bad request -> what its answer has to say.
_BAD = (
    (b'{"instances": [[1.0,', "expected JSON"),
    (b'{"signature_name": "no_such", "instances": [[1.0]]}', "signature_name: expected one of"),
    (b'{"signature_name": "NAME", "inputs": {"surplus": 1}}', "does not take"),
    (b'{"signature_name": "NAME", "inputs": {"INPUT": [[1.0, 2.0, 3.0]]}}', "expected"),
    (b'{"signature_name": "NAME", "inputs": {"INPUT": [[NaN]]}}', "expected finite numbers"),
)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmark."""

    export: str = knob("", "Folder of the export.")
    requests: int = knob(10_000, "Requests per entry of --connections.", low=100)
    connections: tuple[int, ...] = knob((1, 8), "Connections that are open at a time.", low=1)
    bad_share: float = knob(0.01, "Share of bad requests.", low=0.0, high=1.0)
    checked: int = knob(1000, "Answers that are compared with the SavedModel.", low=1)
    seed: int = knob(0, "Of the requests.", low=0)
    note: str = knob("", "What else the machine did; kept with the numbers.")
    numbers: str = knob("", "JSON file for the numbers.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


@dataclasses.dataclass(frozen=True)
class Sent:
    """A request, and what has to come back.

    Attributes:
      body: of the request.
      words: that a bad request's answer holds; "" for a good one.
      signature, rows, by_row: of a good one.
      inputs: its arrays as lists.
    """

    body: bytes
    words: str
    signature: str = ""
    rows: int = 0
    by_row: bool = False
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)


def make(config: BenchmarkConfig, signatures: dict[str, Any]) -> list[Sent]:
    """Requests for signatures as the server's metadata shows them."""
    generator = np.random.default_rng(config.seed)
    names = sorted(name for name in signatures if signatures[name]["inputs"])
    requests = []
    for number in range(config.requests):
        name = names[generator.integers(len(names))]
        inputs = signatures[name]["inputs"]
        if generator.random() < config.bad_share:
            body, words = _BAD[number % len(_BAD)]
            body = body.replace(b"NAME", name.encode()).replace(b"INPUT", min(inputs).encode())
            requests.append(Sent(body, words))
            continue
        rows = _ROWS[int(generator.random() > _ONE_ROW)]
        sizes = {key: [int(dim["size"]) for dim in _dims(spec)] for key, spec in inputs.items()}
        arrays: dict[str, Any] = {}
        for key, spec in inputs.items():
            shape = [rows if size == -1 else size for size in sizes[key]]
            if spec["dtype"] in ("DT_FLOAT", "DT_DOUBLE"):
                arrays[key] = generator.normal(size=shape).astype(np.float32).tolist()
            else:
                arrays[key] = generator.integers(2, size=shape).tolist()
        by_row = all(size[:1] == [-1] for size in sizes.values())
        request: dict[str, Any] = {"signature_name": name, "inputs": arrays}
        if by_row:
            instances = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values())]
            request = {"signature_name": name, "instances": instances}
        requests.append(Sent(json.dumps(request).encode(), "", name, rows, by_row, arrays))
    return requests


def _dims(spec: dict[str, Any]) -> list[dict[str, str]]:
    return spec["tensor_shape"]["dim"]


@contextlib.contextmanager
def server(config: BenchmarkConfig) -> Iterator[tuple[int, str]]:
    """A running server; gives its port and the model's path."""
    command = [sys.executable, "-m", "offline_tf.serve", f"--export={config.export}", "--port=0"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            match = None
            while not match:
                if process.poll() is not None:
                    log.seek(0)
                    raise UserError(f"the server ended: {log.read()[-300:].strip()}")
                time.sleep(0.1)
                log.seek(0)
                match = re.search(r"http://127\.0\.0\.1:(\d+)(/v1/models/\S+)\n", log.read())
            yield int(match[1]), match[2]
        finally:
            process.terminate()
    if process.returncode:
        raise RuntimeError(f"the server ended with {process.returncode} at SIGTERM")


def get(port: int, path: str) -> bytes:
    """The body at a path."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse().read()


def send(
    port: int, path: str, bodies: list[bytes], connections: int
) -> tuple[list[tuple[int, float, bytes]], float]:
    """Sends all bodies; runs in a process of its own.

    Returns:
      Status, seconds and answer of each; seconds of all.
    """
    numbers = itertools.count()
    answers: list[tuple[int, float, bytes]] = [(0, 0.0, b"")] * len(bodies)

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in iter(lambda: next(numbers), None):
            if number >= len(bodies):
                return
            began = time.perf_counter()
            try:
                connection.request("POST", path + ":predict", bodies[number])
                answer = connection.getresponse()
                body = answer.read()
                answers[number] = (answer.status, time.perf_counter() - began, body)
            except (OSError, http.client.HTTPException) as error:
                answers[number] = (0, time.perf_counter() - began, repr(error).encode())
                connection.close()

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        for future in [pool.submit(work) for _ in range(connections)]:
            future.result()
    return answers, time.perf_counter() - began


def wrong(sent: Sent, status: int, body: bytes) -> bool:
    """Whether an answer is not what has to come back, numbers aside."""
    answer = json.loads(body) if status else {}
    if sent.words:
        return status != 400 or sent.words not in answer.get("error", "")
    return status != 200 or ("predictions" if sent.by_row else "outputs") not in answer


def difference(config: BenchmarkConfig, sent: list[Sent], bodies: list[bytes]) -> float:
    """Largest difference of answers to the SavedModel's own, relative to values above 1."""
    import tensorflow as tf

    from offline_tf.export import loaded
    from offline_tf.models import compilation

    compilation.use_threads(0)
    model = tf.saved_model.load(str(loaded.find(config.export)))
    worst = 0.0
    for request, body in zip(sent, bodies, strict=True):
        function = model.signatures[request.signature]
        specs = function.structured_input_signature[1]
        live = function(
            **{key: tf.constant(v, specs[key].dtype) for key, v in request.inputs.items()}
        )
        answer = json.loads(body)
        outputs = answer["predictions"] if request.by_row else answer["outputs"]
        for key, value in live.items():
            expected = value.numpy().astype(np.float64)
            if len(live) == 1:
                column = outputs
            else:
                column = [row[key] for row in outputs] if request.by_row else outputs[key]
            actual = np.array(column, np.float64)
            assert actual.shape == expected.shape
            relative = np.abs(actual - expected) / np.maximum(np.abs(expected), 1.0)
            worst = float(np.maximum(worst, relative.max()))
    return worst


def measure(
    config: BenchmarkConfig, port: int, path: str, sent: list[Sent], connections: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Sends all requests from a second process; returns its numbers, and the answers."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        bodies = [request.body for request in sent]
        answers, seconds = process.submit(send, port, path, bodies, connections).result()
    times = 1e3 * np.array([spent for _, spent, _ in answers])
    kinds: dict[str, list[float]] = {}
    for request, spent in zip(sent, times, strict=True):
        kind = "bad" if request.words else f"{request.signature}, {request.rows} rows"
        kinds.setdefault(kind, []).append(spent)
    numbers = {
        "connections": connections,
        "wrong_answers": sum(
            wrong(request, status, body)
            for request, (status, _, body) in zip(sent, answers, strict=True)
        ),
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "max_ms": float(times.max()),
        "requests_per_s": len(sent) / seconds,
        "p50_ms_by_kind": {kind: float(np.median(kinds[kind])) for kind in sorted(kinds)},
    }
    return numbers, [body for _, _, body in answers]


def machine() -> str:
    """CPU, cores and Python."""
    names = re.findall(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main(config: BenchmarkConfig) -> None:
    """Measures, checks and prints."""
    with server(config) as (port, path):
        metadata = json.loads(get(port, path + "/metadata"))
        sent = make(config, metadata["metadata"]["signature_def"]["signature_def"])
        measured = [measure(config, port, path, sent, count) for count in config.connections]
        page = get(port, "/metrics").decode()
    counts = re.findall(r"^offline_tf_requests_total\{.*\} (\S+)$", page, re.MULTILINE)
    if sum(map(float, counts)) != len(sent) * len(measured):
        raise RuntimeError(f"expected {len(sent) * len(measured)} in the metrics, got {counts}")
    good = [number for number, request in enumerate(sent) if not request.words]
    sample = good[:: max(1, len(good) // config.checked)]
    runs = []
    for numbers, bodies in measured:
        largest = difference(config, [sent[i] for i in sample], [bodies[i] for i in sample])
        runs.append(numbers | {"checked": len(sample), "largest_difference": largest})
        shown = [f"{k} {v:.4g}" for k, v in runs[-1].items() if isinstance(v, int | float)]
        logging.info("%s", ", ".join(shown))
    if config.numbers:
        from offline_tf.run_folder.files import write_json

        about = {"model": path.rpartition("/")[2], "machine": machine()}
        settings = dataclasses.asdict(config)
        del settings["export"], settings["numbers"], settings["connections"]
        bad = len(sent) - len(good)
        write_json(
            pathlib.Path(config.numbers), about | settings | {"bad_requests": bad, "runs": runs}
        )


if __name__ == "__main__":
    schema.run(main, configs=[BenchmarkConfig], usage=USAGE)
