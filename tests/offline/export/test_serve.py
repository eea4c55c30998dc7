"""An export over HTTP. Needs requirements-serve.txt; skips without it."""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf import serve
from offline_tf.export import saved_model
from offline_tf.types import UserError

pytest.importorskip("prometheus_client", reason="pip install -r requirements-serve.txt")
pytest.importorskip("starlette", reason="pip install -r requirements-serve.txt")
uvicorn = pytest.importorskip("uvicorn", reason="pip install -r requirements-serve.txt")
from offline_tf.export import answers, http_server  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
TASK = toys.cart()
ROWS = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
MAX_ROWS, MAX_BYTES = 8, 2000


class _Toy(tf.Module):
    """Signatures of every kind that exports have."""

    def __init__(self):
        super().__init__()
        self.gain = tf.Variable(0.3)

    def scale(self, x):
        return {"y": self.gain * x}

    def judge(self, x, a):
        size = tf.reduce_sum(x, axis=1) + 10.0 * a[:, 0]
        return {"known": size > 0.0, "size": size, "next": x + a}

    def draw(self, x, seed):
        return {"y": x + 100.0 * tf.cast(seed[1], tf.float32)}

    def pick(self, x, member):
        return {"y": tf.gather([1.0, 2.0], member) * x[:, 0]}

    def total(self, x):
        return {"sum": tf.reduce_sum(x)}

    def inverse(self, x):
        return {"y": 1.0 / x}


def _spec(*shape, dtype=tf.float32, name="x"):
    return tf.TensorSpec(shape, dtype, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "export"
    toy, x = _Toy(), _spec(None, 2)
    given = {
        "scale": [x],
        "judge": [x, _spec(None, 1, name="a")],
        "draw": [x, _spec(2, dtype=tf.int32, name="seed")],
        "pick": [x, _spec(None, dtype=tf.int32, name="member")],
        "total": [x],
        "inverse": [x],
    }
    made = {
        name: tf.function(getattr(toy, name)).get_concrete_function(*specs)
        for name, specs in given.items()
    }
    made["serving_default"] = made.pop("scale")
    saved_model.save(toy, path, made, TASK, "words")
    return path


@pytest.fixture(scope="module")
def model(folder):
    loaded = answers.Served(folder.parent, MAX_ROWS)
    loaded.warm_up()
    return loaded


@contextlib.contextmanager
def _serving(model, workers=2, queue=8):
    """A server in a thread; gives its port."""
    app = http_server.application(
        model, "cart", max_body_bytes=MAX_BYTES, workers=workers, queue=queue
    )
    server = uvicorn.Server(http_server.settings_of(app, grace_seconds=5))
    with http_server.listener("127.0.0.1", 0) as ear:
        ear.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ear]})
        thread.start()
        try:
            yield ear.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(model):
    with _serving(model) as found:
        yield found


def _ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    return answer.status, found, dict(answer.getheaders())


def _no_word(word):
    raise AssertionError(f"{word} is not JSON")


def _predict(port, path="/v1/models/cart:predict", **request):
    status, body, _ = _ask(port, "POST", path, request)
    return status, json.loads(body, parse_constant=_no_word)


def test_rows_and_columns_give_the_functions_numbers_to_the_bit(port, folder):
    live = tf.saved_model.load(str(folder)).signatures
    scaled = live["serving_default"](x=tf.constant(ROWS))["y"].numpy()
    np.testing.assert_allclose(scaled, 0.3 * ROWS, rtol=1e-6)
    rows = ROWS.tolist()
    for path in ("/v1/models/cart:predict", "/v1/models/cart/versions/1:predict"):
        assert _predict(port, path, instances=rows) == (200, {"predictions": scaled.tolist()})
    named = [{"x": row} for row in rows]
    assert _predict(port, instances=named)[1] == {"predictions": scaled.tolist()}
    for inputs in (rows, {"x": rows}):
        assert _predict(port, inputs=inputs) == (200, {"outputs": scaled.tolist()})

    actions = [[0.25 * i] for i in range(-2, 3)]
    judged = live["judge"](x=tf.constant(ROWS), a=tf.constant(actions))
    judged = {name: value.numpy().tolist() for name, value in judged.items()}
    total = (ROWS.sum(axis=1) + 10 * np.array(actions)[:, 0]).tolist()
    np.testing.assert_allclose(judged["size"], total, rtol=1e-5)
    assert judged["known"] == [size > 0 for size in total]
    instances = [{"x": row, "a": action} for row, action in zip(rows, actions, strict=True)]
    status, found = _predict(port, signature_name="judge", instances=instances)
    expected = [{name: judged[name][i] for name in judged} for i in range(5)]
    assert (status, found) == (200, {"predictions": expected})
    inputs = {"x": rows, "a": actions}
    assert _predict(port, signature_name="judge", inputs=inputs) == (200, {"outputs": judged})


