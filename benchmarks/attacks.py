"""What a server of an export does under attack: slow heads, idle connections, huge and deep bodies.

python -m benchmarks.attacks --export=RUN

The server runs with its own limits as a process of its own. Beside each attack an honest client asks
for an action over new connections; counted are its answers, their time, and the server's memory.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import pathlib
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.server_process import Server
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "attacks.json")
_CONNECTIONS = 10_000
_SECONDS = 20.0  # of an attack


def honest(server: Server, over: threading.Event, answers: list[tuple[int, float]]) -> None:
    """Asks for actions until it is over; an entry is (status, seconds), 0 for no answer."""
    while not over.is_set():
        began = time.monotonic()
        try:
            status = server.ask("POST", "/v1/models/model:predict", server.body)[0]
        except (OSError, http.client.HTTPException):
            status = 0
        answers.append((status, time.monotonic() - began))
        time.sleep(0.05)


@contextlib.contextmanager
def _connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                client.setblocking(False)
                found.append(stack.enter_context(client))
        yield found


def idle(server: Server) -> dict[str, Any]:
    """Many connections that say nothing."""
    with _connections(server, _CONNECTIONS) as clients:
        time.sleep(_SECONDS)
        return {"connections": len(clients)}


def slow_heads(server: Server) -> dict[str, Any]:
    """Connections that send a byte of a head each second."""
    with _connections(server, 1000) as clients:
        until = time.monotonic() + _SECONDS
        head = b"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000
        for number in range(len(head)):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(head[number : number + 1])
            time.sleep(1.0)
            if time.monotonic() > until:
                break
        return {"connections": len(clients)}


def slow_bodies(server: Server) -> dict[str, Any]:
    """Connections whose bodies do not come."""
    head = b"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with _connections(server, 1000) as clients:
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(head)
        time.sleep(_SECONDS)
        return {"connections": len(clients)}


def _bodies(server: Server, body: bytes, count: int) -> dict[str, Any]:
    statuses = []
    for _ in range(count):
        try:
            statuses.append(server.ask("POST", "/v1/models/model:predict", body.decode())[0])
        except (OSError, http.client.HTTPException):
            statuses.append(0)  # refused while it was still being sent
    return {"requests": count, "statuses": sorted(set(statuses))}


def huge_bodies(server: Server) -> dict[str, Any]:
    """Bodies of 64 MB."""
    return _bodies(server, b'{"inputs": "' + b"x" * 64_000_000 + b'"}', 20)


def deep_bodies(server: Server) -> dict[str, Any]:
    """Lists in lists, a million deep."""
    return _bodies(server, b'{"inputs": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", 50)


def wide_bodies(server: Server) -> dict[str, Any]:
    """As many numbers as a body may hold."""
    return _bodies(server, b'{"inputs": [' + b"1," * 4_000_000 + b"1]}", 20)


def nonsense(server: Server) -> dict[str, Any]:
    """Bytes that are no HTTP."""
    generator, count = np.random.default_rng(0), 2000
    for _ in range(count):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), timeout=5) as client,
        ):
            client.sendall(generator.bytes(200))
    return {"connections": count}


ATTACKS: dict[str, Callable[[Server], dict[str, Any]]] = {
    attack.__name__: attack
    for attack in (
        idle,
        slow_heads,
        slow_bodies,
        huge_bodies,
        deep_bodies,
        wide_bodies,
        nonsense,
    )
}


def main() -> int:
    """Attacks; returns how many attacks kept the honest client from its answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--export", required=True)
    parser.add_argument("--port", type=int, default=8599)
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = []
    with contextlib.closing(Server(arguments.export, arguments.port)) as server:
        for name, attack in ATTACKS.items():
            answers: list[tuple[int, float]] = []
            over, before = threading.Event(), server.megabytes()
            client = threading.Thread(target=honest, args=(server, over, answers))
            client.start()
            seen = attack(server)
            over.set()
            client.join()
            good = [seconds for status, seconds in answers if status == 200]
            found.append(
                {
                    "attack": name,
                    **seen,
                    "honest_requests": len(answers),
                    "honest_answers": len(good),
                    "honest_ms_median": round(1e3 * float(np.median(good or [np.nan])), 1),
                    "honest_ms_most": round(1e3 * max(good, default=np.nan), 1),
                    "memory_grew_mb": round(server.megabytes() - before, 1),
                    "alive": server.alive(),
                }
            )
            print(found[-1], flush=True)
    write_json(arguments.record, {"commit": provenance.commit(), "attacks": found})
    return sum(run["honest_answers"] < run["honest_requests"] for run in found)


if __name__ == "__main__":
    sys.exit(main())
