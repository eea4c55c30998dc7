"""python -m offline_tf.serve: an export over HTTP."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import signal
import sys

from flags import schema
from offline_tf import install_hints
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.serve --export=FOLDER [--name=NAME] [--host=127.0.0.1] [--port=8501]

Answers over HTTP in the form of TensorFlow Serving's REST interface: POST /v1/models/NAME:predict,
GET /v1/models/NAME and /v1/models/NAME/metadata; beside it GET /healthz and /metrics (Prometheus).
Examples, and the same export in TensorFlow Serving's container: docs/serving.md.
Needs requirements-serve.txt. Ctrl-C and SIGTERM let open requests finish.
"""
_OPTIONAL = ("prometheus_client", "starlette", "uvicorn")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Serving."""

    export: str = knob("", "Folder of the export, or of the run.")
    name: str = knob("", "Name of the model in paths; none: the task's.")
    host: str = knob(
        "127.0.0.1", "Address to listen on. There is no password: see docs/serving.md."
    )
    port: int = knob(8501, "Port; 0: any free one.", low=0, high=65535)
    max_rows: int = knob(256, "Rows of a request; a planner's memory grows with them.", low=1)
    max_body_bytes: int = knob(8 << 20, "Bytes of a request's body.", low=1)
    workers: int = knob(
        0, "Requests computed at a time, and TensorFlow's threads; 0: cores.", low=0
    )
    queue: int = knob(64, "Requests that wait for a worker; more get 503.", low=0)
    grace_seconds: int = knob(10, "Seconds that open requests have when the server ends.", low=0)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.export:
            raise UserError("--export: expected a path, got none")
        if self.name and not re.fullmatch(r"[\w.-]+", self.name, re.ASCII):
            raise UserError(f"--name: expected letters, digits and _.-, got {self.name!r}")


def main(config: ServeConfig) -> None:
    """Serves until a signal comes."""
    # While loading, and once uvicorn, which takes the signals while it serves, hands them on.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serving needs {', '.join(missing)}; {install_hints.install('requirements-serve.txt')}"
        )
    from offline_tf.export import http_server
    from offline_tf.models import compilation

    http_server.serve(
        config.export,
        name=config.name,
        host=config.host,
        port=config.port,
        max_rows=config.max_rows,
        max_body_bytes=config.max_body_bytes,
        workers=compilation.use_threads(config.workers),
        queue=config.queue,
        grace_seconds=config.grace_seconds,
    )


if __name__ == "__main__":
    schema.run(main, configs=[ServeConfig], usage=USAGE)
