"""An export over HTTP, in the form of TensorFlow Serving's REST interface; see docs/serving.md.

`Served` is the model: bytes of a request in, bytes of an answer out, whatever comes. `application` is
HTTP around it: paths, limits, a queue, metrics. Needs requirements-serve.txt.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import numpy as np
import prometheus_client
import tensorflow as tf
from absl import logging
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow.core.protobuf import saved_model_pb2

from offline_tf.export import loaded
from offline_tf.types import Array, UserError

DEFAULT_SIGNATURE = "serving_default"
_BODY_SECONDS = 30.0
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_KEYS = ("signature_name", "instances", "inputs")
_JSON_WORDS = {
    str: "a string",
    type(None): "null",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    float: "a fraction",
    int: "a number",
}


class Refused(Exception):
    """A request that is not answered; its one line goes to the client."""

    def __init__(self, status: int, message: str) -> None:
        """Holds what is sent."""
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes back.

    Attributes:
      status: of HTTP.
      body: JSON.
      signature: that was asked, or "unknown".
      rows: that were computed.
    """

    status: int
    body: bytes
    signature: str = "unknown"
    rows: int = 0


def find(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a SavedModel: the path, or "export" in it.

    Raises:
      UserError: neither is one.
    """
    for folder in (pathlib.Path(path), pathlib.Path(path) / "export"):
        if (folder / "saved_model.pb").is_file():
            return folder
    raise UserError(
        f"--export: expected a run folder or an export with saved_model.pb at {path}, found none"
    )


class Served:
    """A SavedModel whose signatures answer requests; safe to call from many threads.

    Attributes:
      task: name in interface.json; "default" where there is none, as in older exports.
      version: name of the folder where it is a number, as in TensorFlow Serving's layout, else "1".
      metadata: signature definitions as they are stored, in the form of protobuf's JSON.
    """

    def __init__(self, path: str | pathlib.Path, max_rows: int) -> None:
        """Loads it.

        Args:
          path: a run folder, or an export.
          max_rows: rows that a request may hold.

        Raises:
          UserError: there is none, it is damaged, or a signature takes or gives what is not a number.
        """
        folder = find(path)
        try:
            self._model = tf.saved_model.load(str(folder))  # signatures die with their model
            self.metadata = _metadata(folder)
            interface = folder / loaded.INTERFACE
            kept = json.loads(interface.read_text()) if interface.exists() else {}
            self.task = str(kept.get("task", "default"))
        except Exception as error:  # TensorFlow, protobuf and json raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--export: {folder} is damaged: {reason}") from None
        self.version = folder.resolve().name if folder.resolve().name.isdecimal() else "1"
        self._max_rows = max_rows
        self._functions = dict(self._model.signatures)
        self._inputs: dict[str, dict[str, Any]] = {
            name: dict(sorted(function.structured_input_signature[1].items()))
            for name, function in self._functions.items()
        }
        if not self._functions:
            raise UserError(f"--export: {folder} has no signatures")
        for name, function in self._functions.items():
            for key, spec in (self._inputs[name] | function.structured_outputs).items():
                if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
                    raise UserError(
                        f"--export: signature {name!r}: expected numbers in {key!r}, got "
                        f"{spec.dtype.name}"
                    )
            for key, spec in self._inputs[name].items():
                if spec.shape.rank is None:
                    raise UserError(f"--export: signature {name!r}: {key!r} is of unknown rank")

    def warm_up(self) -> None:
        """Calls every signature once, with zeros: first calls are slow."""
        for name, inputs in self._inputs.items():
            zeros = {
                key: tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)
                for key, spec in inputs.items()
            }
            try:
                self._functions[name](**zeros)
            except tf.errors.InvalidArgumentError as error:  # a model that takes no zeros
                logging.warning("signature %s is not warmed up: %s", name, _line(error))

    def answer(self, body: bytes) -> Answer:
        """Answers the body of a predict request; raises nothing."""
        name = "unknown"
        try:
            request = _parse(body)
            name = self._signature(request)
            by_row = "instances" in request
            given = self._by_row(name, request) if by_row else self._by_column(name, request)
            arrays = {
                key: _array(key, value, self._inputs[name][key]) for key, value in given.items()
            }
            rows = len(request["instances"]) if by_row else self._rows(name, arrays)
            found = self._call(name, arrays)
            body = _encode(_predictions(name, found, rows) if by_row else _outputs(found))
            return Answer(200, body, name, rows)
        except Refused as error:
            return Answer(error.status, error_body(str(error)), name)
        except Exception:
            logging.exception("signature %s", name)
            return Answer(500, error_body("internal error; the server's log says more"), name)

    def _signature(self, request: dict[str, Any]) -> str:
        unknown = sorted(set(request) - set(_KEYS))
        if unknown:
            _refuse(f"expected no keys but {', '.join(_KEYS)}, got {_quote(unknown[0])}")
        if ("instances" in request) == ("inputs" in request):
            _refuse("expected either instances (rows) or inputs (columns)")
        name = request.get("signature_name", DEFAULT_SIGNATURE)
        if not isinstance(name, str) or name not in self._functions:
            names = ", ".join(sorted(self._functions))
            _refuse(f"signature_name: expected one of {names}, got {_quote(name)}")
        return name

    def _by_row(self, name: str, request: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns of the row format."""
        specs, instances = self._inputs[name], request["instances"]
        heads = {spec.shape[0] if spec.shape.rank else 0 for spec in specs.values()}
        if len(heads) != 1 or 0 in heads:
            shapes = ", ".join(f"{key} {_words(spec)}" for key, spec in specs.items())
            _refuse(
                f"signature {name!r} has inputs that are not one per row ({shapes}); send columns: "
                '{"inputs": {...}} instead of instances'
            )
        if not isinstance(instances, list) or not instances:
            _refuse(f"instances: expected a list of rows, got {_quote(instances)}")
        self._limit(len(instances))
        objects = [isinstance(row, dict) for row in instances]
        if not any(objects) and len(specs) == 1:
            return {next(iter(specs)): instances}
        if not all(objects):
            at = objects.index(False)
            _refuse(f"instances[{at}]: expected an object with {', '.join(specs)}")
        for at, row in enumerate(instances):
            _same_names(f"instances[{at}]", row, specs)
        return {key: [row[key] for row in instances] for key in specs}

    def _by_column(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Columns of the column format."""
        specs, inputs = self._inputs[name], request["inputs"]
        if not isinstance(inputs, dict):
            if len(specs) != 1:
                _refuse(f"inputs: expected an object with {', '.join(specs) or 'nothing'}")
            inputs = {next(iter(specs)): inputs}
        _same_names("inputs", inputs, specs)
        for key, spec in specs.items():
            if isinstance(inputs[key], list) and spec.shape.rank and spec.shape[0] is None:
                self._limit(len(inputs[key]))
        return inputs

    def _limit(self, rows: int) -> None:
        if rows > self._max_rows:
            _refuse(f"expected at most {self._max_rows} rows in a request, got {rows}")

    def _rows(self, name: str, arrays: dict[str, Array]) -> int:
        """Rows of a request; 1 for a signature without rows."""
        specs = self._inputs[name]
        sizes = {
            key: len(arrays[key])
            for key, spec in specs.items()
            if spec.shape.rank and spec.shape[0] is None
        }
        if len(set(sizes.values())) > 1:
            words = ", ".join(f"{key} {size}" for key, size in sizes.items())
            _refuse(f"expected the same number of rows in all inputs, got {words}")
        return next(iter(sizes.values()), 1)

    def _call(self, name: str, arrays: dict[str, Array]) -> dict[str, Array]:
        specs = self._inputs[name]
        given = {key: tf.constant(values, specs[key].dtype) for key, values in arrays.items()}
        try:
            found = self._functions[name](**given)
            return {key: value.numpy() for key, value in sorted(found.items())}
        except tf.errors.InvalidArgumentError as error:  # such as a member that does not exist
            _refuse(f"signature {name!r}: {_line(error)}")


def _metadata(folder: pathlib.Path) -> dict[str, Any]:
    stored = saved_model_pb2.SavedModel()
    stored.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        name: json_format.MessageToDict(
            definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, definition in sorted(stored.meta_graphs[0].signature_def.items())
    }


def _refuse(message: str, status: int = 400) -> NoReturn:
    raise Refused(status, message)


def _quote(value: Any) -> str:
    """The client's own words, short enough to send back."""
    words = json.dumps(value)
    return words if len(words) <= 60 else words[:57] + "..."


def _line(error: tf.errors.OpError) -> str:
    """TensorFlow's message without its names of nodes."""
    return re.sub(r"\{\{.*?\}\}\s*", "", str(error.message)).partition("\n")[0][:200]


def _parse(body: bytes) -> dict[str, Any]:
    def no_number(word: str) -> NoReturn:
        _refuse(f"expected finite numbers, got {word}, which JSON does not have")

    try:
        request = json.loads(body, parse_constant=no_number)
    except RecursionError:
        _refuse("expected JSON, got lists or objects too deep")
    except ValueError as error:  # not JSON, not UTF-8, an endless number
        _refuse(f"expected JSON, got: {str(error)[:100]}")
    if not isinstance(request, dict):
        _refuse(f"expected a JSON object, got {_JSON_WORDS[type(request)]}")
    return request


def _same_names(where: str, given: dict[str, Any], specs: dict[str, Any]) -> None:
    if given.keys() != specs.keys():
        parts = [f"{where}: expected {', '.join(specs) or 'nothing'}"]
        parts += [f"lacks {key}" for key in specs if key not in given][:3]
        parts += [f"does not take {_quote(key)}" for key in given if key not in specs][:3]
        _refuse("; ".join(parts))


def _words(spec: Any) -> str:
    """A shape such as [B, 17]."""
    sizes = ["?" if size is None else str(size) for size in spec.shape]
    if sizes and spec.shape[0] is None:
        sizes[0] = "B"
    return f"[{', '.join(sizes)}]"


def _array(name: str, value: Any, spec: Any) -> Array:
    """Nested lists as an array of a signature's shape and type."""
    sizes, level = [], [value]
    while level and type(level[0]) is list:
        if {*map(type, level)} != {list} or len({*map(len, level)}) != 1:
            _refuse(f"{name}: expected shape {_words(spec)}, got lists of different lengths")
        sizes.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    wanted, kinds = "numbers", {int, float}
    if spec.dtype.is_bool:
        wanted, kinds = "true or false", {bool}
    elif spec.dtype.is_integer:
        wanted, kinds = "whole numbers", {int}
    others = {*map(type, level)} - kinds
    if others:
        _refuse(f"{name}: expected {wanted}, got {_JSON_WORDS[min(others, key=str)]}")
    if not spec.shape.is_compatible_with(sizes) or not level:
        shown = [str(size) for size in sizes[:6]] + ["..."] * (len(sizes) > 6)
        _refuse(f"{name}: expected shape {_words(spec)}, got [{', '.join(shown)}]")
    try:
        if not spec.dtype.is_floating:
            return np.array(level, spec.dtype.as_numpy_dtype).reshape(sizes)
        with np.errstate(over="ignore"):
            numbers = np.array(level, np.float64).astype(spec.dtype.as_numpy_dtype)
    except OverflowError:
        _refuse(f"{name}: expected numbers in the range of {spec.dtype.name}")
    if not np.isfinite(numbers).all():
        _refuse(f"{name}: expected finite numbers in the range of {spec.dtype.name}")
    return numbers.reshape(sizes)


def _plain(values: Array) -> Any:
    """An array as nested lists; what is not finite as None, for JSON has no word for it."""
    if values.dtype.kind in "biu":
        return values.tolist()
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if finite.all():
        return numbers.tolist()
    found = numbers.astype(object)
    found[~finite] = None
    return found.tolist()


def _predictions(name: str, found: dict[str, Array], rows: int) -> dict[str, Any]:
    for key, values in found.items():
        if values.ndim == 0 or len(values) != rows:
            _refuse(
                f"signature {name!r} gives {key} of shape {list(values.shape)}, which is not one per "
                'row; send columns: {"inputs": {...}} instead of instances'
            )
    columns = [_plain(values) for values in found.values()]
    if len(columns) == 1:
        return {"predictions": columns[0]}
    return {"predictions": [dict(zip(found, row, strict=True)) for row in zip(*columns)]}


def _outputs(found: dict[str, Array]) -> dict[str, Any]:
    columns = {key: _plain(values) for key, values in found.items()}
    return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}


def _encode(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_body(message: str) -> bytes:
    """The JSON of an error."""
    return _encode({"error": message})


class _Metrics:
    """Counts of predict requests, in Prometheus' form."""

    def __init__(self, in_progress: Callable[[], float]) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "offline_tf_requests", "Predict requests.", ["signature", "code"], registry=registry
        )
        self._rows = prometheus_client.Counter(
            "offline_tf_rows", "Rows computed.", ["signature"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "offline_tf_request_seconds",
            "From a request's head to its answer.",
            ["signature"],
            buckets=_BUCKETS,
            registry=registry,
        )
        gauge = prometheus_client.Gauge(
            "offline_tf_requests_in_progress", "Computed or waiting.", registry=registry
        )
        gauge.set_function(in_progress)
        prometheus_client.ProcessCollector(registry=registry)

    def count(self, answer: Answer, seconds: float) -> None:
        """Counts an answer."""
        self._requests.labels(answer.signature, str(answer.status)).inc()
        self._seconds.labels(answer.signature).observe(seconds)
        if answer.rows:
            self._rows.labels(answer.signature).inc(answer.rows)

    def page(self) -> bytes:
        """Everything counted."""
        return prometheus_client.generate_latest(self._registry)


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
      Refused: it is larger than the limit, slow, or does not come.
    """
    found = bytearray()
    announced = request.headers.get("content-length", "")
    large = announced.isdecimal() and int(announced) > limit
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                found += part
                large = large or len(found) > limit
                if large:
                    _refuse(f"expected a body of at most {limit} bytes", 413)
    except TimeoutError:
        _refuse(f"expected the whole body within {_BODY_SECONDS:g} s", 408)
    except ClientDisconnect:
        _refuse("the client went away")
    return bytes(found)


def _reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def application(
    model: Served,
    name: str,
    *,
    max_body_bytes: int,
    workers: int,
    queue: int,
) -> Starlette:
    """The ASGI application.

    Args:
      model: what answers; called in threads.
      name: of the model in paths.
      max_body_bytes: larger bodies get 413.
      workers: requests that are computed at a time.
      queue: requests that wait for a worker; more get 503.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers, "predict")
    waiting: set[Awaitable[Answer]] = set()
    metrics = _Metrics(lambda: len(waiting))

    async def answered(request: Request) -> Answer:
        try:
            body = await _body(request, max_body_bytes)
        except Refused as error:
            return Answer(error.status, error_body(str(error)))
        if len(waiting) >= workers + queue:
            return Answer(503, error_body(f"busy: {len(waiting)} requests are before this one"))
        future = asyncio.get_running_loop().run_in_executor(pool, model.answer, body)
        waiting.add(future)
        try:
            return await future
        finally:
            waiting.discard(future)

    async def predict(request: Request) -> Response:
        began = time.perf_counter()
        found = await answered(request)
        metrics.count(found, time.perf_counter() - began)
        return _reply(
            found.status, found.body, {"Retry-After": "1"} if found.status == 503 else None
        )

    async def status(request: Request) -> Response:
        fine = {"error_code": "OK", "error_message": ""}
        entry = {"version": model.version, "state": "AVAILABLE", "status": fine}
        return _reply(200, _encode({"model_version_status": [entry]}))

    async def metadata(request: Request) -> Response:
        spec = {"name": name, "signature_name": "", "version": model.version}
        signatures = {"signature_def": {"signature_def": model.metadata}}
        return _reply(200, _encode({"model_spec": spec, "metadata": signatures}))

    async def health(request: Request) -> Response:
        return _reply(200, _encode({"status": "ok"}))

    async def counts(request: Request) -> Response:
        return Response(metrics.page(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = _quote(request.url.path)
        message = f"{error.detail}: {request.method} {path}"
        if error.status_code == 404:
            message = f"expected a path below /v1/models/{name}, /healthz or /metrics, got {path}"
        return _reply(error.status_code, error_body(message), dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        return _reply(500, error_body("internal error; the server's log says more"))

    root = f"/v1/models/{name}"
    routes = [
        Route("/healthz", health, methods=["GET"]),
        Route("/metrics", counts, methods=["GET"]),
    ]
    for base in (root, f"{root}/versions/{model.version}"):
        routes += [
            Route(f"{base}:predict", predict, methods=["POST"]),
            Route(base, status, methods=["GET"]),
            Route(f"{base}/metadata", metadata, methods=["GET"]),
        ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refused, Exception: failed})
