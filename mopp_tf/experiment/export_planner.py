"""What a MOPP run hands over: the whole planner as one SavedModel."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf import lite
from mopp_tf.mbop.mbop_planner import MbopPlanner
from mopp_tf.models import autoregressive_density
from mopp_tf.models.rows import RewardScale
from mopp_tf.planning import rollout
from mopp_tf.planning.decision import Decision
from mopp_tf.planning.planner import Planner
from offline_tf.export import saved_model
from offline_tf.models import compilation, devices
from offline_tf.types import Array, Tensor, UserError

AnyPlanner = Planner | MbopPlanner

TOLERANCE = 1e-5
LITE_TOLERANCE = 1e-4
NO_LITE_OF_MBOP = "LiteRT: expected a run of MOPP, got one of MBOP; leave LiteRT out"
LITE_FILES = {"float32": "planner", "int8": "planner_int8"}
_MOPP = "The whole planner of MOPP: models, Q function, pruning."
_CLONE = (
    "The clone of MOPP's behaviour model as a planner that plans nothing: the judge promised no more "
    "of any planner. The models say how well the data support its path."
)
_MBOP = "The whole planner of MBOP: models and value function."
_WORDS = """An episode begins with the plan of `initial_plan`; each decision takes the plan that the one
before gave, and a seed of its own. manifest.json says from which data and with which flags, and with
which objective where it was exported again ("control").

```python
import tensorflow as tf

planner = tf.saved_model.load("HERE")
plan = planner.signatures["initial_plan"](observation=observations)["plan"]
found = planner.signatures["plan"](observation=observations, plan=plan, seed=[0, step])
found["action"], found["plan"]
```

planner.tflite and planner_int8.tflite, where they are, hold `plan` and `initial_plan` of one robot for
LiteRT, the second with its weights in 8-bit integers. Both take their noise as inputs: "normal_.."
and "uniform_..". In Python, `mopp_tf.lite.Planner` draws it and keeps the plan, without TensorFlow."""
_UNITS = """`expected_return` is what the kept candidates promise, rewards of the horizon and value
of the last state, in the models' units: (reward - {shift:.6g}) / {scale:.6g}; a reward function of
one's own is only divided by {scale:.6g}. `disagreement` is the
largest distance between two models' predictions, in {disagreement}; of `plan`, for each step ahead."""
_DISAGREEMENTS = {
    "delta": "standard deviations of a step's changes in the data",
    "raw": "raw units of state and scaled reward",
}
# Name of a file -> signature.
ONNX_FILES = {"detector": "is_known", "model": "forecast"}
_SAYS = {
    "plan": "one decision for B environments",
    "plan_one": "the same for one environment, faster",
    "initial_plan": "the plan that an episode begins with",
    "is_known": "whether the models agree about an action in a state: disagreement below the limit",
    "step": "what the models predict: next observation, reward in the data's units, end",
    "forecast": "the next step by each model, [K, B, ..], and whether they know the pair, [B]",
}


