"""The same work in PyTorch and JAX, as their users would write it; needs no TensorFlow.

python -m benchmarks.peers torch_loop        (one of KINDS; prints JSON; requirements-benchmarks.txt)

Training: samples per second of 4 dynamics models of 512x512, batch 256, summed over the models, as in
benchmarks/training.py. Roll-outs: steps per second of 80 paths in 4 such models, with policy and
disagreement of Hopper's sizes. Decision: milliseconds of MOPP's for one Hopper, authors' sizes.
"numpy": FLOP/s of numpy's products in turn with them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peak

ROWS, STATE, ACTION, HIDDEN, MEMBERS, BATCH = 100_000, 17, 6, 512, 4, 256
PATHS, STEPS, PLANT = 80, 200, (11, 3)  # Hopper's, as `benchmarks.run npg`
Found = dict[str, float]


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    inputs, targets = (
        draws.normal(size=(ROWS, n)).astype(np.float32) for n in (STATE + ACTION, STATE)
    )
    orders = [draws.permutation(ROWS)[: ROWS // BATCH * BATCH] for _ in range(MEMBERS)]
    return inputs, targets, np.stack(orders, axis=1).reshape(-1, BATCH, MEMBERS)


def _timed(call: Callable[[], Any], count: int) -> tuple[float, Found]:
    """Median seconds after a call to warm up; numpy's products in turn with tens of calls."""
    rounds, repeats = max(count // 10, 1), min(count, 10)
    probes = [peak.numpy_probe()]
    (spent,), (rates,) = peak.in_turn([lambda _: call()], rounds, probes, repeats, warm_up=1)
    return float(np.median(spent)), {"numpy": float(np.median(rates))}


def _torch_threads() -> Any:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    return torch


def torch_loop() -> Found:
    """One model after the other, an optimiser each: mjrl's way."""
    torch = _torch_threads()
    inputs, targets, rows = _data()
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    epochs = []
    for member in range(MEMBERS):
        net = torch.nn.Sequential(
            torch.nn.Linear(STATE + ACTION, HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(HIDDEN, HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(HIDDEN, STATE),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

        batches = torch.from_numpy(rows[:, :, member].copy())

        def epoch(batches: Any = batches, net: Any = net, optimizer: Any = optimizer) -> None:
            for batch in batches:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(net(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        epochs.append(epoch)
    spent, numpys = _timed(lambda: [epoch() for epoch in epochs], 1)
    return {"rate": MEMBERS * len(rows) * BATCH / spent} | numpys


def _torch_batched(autocast: bool) -> Found:
    """All models in one batched product, fused Adam."""
    torch = _torch_threads()
    inputs, targets, rows = _data()
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    widths = [STATE + ACTION, HIDDEN, HIDDEN, STATE]
    kernels = [
        torch.nn.Parameter(torch.randn(MEMBERS, i, o) / i**0.5)
        for i, o in zip(widths, widths[1:], strict=False)
    ]
    biases = [torch.nn.Parameter(torch.zeros(MEMBERS, 1, o)) for o in widths[1:]]
    optimizer = torch.optim.Adam([*kernels, *biases], lr=1e-3, fused=True)

    batches = torch.from_numpy(rows.transpose(0, 2, 1).copy())

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = x[batch]
                for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
                    hidden = torch.baddbmm(bias, hidden, kernel)
                    hidden = hidden if layer == 2 else torch.relu(hidden)
            loss = ((hidden.float() - y[batch]) ** 2).mean(dim=(1, 2)).sum()
            loss.backward()
            optimizer.step()

    spent, numpys = _timed(epoch, 1)
    return {"rate": MEMBERS * len(rows) * BATCH / spent} | numpys


def _jax_nets(jax: Any, widths: list[int]) -> list[tuple[Any, Any]]:
    keys = jax.random.split(jax.random.key(0), len(widths))
    return [
        (jax.random.normal(k, (MEMBERS, i, o)) / i**0.5, jax.numpy.zeros((MEMBERS, 1, o)))
        for k, i, o in zip(keys, widths, widths[1:], strict=False)
    ]


def _jax_forward(jax: Any, weights: Any, hidden: Any, dtype: Any) -> Any:
    for layer, (kernel, bias) in enumerate(weights):
        product = jax.numpy.matmul(hidden.astype(dtype), kernel.astype(dtype))
        hidden = product.astype("float32") + bias
        hidden = hidden if layer == len(weights) - 1 else jax.nn.relu(hidden)
    return hidden


def _jax_training(dtype: str) -> Found:
    """A fori_loop over minibatches under jit, all models in one product, Adam written out."""
    import jax

    inputs, targets, rows = _data()
    x, y = jax.numpy.asarray(inputs), jax.numpy.asarray(targets)
    weights = _jax_nets(jax, [STATE + ACTION, HIDDEN, HIDDEN, STATE])
    zeros = jax.tree.map(jax.numpy.zeros_like, weights)

    def loss(weights: Any, batch: Any) -> Any:
        predicted = _jax_forward(jax, weights, x[batch], dtype)
        return ((predicted - y[batch]) ** 2).mean(axis=(1, 2)).sum()

    @jax.jit
    def steps(state: Any, batches: Any) -> Any:
        def one(number: Any, state: Any) -> Any:
            weights, first, second = state
            gradient = jax.grad(loss)(weights, batches[number])
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            t = number + 1.0
            rate = 1e-3 * jax.numpy.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights = jax.tree.map(
                lambda w, m, v: w - rate * m / (jax.numpy.sqrt(v) + 1e-8), weights, first, second
            )
            return weights, first, second

        return jax.lax.fori_loop(0, len(batches), one, state)

    batches = jax.numpy.asarray(rows.transpose(0, 2, 1))
    state = (weights, zeros, zeros)
    spent, numpys = _timed(lambda: jax.block_until_ready(steps(state, batches)), 1)
    return {"rate": MEMBERS * len(rows) * BATCH / spent} | numpys


def torch_rollout() -> Found:
    """A loop over steps; models in one batched product; disagreement of all pairs."""
    torch = _torch_threads()
    s, a = PLANT
    widths = [s + a, HIDDEN, HIDDEN, s]
    kernels = [
        torch.randn(MEMBERS, i, o) / i**0.5 for i, o in zip(widths, widths[1:], strict=False)
    ]
    biases = [torch.zeros(MEMBERS, 1, o) for o in widths[1:]]
    policy = torch.nn.Sequential(
        torch.nn.Linear(s, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, a),
    )
    own, paths = torch.arange(PATHS) % MEMBERS, torch.arange(PATHS)

    @torch.inference_mode()
    def roll_out() -> Any:
        states, total = torch.zeros(PATHS, s), torch.zeros(PATHS)
        for _ in range(STEPS):
            actions = (policy(states) + 0.1 * torch.randn(PATHS, a)).clamp(-1, 1)
            hidden = torch.cat([states, actions], 1).expand(MEMBERS, -1, -1)
            for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
                hidden = torch.baddbmm(bias, hidden, kernel)
                hidden = hidden if layer == 2 else torch.relu(hidden)
            gaps = (hidden[:, None] - hidden[None]).norm(dim=-1).amax(dim=(0, 1))
            states = states + 0.01 * hidden[own, paths]
            total = total + gaps + states[:, 0]
        return total

    spent, numpys = _timed(roll_out, 20)
    return {"rate": PATHS * STEPS / spent} | numpys


def jax_rollout() -> Found:
    """The same as a lax.scan under jit."""
    import jax

    s, a = PLANT
    weights = _jax_nets(jax, [s + a, HIDDEN, HIDDEN, s])
    acting = [(k[0], b[0]) for k, b in _jax_nets(jax, [s, 64, 64, a])]
    own, paths = np.arange(PATHS) % MEMBERS, np.arange(PATHS)

    @jax.jit
    def roll_out(key: Any) -> Any:
        def one(carried: Any, key: Any) -> Any:
            states, total = carried
            hidden = states
            for layer, (kernel, bias) in enumerate(acting):
                hidden = hidden @ kernel + bias
                hidden = hidden if layer == 2 else jax.numpy.tanh(hidden)
            actions = (hidden + 0.1 * jax.random.normal(key, hidden.shape)).clip(-1, 1)
            pairs = jax.numpy.concatenate([states, actions], 1)
            outputs = _jax_forward(jax, weights, pairs[None], "float32")
            gaps = outputs[:, None] - outputs[None]
            gaps = jax.numpy.sqrt((gaps**2).sum(-1)).max((0, 1))
            states = states + 0.01 * outputs[own, paths]
            return (states, total + gaps + states[:, 0]), None

        begin = (jax.numpy.zeros((PATHS, s)), jax.numpy.zeros(PATHS))
        return jax.lax.scan(one, begin, jax.random.split(key, STEPS))[0][1]

    key = jax.random.key(0)
    spent, numpys = _timed(lambda: jax.block_until_ready(roll_out(key)), 20)
    return {"rate": PATHS * STEPS / spent} | numpys


def torch_decision() -> Found:
    """MOPP's decision without its pruning and averaging, which cost little: all network calls."""
    torch = _torch_threads()
    s, a, n, horizon, proposals = 11, 3, 100, 4, 10

    def mlp(*widths: int) -> Any:
        layers: list[Any] = []
        for i, o in zip(widths, widths[1:], strict=False):
            layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def autoregressive(inputs: int, latent: int, dim: int) -> tuple[Any, list[Any]]:
        return mlp(inputs, 500, latent), [mlp(latent + i, 200, 100, 2) for i in range(dim)]

    behavior = autoregressive(s, 2 * a, a)
    dynamics = [autoregressive(s + a, s, s + 1) for _ in range(3)]
    q = mlp(s + a, 500, 500, 1)

    def modes(model: tuple[Any, list[Any]], inputs: Any) -> Any:
        features, values = model[0](inputs), []
        for head in model[1]:
            values.append(head(features)[:, :1])
            features = torch.cat([features, values[-1]], 1)
        return torch.cat(values, 1)

    @torch.inference_mode()
    def decide() -> Any:
        states, total = torch.zeros(n, s), torch.zeros(n)
        for step in range(horizon + 1):
            mean = modes(behavior, states)
            drawn = torch.tanh(mean + 0.5 * torch.randn(proposals, n, a))
            wide = torch.cat([states.expand(proposals, n, s), drawn], 2).reshape(-1, s + a)
            values = q(wide).reshape(proposals, n)
            if step == horizon:
                # Both of the twins value the last state.
                return total + values.mean(0) + q(wide).reshape(proposals, n).mean(0)
            actions = drawn[values.argmax(0), torch.arange(n)]
            outputs = torch.stack([modes(m, torch.cat([states, actions], 1)) for m in dynamics])
            total = total + outputs[..., -1].mean(0)
            states = states + outputs[0, :, :s]
        return total

    spent, numpys = _timed(decide, 50)
    return {"ms": 1e3 * spent} | numpys


KINDS: dict[str, Callable[[], Found]] = {
    "torch_loop": torch_loop,
    "torch_batched": lambda: _torch_batched(False),
    "torch_batched_bfloat16": lambda: _torch_batched(True),
    "jax_training": lambda: _jax_training("float32"),
    "jax_training_bfloat16": lambda: _jax_training("bfloat16"),
    "torch_rollout": torch_rollout,
    "jax_rollout": jax_rollout,
    "torch_decision": torch_decision,
}


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        sys.exit(f"expected one of {', '.join(KINDS)}, got {sys.argv[1:]}")
    print(json.dumps(KINDS[sys.argv[1]]()))
