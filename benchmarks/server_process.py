"""`offline_tf.serve` as a process that is asked and watched."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time

from benchmarks import memory

_SIGNATURE = "serving_default"


class Server:
    """The server as a process."""

    def __init__(self, export: str, port: int) -> None:
        """Starts it and waits until it answers.

        Raises:
          RuntimeError: it does not, or has no such signature.
        """
        words = [f"--export={export}", f"--port={port}", "--name=model"]
        self.port = port
        self._process = subprocess.Popen(
            [sys.executable, "-m", "offline_tf.serve", *words], stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/healthz")[0] == 200:
                    break
            time.sleep(0.2)
        try:
            metadata = json.loads(self.ask("GET", "/v1/models/model/metadata")[1])
            signatures = metadata["metadata"]["signature_def"]["signature_def"]
            ((name, spec),) = signatures[_SIGNATURE]["inputs"].items()
        except (OSError, KeyError, ValueError) as error:
            self.close()
            raise RuntimeError(f"no answer from a server of {export}: {error!r}") from error
        width = int(spec["tensor_shape"]["dim"][-1]["size"])
        self.body = json.dumps({"signature_name": _SIGNATURE, "inputs": {name: [[0.1] * width]}})

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """One request over a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def megabytes(self) -> float:
        """Resident memory."""
        return memory.resident(self._process.pid)["VmRSS"] / 1e3

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stops it."""
        self._process.terminate()
        self._process.wait()