def test_inputs_and_outputs_that_are_not_one_per_row_need_columns(port):
    status, found = _predict(
        port, signature_name="draw", inputs={"x": [[1, 2], [3, 4]], "seed": [0, 2]}
    )
    assert (status, found) == (200, {"outputs": [[201.0, 202.0], [203.0, 204.0]]})
    # Two rows of one number each would make a seed by accident.
    for seed in ([0, 2], 0):
        rows = [{"x": [1, 2], "seed": seed}] * 2
        status, found = _predict(port, signature_name="draw", instances=rows)
        assert status == 400
        assert "(seed [2], x [B, 2]); send columns" in found["error"]
    assert _predict(port, signature_name="total", inputs=[[1, 2], [3, 4]])[1] == {"outputs": 10.0}
    status, found = _predict(port, signature_name="total", instances=[[1, 2], [3, 4]])
    assert status == 400 and "send columns" in found["error"]


def test_what_is_not_finite_is_null_in_answers(port):
    found = _predict(port, signature_name="inverse", instances=[[0.0, 4.0]])
    assert found == (200, {"predictions": [[None, 0.25]]})


X = "x: expected "
REFUSED = [
    (b"", "expected JSON, got: "),
    (b'{"instances": [[1, 2]]', "expected JSON, got: "),
    (b"\xff\xfe\xfd", "expected JSON, got: "),
    (b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}", X + "shape [B, 2], got [1, 1, 1, 1"),
    (b"[[1, 2]]", "expected a JSON object, got a list"),
    (b'{"instances": [[1, NaN]]}', "expected finite numbers, got NaN"),
    (b'{"instances": [[1, -Infinity]]}', "expected finite numbers, got -Infinity"),
    (b'{"instances": [[1, 1e999]]}', X + "finite numbers in the range of float32"),
    (b'{"instances": [[1, 1e39]]}', X + "finite numbers in the range of float32"),
    (b'{"instances": [[1, 1' + b"0" * 400 + b"]]}", X + "numbers in the range of float32"),
    ({}, "expected either instances (rows) or inputs (columns)"),
    ({"instances": [[1, 2]], "inputs": [[1, 2]]}, "expected either instances"),
    ({"instances": [[1, 2]], "signature": "total"}, 'expected no keys but ..., got "signature"'),
    (
        {"signature_name": "fly", "inputs": 1},
        "signature_name: expected one of draw, inverse, judge, ...serving_default",
    ),
    (
        {"signature_name": ["judge"], "inputs": 1},
        'signature_name: expected one of ..., got ["judge"]',
    ),
    ({"instances": 3}, "instances: expected a list of rows, got 3"),
    ({"instances": []}, "instances: expected a list of rows, got []"),
    ({"inputs": []}, X + "shape [B, 2], got [0]"),
    ({"instances": [[1, 2, 3]]}, X + "shape [B, 2], got [1, 3]"),
    ({"instances": [1, 2]}, X + "shape [B, 2], got [2]"),
    ({"instances": [[1, 2], [3]]}, X + "shape [B, 2], got lists of different lengths"),
    ({"instances": [[1, 2], 3]}, X + "shape [B, 2], got lists of different lengths"),
    ({"instances": [[1, "2"]]}, X + "numbers, got a string"),
    ({"instances": [[1, None]]}, X + "numbers, got null"),
    ({"instances": [[1, True]]}, X + "numbers, got true or false"),
    ({"instances": [[1, [2]]]}, X + "numbers, got a list"),
    ({"inputs": {"y": [[1, 2]]}}, 'inputs: expected x; lacks x; does not take "y"'),
    ({"inputs": {"x": [[1, 2]], "\ud800": 0}}, "inputs: expected x; does not take "),
    ({"signature_name": "judge", "instances": [[1, 2]]}, "instances[0]: expected an object"),
    (
        {"signature_name": "judge", "instances": [{"x": [1, 2]}]},
        "instances[0]: expected a, x; lacks a",
    ),
    ({"signature_name": "judge", "inputs": [[1, 2]]}, "inputs: expected an object with a, x"),
    (
        {"signature_name": "judge", "inputs": {"x": [[1, 2]] * 2, "a": [[1]] * 3}},
        "expected the same number of rows in all inputs, got a 3, x 2",
    ),
    (
        {"signature_name": "draw", "inputs": {"x": [[1, 2]], "seed": [0, 0.5]}},
        "seed: expected whole numbers, got a fraction",
    ),
    (
        {"signature_name": "draw", "inputs": {"x": [[1, 2]], "seed": [0, 2**31]}},
        "seed: expected numbers in the range of int32",
    ),
    ({"signature_name": "pick", "inputs": {"x": [[1, 2]], "member": [7]}}, "signature 'pick': "),
    ({"instances": [[1, 2]] * 9}, "expected at most 8 rows in a request, got 9"),
    ({"inputs": {"x": [[1, 2]] * 9}}, "expected at most 8 rows in a request, got 9"),
]


@pytest.mark.parametrize("request_, message", REFUSED)
def test_bad_requests_get_400_and_one_line(port, request_, message):
    status, body, headers = _ask(port, "POST", "/v1/models/cart:predict", request_)
    found = json.loads(body)
    assert status == 400 and list(found) == ["error"]
    assert headers["content-type"] == "application/json"
    pattern = ".*".join(map(re.escape, message.split("...")))
    assert re.match(pattern, found["error"]), found["error"]
    assert len(found["error"]) < 300 and "\n" not in found["error"]
    assert "Traceback" not in found["error"] and "{{" not in found["error"]


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("POST", "/v1/models/ant:predict", 404),
        ("POST", "/v1/models/cart/versions/2:predict", 404),
        ("POST", "/v1/models/cart:classify", 404),
        ("GET", "/v1/models/ant", 404),
        ("GET", "/", 404),
        ("GET", "/v1/models/cart:predict", 405),
        ("POST", "/v1/models/cart", 405),
        ("DELETE", "/healthz", 405),
    ],
)
def test_wrong_paths_and_methods(port, method, path, status):
    found, body, _ = _ask(port, method, path)
    assert found == status
    assert path in json.loads(body)["error"]


