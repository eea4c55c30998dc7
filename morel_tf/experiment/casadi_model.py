"""The models and the detector as a CasADi function, for controllers that plan with derivatives.

do-mpc and others take it as it is: `casadi.Function.load("model.casadi")` needs neither TensorFlow nor
this project. The optimiser of a model predictive controller looks for actions that the models
like, and finds those where they are wrong; so `disagreement` is told too, to be bounded by `threshold`
or paid for (examples/mpc.py). Optional package: requirements-casadi.txt.

Differs: actions are not brought within bounds and rates here, which would leave no derivative there.
"""

from __future__ import annotations

import importlib
import itertools
import pathlib
from typing import Any

import numpy as np

from offline_tf.export import fresh_process
from offline_tf.install_hints import install
from offline_tf.models import networks
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.numerics import standardize
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, UserError

FILE, TOLERANCE = "model.casadi", 1e-4
_ROUND = 1e-12  # under the root: the distance of equal predictions has no derivative
_CHILD = """
import sys, numpy, casadi
path, given, returned = sys.argv[1:]
data, model = numpy.load(given), casadi.Function.load(path)
rows = len(data["state"])
found = model.map(rows)(data["state"].T, data["action"].T)
names = model.name_out()
assert "tensorflow" not in sys.modules
numpy.savez(returned, **{n: numpy.array(x).T.reshape(rows, -1) for n, x in zip(names, found)})
"""


def library() -> Any:
    """CasADi.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("casadi")
    except ImportError:
        raise UserError(f"--casadi needs casadi: {install('requirements-casadi.txt')}") from None


def function(task: TaskSpec, ensemble: GaussianEnsemble, weights: Array, threshold: float) -> Any:
    """State [S], action [A] -> next_state [S], disagreement, threshold, next_states [M S].

    Args:
      task: dimensions, and what becomes of the past.
      ensemble: M models.
      weights: [S], of the disagreement; see `usad.space_weights`.
      threshold: of the disagreement.
    """
    casadi = library()
    state = casadi.MX.sym("state", task.state_dim)
    action = casadi.MX.sym("action", task.action_dim)
    inputs = (casadi.vertcat(state, action) - _column(ensemble.inputs.shift)) / _column(
        ensemble.inputs.scale + standardize.EPSILON
    )
    deltas = [_forward(casadi, member, inputs)[: task.state_dim] for member in ensemble.members]
    bound = _column(ensemble.step_bound)
    after = []
    for delta in deltas:
        change = _column(ensemble.mask) * (
            delta * _column(ensemble.deltas.scale + standardize.EPSILON)
            + _column(ensemble.deltas.shift)
        )
        proposed = state + casadi.fmax(-bound, casadi.fmin(bound, change))
        after.append(_with_the_past(casadi, task, state, action, proposed))
    scaled = [delta * _column(weights) for delta in deltas]
    squares = [casadi.sumsqr(a - b) for a, b in itertools.combinations(scaled, 2)]
    farthest = casadi.MX(0.0)
    for square in squares:
        farthest = casadi.fmax(farthest, square)
    return casadi.Function(
        "model",
        [state, action],
        [
            sum(after) / len(after),
            casadi.sqrt(farthest + _ROUND),
            threshold,
            casadi.vertcat(*after),
        ],
        ["state", "action"],
        ["next_state", "disagreement", "threshold", "next_states"],
    )


def write(
    folder: pathlib.Path, made: Any, expected: dict[str, Array], states: Array, actions: Array
) -> float:
    """Writes FILE, and compares it in a process without TensorFlow.

    Args:
      folder: of the export.
      made: see `function`.
      expected: of `Controller.forecast`, for the samples.
      states, actions: samples [B, S], [B, A], within the bounds.

    Returns:
      The largest difference; of outputs above 1, relative to the largest.

    Raises:
      RuntimeError: it is above TOLERANCE.
    """
    path = folder / FILE
    with files.whole(path) as partial:
        made.save(str(partial))
    given = {"state": states.astype(np.float64), "action": actions.astype(np.float64)}
    every = expected["next_state"]  # [M, B, S]
    wanted = {
        "next_state": every.mean(axis=0),
        "next_states": np.concatenate(list(every), axis=1),
        "disagreement": expected["disagreement"][:, None],
    }
    worst = fresh_process.largest_difference(fresh_process.run(_CHILD, path, given), wanted)
    if not worst <= TOLERANCE:
        raise RuntimeError(f"export to {path}: differs by {worst:.2g}, expected {TOLERANCE:g}")
    return worst


def _column(values: Array) -> Array:
    return np.asarray(values, np.float64).reshape(-1, 1)


def _forward(casadi: Any, member: Any, inputs: Any) -> Any:
    layers, hidden = networks.read(member), inputs
    for layer in layers:
        kernel, bias = (np.asarray(x, np.float64) for x in (layer.kernel, layer.bias))
        hidden = casadi.mtimes(kernel.T, hidden) + bias
        if layer.activation == "relu":
            hidden = casadi.fmax(hidden, 0.0)
        elif layer.activation != "linear":
            raise ValueError(f"no such activation: {layer.activation}")
    return hidden


def _with_the_past(casadi: Any, task: TaskSpec, state: Any, action: Any, proposed: Any) -> Any:
    if not task.becomes:
        return proposed
    known = casadi.vertcat(state, action)
    return casadi.vertcat(
        *(proposed[i] if source < 0 else known[source] for i, source in enumerate(task.becomes))
    )
