"""An export over HTTP: paths, limits, a queue and metrics around `answers.Served`; see docs/serving.md.

Needs requirements-serve.txt.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pathlib
import resource
import socket
import time
from collections.abc import Awaitable, Callable

import prometheus_client
import uvicorn
from absl import logging
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from offline_tf.export import answers
from offline_tf.export.answers import Answer, Refused, Served
from offline_tf.types import UserError

_BODY_SECONDS = 30.0
_HEADER_SECONDS = 10.0
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


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


class _Impatient(H11Protocol):
    """Closes a connection whose next request does not begin in time; uvicorn waits for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; its first request has to come."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something came, which may be a part of a request's head."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None:
            self._late = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _allow_connections() -> None:
    """Raises the number of files that this process may hold open as far as it may."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, most), most))


def settings_of(app: Starlette, grace_seconds: int) -> uvicorn.Config:
    """How uvicorn serves an application.

    Args:
      app: see `application`.
      grace_seconds: that open requests have when the server ends.
    """
    return uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=grace_seconds,
    )


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
      Refused: it is larger than the limit, slow, or does not come.
    """
    body = bytearray()
    announced = request.headers.get("content-length", "")
    large = announced.isdecimal() and int(announced) > limit
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                large = large or len(body) > limit
                if large:
                    answers.refuse(f"expected a body of at most {limit} bytes", 413)
    except TimeoutError:
        answers.refuse(f"expected the whole body within {_BODY_SECONDS:g} s", 408)
    except ClientDisconnect:
        answers.refuse("the client went away")
    return bytes(body)


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
            return Answer(error.status, answers.error_body(str(error)))
        if len(waiting) >= workers + queue:
            return Answer(
                503, answers.error_body(f"busy: {len(waiting)} requests are before this one")
            )
        future = asyncio.get_running_loop().run_in_executor(pool, model.answer, body)
        waiting.add(future)
        try:
            return await future
        finally:
            waiting.discard(future)

    async def predict(request: Request) -> Response:
        began = time.perf_counter()
        answer = await answered(request)
        metrics.count(answer, time.perf_counter() - began)
        headers = {"Retry-After": "1"} if answer.status == 503 else None
        return _reply(answer.status, answer.body, headers)

    async def status(request: Request) -> Response:
        fine = {"error_code": "OK", "error_message": ""}
        entry = {"version": model.version, "state": "AVAILABLE", "status": fine}
        return _reply(200, answers.encode({"model_version_status": [entry]}))

    async def metadata(request: Request) -> Response:
        spec = {"name": name, "signature_name": "", "version": model.version}
        signatures = {"signature_def": {"signature_def": model.metadata}}
        return _reply(200, answers.encode({"model_spec": spec, "metadata": signatures}))

    async def health(request: Request) -> Response:
        return _reply(200, answers.encode({"status": "ok"}))

    async def counts(request: Request) -> Response:
        return Response(metrics.page(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = answers.quote(request.url.path)
        message = f"{error.detail}: {request.method} {path}"
        if error.status_code == 404:
            message = f"expected a path below /v1/models/{name}, /healthz or /metrics, got {path}"
        return _reply(error.status_code, answers.error_body(message), dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        return _reply(500, answers.error_body(answers.INTERNAL_ERROR))

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


def listener(host: str, port: int) -> socket.socket:
    """A socket that has its address; it does not listen yet.

    Raises:
      UserError: the address is not to be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            stack.pop_all()
    except (OSError, UnicodeError) as error:  # UnicodeError: what no host can be called
        raise _no_address(host, port, error) from None
    return listening


def _no_address(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"--host, --port: {host}:{port}: {reason}")


def serve(
    export: str | pathlib.Path,
    name: str,
    host: str,
    port: int,
    *,
    max_rows: int,
    max_body_bytes: int,
    workers: int,
    queue: int,
    grace_seconds: int,
) -> None:
    """Serves an export until SIGINT or SIGTERM comes.

    Args:
      export: its folder, or that of a run.
      name: of the model in paths; empty: the task's.
      host: address to listen on.
      port: of TCP; 0: any free one.
      max_rows: rows that a request may hold.
      max_body_bytes, workers, queue: see `application`.
      grace_seconds: that open requests have when the server ends.

    Raises:
      UserError: the address is taken, or the export cannot be served.
    """
    with listener(host, port) as listening:
        model = Served(export, max_rows)
        name = name or model.task
        app = application(model, name, max_body_bytes=max_body_bytes, workers=workers, queue=queue)
        model.warm_up()
        try:
            listening.listen(1024)
        except OSError as error:  # another process bound it too, and listens since
            raise _no_address(host, port, error) from None
        address, port = listening.getsockname()[:2]
        url_host = f"[{address}]" if ":" in address else address
        logging.info("serving %s at http://%s:%d/v1/models/%s", export, url_host, port, name)
        _allow_connections()
        uvicorn.Server(settings_of(app, grace_seconds)).run(sockets=[listening])
