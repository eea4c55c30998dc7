"""Exports in use: a controller or a planner that acts in a loop, from its folder alone.

`morel_tf.load` and `mopp_tf.load` return these; neither needs the code that trained them.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from offline_tf.types import Array, TaskSpec, UserError

INTERFACE = "interface.json"


@dataclasses.dataclass(frozen=True)
class Interface:
    """What goes into an export and comes out of it, as in its interface.json.

    Attributes:
      task: name.
      observation_names, action_names: in their order.
      action_low, action_high: bounds.
      dt: seconds per control step.
    """

    task: str
    observation_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    dt: float

    @classmethod
    def of(cls, task: TaskSpec) -> Interface:
        """That of a task."""
        return cls(
            task.name,
            task.observation_names,
            task.action_names,
            tuple(map(float, task.action_low)),
            tuple(map(float, task.action_high)),
            task.dt,
        )


def find(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a SavedModel: the path, or "export" in it.

    Raises:
      UserError: neither holds one of this project.
    """
    for folder in (pathlib.Path(path), pathlib.Path(path) / "export"):
        if (folder / "saved_model.pb").exists() and (folder / INTERFACE).exists():
            return folder
    raise UserError(
        f"expected a run folder or an export with saved_model.pb and {INTERFACE} at {path}; export it "
        "again with `./run.sh export` or `./run.sh mopp-export`"
    )


class Deployed:
    """A SavedModel of this project.

    Attributes:
      folder: where it lies.
      interface: names and bounds.
      signatures: name -> function of tensors, as in the export's README.md.
    """

    def __init__(self, path: str | pathlib.Path, needed: str = "") -> None:
        """Loads it.

        Args:
          path: a run folder, or an export.
          needed: a signature that has to be there.

        Raises:
          UserError: there is no export, it is damaged, or it has no such signature.
        """
        self.folder = find(path)
        try:
            manifest = json.loads((self.folder / INTERFACE).read_text())
            fields: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in manifest.items()
            }
            self.interface = Interface(**fields)
            self._model = tf.saved_model.load(str(self.folder))  # signatures die with their model
        except Exception as error:  # TensorFlow, protobuf and json raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the export in {self.folder} cannot be read: {reason}") from None
        self.signatures = self._model.signatures
        self._inputs = {
            name: dict(function.structured_input_signature[1])
            for name, function in self.signatures.items()
        }
        if needed and needed not in self.signatures:
            raise UserError(
                f"expected an export with the signature {needed!r} at {self.folder}, got "
                f"{', '.join(sorted(self.signatures))}"
            )

    def call(self, signature: str, **inputs: Any) -> dict[str, Array]:
        """Calls a signature with arrays; returns arrays."""
        tensors = {
            name: tf.constant(inputs[name], spec.dtype)
            for name, spec in self._inputs[signature].items()
        }
        return {
            name: value.numpy() for name, value in self.signatures[signature](**tensors).items()
        }

    def rows(self, observation: Any, width: int | None = None) -> tuple[Array, bool]:
        """See `as_rows`; the width is that of observations where none is given."""
        return as_rows(observation, width or len(self.interface.observation_names))


def as_rows(values: Any, width: int) -> tuple[Array, bool]:
    """One row [width] or several [B, width] as [B, width] float32, and whether it was one.

    Raises:
      ValueError: other shapes.
    """
    array = np.asarray(values, np.float32)
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise ValueError(f"expected shape [{width}] or [B, {width}], got {array.shape}")
    return np.atleast_2d(array), array.ndim == 1


class Controller(Deployed):
    """MOReL's policy and detector.

    Three lines in a Gymnasium loop:

        controller = morel_tf.load("runs/morel-hopper-default-seed0")
        observation, _ = environment.reset()
        observation, *_ = environment.step(controller.act(observation))
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        """Loads a run's export; see `Deployed`."""
        super().__init__(path, "is_known")

    def reset(self) -> None:
        """Begins an episode; the policy remembers nothing."""

    def act(self, observation: Any) -> Array:
        """The policy's mean action: [S] -> [A], or [B, S] -> [B, A]."""
        rows, single = self.rows(observation)
        action = self.call("serving_default", observation=rows)["action"]
        return action[0] if single else action

    def act_guarded(self, observation: Any) -> dict[str, Array]:
        """The policy's action where the data support it, else the fallback's.

        Returns:
          "action" ([A] or [B, A]), "known", "fallback_used", "disagreement" (scalars or [B]).
        """
        rows, single = self.rows(observation)
        outputs = self.call("act_guarded", observation=rows)
        return {name: value[0] if single else value for name, value in outputs.items()}

    def is_known(self, observation: Any, action: Any) -> Array:
        """Whether the data support an action: scalar for one observation, else [B] bool."""
        rows, single = self.rows(observation)
        actions, _ = self.rows(action, len(self.interface.action_names))
        known = self.call("is_known", observation=rows, action=actions)["known"]
        return known[0] if single else known


class PlanningLoop:
    """Acts with a planner step by step and remembers the plan of the episode.

    Attributes:
      decision: everything that the last decision gave, such as "kept_share"; empty before the first.
    """

    def __init__(
        self,
        width: int,
        begin: Callable[[Array], Array],
        decide: Callable[[Array, Array, Array], dict[str, Array]],
        seed: int,
    ) -> None:
        """Begins an episode.

        Args:
          width: S.
          begin: first observations [B, S] -> plan.
          decide: observations [B, S], plan, seed [2] -> "action" [B, A], "plan", and more.
          seed: of the proposals.
        """
        self._width, self._begin, self._decide, self._seed = width, begin, decide, seed
        self._steps = 0
        self._plan: Array | None = None
        self.decision: dict[str, Array] = {}

    def reset(self) -> None:
        """Begins an episode: forgets the plan."""
        self._plan = None
        self.decision = {}

    def act(self, observation: Any) -> Array:
        """Plans one step: [S] -> [A]; or [B, S] -> [B, A], the same B until `reset`.

        Raises:
          ValueError: another B than before, or NaN or infinity, which would stay in the plan. What is
            remembered stays as it was.
        """
        rows, single = as_rows(observation, self._width)
        if not np.isfinite(rows).all():
            raise ValueError("expected an observation of finite numbers, got NaN or infinity")
        if self._plan is None:
            self._plan = self._begin(rows)
        if len(self._plan) != len(rows):
            raise ValueError(
                f"expected {len(self._plan)} observations as before, got {len(rows)}; call reset"
            )
        decision = self._decide(rows, self._plan, np.array([self._seed, self._steps], np.int32))
        self._plan, self._steps = decision["plan"], self._steps + 1
        self.decision = {k: v[0] if single else v for k, v in decision.items()}
        return self.decision["action"]


class Planner(Deployed, PlanningLoop):
    """MOPP's planner as an export."""

    def __init__(self, path: str | pathlib.Path, seed: int = 0) -> None:
        """Loads a run's export.

        Args:
          path: see `Deployed`.
          seed: of the proposals.

        Raises:
          UserError: see `Deployed`.
        """
        Deployed.__init__(self, path, "plan")

        def begin(rows: Array) -> Array:
            return self.call("initial_plan", observation=rows)["plan"]

        def decide(rows: Array, plan: Array, key: Array) -> dict[str, Array]:
            name = "plan_one" if len(rows) == 1 and "plan_one" in self.signatures else "plan"
            return self.call(name, observation=rows, plan=plan, seed=key)

        PlanningLoop.__init__(self, len(self.interface.observation_names), begin, decide, seed)