class Exported(tf.Module):
    """The signatures `plan`, `plan_one`, `initial_plan`, and MOPP's `is_known` and `step`.

    The models' weights are constants of the graphs.
    """

    def __init__(self, planner: AnyPlanner, scale: RewardScale) -> None:
        """Holds the planner and the units of its rewards; see `signatures`."""
        super().__init__()
        self.planner = planner
        self._scale = scale

    def plan(self, observation: Tensor, plan: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """One decision: what to do, and how much the data supports it."""
        return outputs(self.planner.decide(observation, plan, seed))

    def initial_plan(self, observation: Tensor) -> dict[str, Tensor]:
        """The plan to hand to the first decision of an episode."""
        return {"plan": self.planner.initial_plan(observation)}

    def is_known(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Whether the dynamics models agree about an action."""
        prediction = self.planner.step(observation, action)
        return {"known": prediction.known, "disagreement": prediction.disagreement}

    def step(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """One step of the learned model, mean over its members."""
        prediction = self.planner.step(observation, action)
        return {
            "next_observation": prediction.next_states,
            "reward": self._scale.shift + self._scale.scale * prediction.rewards,
            "terminated": prediction.terminated,
            "known": prediction.known,
            "disagreement": prediction.disagreement,
        }

    def forecast(self, state: Tensor, action: Tensor) -> dict[str, Tensor]:
        """The next step by each model; names and shapes as in MOReL's export."""
        prediction = self.planner.forecast(state, action)
        return {
            "next_state": prediction.next_states,
            "reward": self._scale.shift + self._scale.scale * prediction.rewards,
            "terminated": prediction.terminated,
            "known": prediction.known,
            "disagreement": prediction.disagreement,
        }

    @devices.only_first()
    def signatures(self) -> dict[str, Any]:
        """Returns signature name -> concrete function.

        All take any number of environments B, but for plan_one: `plan` for exactly one. With its
        shapes known, the graph of one decision takes three quarters of the time
        (benchmarks/decision.py).
        """
        task, horizon = self.planner.task, self.planner.knobs.horizon

        def specs(count: int | None) -> tuple[tf.TensorSpec, ...]:
            return (
                tf.TensorSpec([count, task.state_dim], tf.float32, "observation"),
                tf.TensorSpec([count, horizon, task.action_dim], tf.float32, "plan"),
                tf.TensorSpec([2], tf.int32, "seed"),
            )

        functions = {
            "plan": compilation.function(self.plan).get_concrete_function(*specs(None)),
            "plan_one": compilation.function(self.plan).get_concrete_function(*specs(1)),
            "initial_plan": compilation.function(self.initial_plan).get_concrete_function(
                specs(None)[0]
            ),
        }
        if isinstance(self.planner, Planner):
            action = tf.TensorSpec([None, task.action_dim], tf.float32, "action")
            for name in ("is_known", "step"):
                function = compilation.function(getattr(self, name))
                functions[name] = function.get_concrete_function(specs(None)[0], action)
            state = tf.TensorSpec([None, task.state_dim], tf.float32, "state")
            functions["forecast"] = compilation.function(self.forecast).get_concrete_function(
                state, action
            )
        return functions


class Lite(tf.Module):
    """The planner of one environment for LiteRT, whose noise is given: see `mopp_tf.lite`."""

    def __init__(self, planner: Planner) -> None:
        """Holds the planner; it computes in float32 here."""
        super().__init__()
        self._planner = planner.in_one_piece()

    def plan(self, **inputs: Tensor) -> dict[str, Tensor]:
        """One decision."""

        def noise(name: str) -> autoregressive_density.Noise:
            uniform = inputs.get(f"uniform_{name}")
            return autoregressive_density.Noise(inputs[f"normal_{name}"], uniform)

        # LiteRT takes one environment, whose axis noise does not have.
        draws = rollout.Noise(
            self._planner.members(inputs["uniform_members"]),
            noise("proposals").each(lambda x: x[:, :, None]),
            noise("value").each(lambda x: x[:, None]),
        )
        return outputs(self._planner.decide_given(inputs["observation"], inputs["plan"], draws))

    def initial_plan(self, observation: Tensor) -> dict[str, Tensor]:
        """As in `Exported`."""
        return {"plan": self._planner.initial_plan(observation)}

    @devices.only_first()
    def signatures(self) -> dict[str, Any]:
        """Returns signature name -> concrete function."""
        planner, one = self._planner, tf.constant([0, 0])
        noise = planner.noise(1, one)
        shapes = {
            "observation": [1, planner.task.state_dim],
            "plan": [1, planner.knobs.horizon, planner.task.action_dim],
            "uniform_members": noise.members.shape,
        }
        for name, drawn, axis in (("proposals", noise.proposals, 2), ("value", noise.value, 1)):
            squeezed = drawn.each(lambda x: tf.squeeze(x, axis))  # noqa: B023
            shapes[f"normal_{name}"] = squeezed.normal.shape
            if squeezed.uniform is not None:
                shapes[f"uniform_{name}"] = squeezed.uniform.shape
        specs = {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()}
        return {
            "plan": compilation.function(self.plan).get_concrete_function(**specs),
            "initial_plan": compilation.function(self.initial_plan).get_concrete_function(
                specs["observation"]
            ),
        }


def outputs(found: Decision) -> dict[str, Tensor]:
    """What an export gives of a decision."""
    return {
        "action": found.action,
        "plan": found.plan,
        "kept_share": found.kept_share,
        "disagreement": found.disagreement,
        "expected_return": found.expected_return,
    }


def check_lite(planner: AnyPlanner) -> Planner:
    """Returns the planner; raises UserError for one that is not made for LiteRT."""
    if not isinstance(planner, Planner):
        raise UserError(NO_LITE_OF_MBOP)
    return planner


def write_lite(planner: Planner, folder: pathlib.Path, observations: Array) -> dict[str, float]:
    """Writes planner.tflite and planner_int8.tflite, and compares them with the live planner.

    Args:
      planner: what to export.
      folder: where to.
      observations: [B, S], samples to compare on.

    Returns:
      Differences of actions, in shares of half of their range, means over dimensions: "float32"
      (median over the observations; in a few of them rounding makes max-Q take the other one of two
      proposals), "int8" (mean), and "noise" (mean between two draws of the noise, to compare with).

    Raises:
      RuntimeError: the float32 file differs by more than LITE_TOLERANCE.
    """
    signatures = Lite(planner).signatures()
    paths = {kind: folder / f"{name}.tflite" for kind, name in LITE_FILES.items()}
    for kind, path in paths.items():
        saved_model.save_constant_lite(signatures, path, kind == "int8")
    half = 0.5 * (planner.task.action_high - planner.task.action_low)
    generator = np.random.default_rng(0)
    files = {kind: lite.Planner(path) for kind, path in paths.items()}
    inputs: list[dict[str, Array]] = []
    differences: dict[str, list[float]] = {kind: [] for kind in (*paths, "noise")}
    for row in observations[:, None]:
        start = signatures["initial_plan"](observation=tf.constant(row))["plan"].numpy()
        sample, other = (
            {"observation": row, "plan": start, **files["float32"].noise(generator)}
            for _ in range(2)
        )
        actions = {kind: file.call(sample)["action"] for kind, file in files.items()}
        actions["noise"] = _action(signatures["plan"], other)
        action = _action(signatures["plan"], sample)
        for kind, value in actions.items():
            differences[kind].append(float(np.abs((value - action) / half).mean()))
        inputs.append(sample)
    usual = int(np.argsort(differences["float32"])[len(inputs) // 2])
    samples = {"plan": inputs[usual]}
    saved_model.verify(signatures, paths["float32"], samples, LITE_TOLERANCE, ("action", "plan"))
    means = {kind: float(np.mean(differences[kind])) for kind in ("int8", "noise")}
    return {"float32": differences["float32"][usual], **means}


def _action(function: Any, inputs: dict[str, Array]) -> Array:
    return function(**{name: tf.constant(value) for name, value in inputs.items()})[
        "action"
    ].numpy()


class LiteDecider:
    """The planner in LiteRT for `planner_episodes.run`: one environment after the other."""

    def __init__(self, planner: Planner, eight_bits: bool, threads: int) -> None:
        """Converts it."""
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch, "planner.tflite")
            signatures = Lite(planner).signatures()
            saved_model.save_constant_lite(signatures, path, eight_bits)
            self._file = lite.Planner(path, threads=threads)
        self._initial = signatures["initial_plan"]

    def start(self, observation: Tensor) -> Array:
        """First observations [E, S] -> plans [E, H, A]."""
        rows = observation.numpy()[:, None]
        return np.concatenate([self._initial(observation=tf.constant(r))["plan"] for r in rows])

    def __call__(self, observation: Tensor, plan: Array, key: Tensor) -> tuple[Tensor, Array, Any]:
        """Observations [E, S], plans [E, H, A], seed [2] -> actions, plans, numbers [E]."""
        generator = np.random.default_rng(np.abs(key.numpy()))
        rows = zip(observation.numpy()[:, None], plan[:, None], strict=True)
        decisions = [
            self._file.call({"observation": o, "plan": p, **self._file.noise(generator)})
            for o, p in rows
        ]
        joined = {name: np.concatenate([one[name] for one in decisions]) for name in decisions[0]}
        numbers = {
            "kept_share": joined["kept_share"],
            "disagreement": joined["disagreement"].mean(axis=1),
            "expected_return": joined["expected_return"],
        }
        tensors = {name: tf.constant(value) for name, value in numbers.items()}
        return tf.constant(joined["action"]), joined["plan"], tensors


def export_and_verify(
    planner: AnyPlanner, scale: RewardScale, folder: pathlib.Path, observations: Array
) -> float:
    """Writes the SavedModel, loads it in a fresh process and compares with the live planner.

    Args:
      planner: what to export.
      scale: of the models' rewards.
      folder: of the SavedModel.
      observations: [B, S], samples to compare on.

    Returns:
      The largest absolute difference of all outputs; see `saved_model.verify`.

    Raises:
      RuntimeError: the export differs from the live planner by more than 1e-5.
    """
    exported = Exported(planner, scale)
    signatures = exported.signatures()
    units = _UNITS.format(
        scale=scale.scale,
        shift=scale.shift,
        disagreement=_DISAGREEMENTS[planner.knobs.uncertainty_units],
    )
    introduction = _MBOP if isinstance(planner, MbopPlanner) else _MOPP
    if isinstance(planner, Planner) and planner.knobs.plan == "never":
        introduction = _CLONE
    readme = saved_model.readme(
        "Planner", f"{introduction} {_WORDS}\n\n{units}", planner.task, signatures, _SAYS
    )
    saved_model.save(exported, folder, signatures, planner.task, readme)
    samples: dict[str, dict[str, Array]] = {"initial_plan": {"observation": observations}}
    start = signatures["initial_plan"](observation=tf.constant(observations))["plan"].numpy()
    samples["plan"] = {
        "observation": observations,
        "plan": start,
        "seed": np.array([1, 2], np.int32),
    }
    samples["plan_one"] = samples["plan"] | {"observation": observations[:1], "plan": start[:1]}
    if "step" in signatures:
        pairs = {"observation": observations, "action": start[:, 0]}
        samples |= {"is_known": pairs, "step": pairs}
        samples["forecast"] = {"state": observations, "action": start[:, 0]}
    return saved_model.verify(signatures, folder, samples, TOLERANCE)