def test_large_bodies_get_413_announced_or_not(port):
    body = b'{"instances": [[1.0, 2.0]]}'
    fits, large = body + b" " * (MAX_BYTES - len(body)), b" " * (MAX_BYTES + 1)
    assert _ask(port, "POST", "/v1/models/cart:predict", fits)[0] == 200
    status, found, _ = _ask(port, "POST", "/v1/models/cart:predict", large)
    assert status == 413 and b"at most 2000 bytes" in found
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    parts = iter([large[:1000], large[:1001]])
    connection.request("POST", "/v1/models/cart:predict", parts, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_client_that_leaves_in_the_middle_harms_nobody(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /v1/models/cart:predict HTTP/1.1\r\nHost: x\r\n")
        client.sendall(b"Content-Length: 100\r\n\r\n{")
    assert _predict(port, instances=[[1, 2]])[0] == 200


def _time_until_closed(port, send):
    """Seconds until the server closes a connection on which `send` puts a byte every 50 ms."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.settimeout(0.05)
        for number in range(400):
            with contextlib.suppress(OSError):
                client.sendall(send(number))
            try:
                if client.recv(1000) == b"":
                    return time.monotonic() - began
            except TimeoutError:
                continue
            except OSError:
                return time.monotonic() - began
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize(
    "send",
    [
        lambda number: b"",
        lambda number: b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "[number : number + 1] or b"y",
    ],
    ids=["silent", "slow"],
)
def test_a_client_that_never_finishes_its_head_is_left(model, monkeypatch, send):
    monkeypatch.setattr(http_server, "_HEADER_SECONDS", 0.5)
    with _serving(model) as port:
        assert 0.4 < _time_until_closed(port, send) < 5.0
        assert _predict(port, instances=[[1, 2]])[0] == 200


def test_a_client_may_be_slow_between_requests_and_with_its_body(model, monkeypatch):
    monkeypatch.setattr(http_server, "_HEADER_SECONDS", 0.5)
    body = b'{"instances": [[1, 2]]}'
    head = (
        f"POST /v1/models/cart:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with (
        _serving(model) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
    ):
        for _ in range(2):
            client.sendall(head.encode() + body[:5])
            time.sleep(0.8)
            client.sendall(body[5:])
            answer = b""
            while not answer.endswith(b"}"):  # head and body may come apart
                part = client.recv(1000)
                assert part
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.8)


def test_status_health_and_metadata_have_tensorflow_servings_form(port):
    assert _ask(port, "GET", "/healthz")[:2] == (200, b'{"status":"ok"}')
    fine = {"error_code": "OK", "error_message": ""}
    expected = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": fine}]}
    for path in ("/v1/models/cart", "/v1/models/cart/versions/1"):
        status, body, _ = _ask(port, "GET", path)
        assert (status, json.loads(body)) == (200, expected)
        status, body, _ = _ask(port, "GET", path + "/metadata")
        found = json.loads(body)
        assert found["model_spec"] == {"name": "cart", "signature_name": "", "version": "1"}
        signatures = found["metadata"]["signature_def"]["signature_def"]
        seed = signatures["draw"]["inputs"]["seed"]
        assert seed["dtype"] == "DT_INT32" and not seed["tensor_shape"]["unknown_rank"]
        assert seed["tensor_shape"]["dim"] == [{"size": "2", "name": ""}]
        known = signatures["judge"]["outputs"]["known"]
        assert known["dtype"] == "DT_BOOL" and known["tensor_shape"]["dim"][0]["size"] == "-1"


def _count(port, name):
    page = _ask(port, "GET", "/metrics")[1].decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_requests_rows_and_seconds(port):
    names = [
        'offline_tf_requests_total{code="200",signature="judge"}',
        'offline_tf_requests_total{code="400",signature="judge"}',
        'offline_tf_requests_total{code="400",signature="unknown"}',
        'offline_tf_rows_total{signature="judge"}',
        'offline_tf_request_seconds_count{signature="judge"}',
        'offline_tf_request_seconds_bucket{le="+Inf",signature="judge"}',
    ]
    before = [_count(port, name) for name in names]
    rows = [{"x": [1, 2], "a": [1]}]
    for count in (1, 2, 4):
        assert _predict(port, signature_name="judge", instances=rows * count)[0] == 200
    assert _predict(port, signature_name="judge", instances=[{}])[0] == 400
    assert _predict(port, signature_name='a"b\n', instances=rows)[0] == 400
    changed = [_count(port, name) - was for name, was in zip(names, before, strict=True)]
    assert changed == [3, 1, 1, 7, 4, 4]
    assert _count(port, "offline_tf_requests_in_progress") == 0


def test_concurrent_clients_get_their_own_answers(model):
    def ask(client):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        wrong = 0
        for number in range(25):
            body = json.dumps({"signature_name": "total", "inputs": [[client, number]]})
            connection.request("POST", "/v1/models/cart:predict", body)
            wrong += json.loads(connection.getresponse().read()) != {"outputs": client + number}
        connection.close()
        return wrong

    with _serving(model) as port, concurrent.futures.ThreadPoolExecutor(4) as clients:
        assert list(clients.map(ask, (100, 200, 300, 400))) == [0, 0, 0, 0]
        assert _count(port, 'offline_tf_rows_total{signature="total"}') == 100


def test_a_full_queue_gets_503_and_a_failure_500_while_health_answers(model):
    free, begun = threading.Event(), threading.Semaphore(0)

    def slow(body):
        begun.release()
        assert free.wait(5)
        return model.answer(body)

    stand_in = types.SimpleNamespace(answer=slow, version="7", metadata={})
    with (
        _serving(stand_in, workers=1, queue=1) as port,
        concurrent.futures.ThreadPoolExecutor(2) as clients,
    ):
        path = "/v1/models/cart/versions/7:predict"
        asked = [clients.submit(_predict, port, path, instances=[[10, 0]]) for _ in range(2)]
        assert begun.acquire(timeout=20)
        for _ in range(500):
            if _count(port, "offline_tf_requests_in_progress") == 2:
                break
        assert _ask(port, "GET", "/healthz")[0] == 200
        status, body, headers = _ask(port, "POST", path, b"{}")
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body) == {"error": "busy: 2 requests are before this one"}
        free.set()
        assert [request.result()[0] for request in asked] == [200, 200]
        assert _count(port, 'offline_tf_requests_total{code="503",signature="unknown"}') == 1
        stand_in.answer = None  # calling it fails
        status, body, _ = _ask(port, "POST", path, b"{}")
        assert status == 500 and b"Error" not in body and json.loads(body)["error"]


def test_a_failing_model_gets_500_without_its_words(model, monkeypatch):
    def fails(**_):
        raise RuntimeError("secret")

    monkeypatch.setitem(model._functions, "total", fails)
    found = model.answer(b'{"signature_name": "total", "inputs": [[1, 2]]}')
    assert found.status == 500 and b"secret" not in found.body


def test_numbered_folders_are_versions_and_no_model_is_one_line(folder, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "12").symlink_to(folder)
    assert answers.Served(folder, 1).version == "1"
    with pytest.raises(UserError, match="expected a run folder or an export with saved_model.pb"):
        answers.Served(tmp_path, 1)
    (tmp_path / "saved_model.pb").write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged: "):
        answers.Served(tmp_path, 1)


def test_lists_too_deep_for_python_are_refused(model):
    found = model.answer(b"[" * 200_000)
    message = "expected JSON, got lists or objects too deep"
    assert found.status == 400 and json.loads(found.body) == {"error": message}


def test_strings_are_not_served(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x})
    made = module.f.get_concrete_function(tf.TensorSpec([None], tf.string, "x"))
    tf.saved_model.save(module, str(tmp_path / "3"), signatures={"f": made})
    with pytest.raises(UserError, match=r"signature 'f': expected numbers in '[xy]', got string"):
        answers.Served(tmp_path / "3", 1)


def test_bad_flags_are_one_line():
    for change, message in (
        ({"export": ""}, "--export: expected a path"),
        ({"name": "a/b"}, "--name: expected letters"),
        ({"port": 70000}, "--port: expected a value in"),
        ({"max_rows": 0}, "--max_rows: expected a value in"),
    ):
        with pytest.raises(UserError, match=message):
            serve.ServeConfig(**({"export": "x"} | change))
    with http_server.listener("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="Address already in use"):
            http_server.listener("127.0.0.1", taken.getsockname()[1])
    for host in ("no host.invalid", "127.0..1"):
        with pytest.raises(UserError, match=f"--host, --port: {host}:1: .+"):
            http_server.listener(host, 1)


@pytest.mark.parametrize("flags, status, words", [("--help", 0, "usage: "), ("--export=x", 2, "")])
def test_without_the_packages_help_works_and_serving_says_what_to_install(flags, status, words):
    code = (
        "import runpy, sys; sys.modules['starlette'] = None\n"
        f"sys.argv = ['serve', {flags!r}]\n"
        "runpy.run_module('offline_tf.serve', run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == status and run.stdout.startswith(words)
    if status:
        assert re.search(r"-m pip install -r \S*requirements-serve.txt", run.stderr)
        assert "Traceback" not in run.stderr


def test_the_binary_serves_and_ends_at_sigterm(folder):
    words = [sys.executable, "-m", "offline_tf.serve", f"--export={folder}", "--port=0"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = None
            lines = []
            for line in process.stderr:
                lines.append(line)
                found = re.search(r"http://127\.0\.0\.1:(\d+)/v1/models/cart$", line)
                if found:
                    break
            assert found, "".join(lines)
            port = int(found[1])
            assert _ask(port, "GET", "/healthz")[0] == 200
            assert _predict(port, instances=[[0.0, 0.0]]) == (200, {"predictions": [[0.0, 0.0]]})
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(20) == 0
            assert "Traceback" not in rest
        finally:
            process.kill()
