"""MOPP's planner on a robot: LiteRT and numpy, no TensorFlow.

planner.tflite and planner_int8.tflite of an export hold one decision of one environment. LiteRT has no
random numbers that can be repeated, so the caller gives them: this module shows how.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from offline_tf.types import Array, UserError


def interpreter(path: pathlib.Path, threads: int) -> Any:
    """Opens a LiteRT file with the package ai-edge-litert, or else with TensorFlow's own copy."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tensorflow.lite.python.interpreter import Interpreter
        except ImportError:
            raise UserError(
                f"expected LiteRT to open {path}, found none: pip install -r requirements-lite.txt"
            ) from None
    return Interpreter(model_path=str(path), num_threads=threads)


class Planner:
    """Plans for one environment; remembers the plan of the episode.

        planner = mopp_tf.lite.Planner("exported/planner_int8.tflite", threads=2)
        planner.reset()
        action = planner.act(observation)

    Attributes:
      decision: everything that the last decision gave, such as "kept_share"; empty before the first.
    """

    def __init__(self, path: str | pathlib.Path, seed: int = 0, threads: int = 1) -> None:
        """Opens the file.

        Args:
          path: of a .tflite file of MOPP's export.
          seed: of the proposals.
          threads: of each product.

        Raises:
          UserError: no such file, or not one of a planner.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise UserError(f"expected a file planner.tflite, found none at {path}")
        try:
            self._interpreter = interpreter(path, threads)
            self._plan_one = self._interpreter.get_signature_runner("plan")
            self._initial = self._interpreter.get_signature_runner("initial_plan")
        except ValueError:
            raise UserError(f"expected a planner in LiteRT's format at {path}") from None
        details = self._plan_one.get_input_details()
        self._shapes = {name: tuple(map(int, spec["shape"])) for name, spec in details.items()}
        self._generator = np.random.default_rng(seed)
        self._plan: Array | None = None
        self.decision: dict[str, Array] = {}

    def reset(self) -> None:
        """Begins an episode: forgets the plan."""
        self._plan = None
        self.decision = {}

    def noise(self, generator: np.random.Generator) -> dict[str, Array]:
        """Draws the inputs whose names say of what: "normal_..", or "uniform_.." in (0, 1)."""
        drawn = {}
        for name, shape in self._shapes.items():
            if name.startswith("normal_"):
                drawn[name] = generator.standard_normal(shape, np.float32)
            elif name.startswith("uniform_"):
                drawn[name] = np.maximum(generator.random(shape, np.float32), np.float32(1e-20))
        return drawn

    def call(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One decision from all inputs of the file, noise among them; names as in the file."""
        return dict(self._plan_one(**inputs))

    def act(self, observation: Any) -> Array:
        """Plans one step: [S] -> [A] in the units of the task.

        Raises:
          ValueError: another shape, or NaN or infinity, which would stay in the plan. What is
            remembered stays as it was.
        """
        row = np.asarray(observation, np.float32)[None]  # [1, S]
        if row.shape != self._shapes["observation"]:
            expected = self._shapes["observation"][1:]
            raise ValueError(f"expected an observation of shape {expected}, got {row.shape[1:]}")
        if not np.isfinite(row).all():
            raise ValueError("expected an observation of finite numbers, got NaN or infinity")
        if self._plan is None:
            self._plan = self._initial(observation=row)["plan"]
        inputs = {"observation": row, "plan": self._plan, **self.noise(self._generator)}
        outputs = self.call(inputs)
        self._plan = outputs["plan"]  # [1, H, A]
        self.decision = {name: value[0] for name, value in outputs.items()}
        return self.decision["action"]
