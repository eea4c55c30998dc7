"""A model predictive controller on a run's models: do-mpc plans, the ensemble says where it may.

./run.sh export --workdir=RUN --output=FOLDER --casadi
./run.sh python -m examples.mpc FOLDER [EPISODES]        examples/reactor.py, in its simulator

Needs requirements-casadi.txt and requirements-plants.txt. An optimiser looks for actions that the
models like, and finds those where they are wrong. So their disagreement is a soft constraint: below
the detector's threshold it costs nothing, beyond it the controller pays.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import Any

import numpy as np

from examples import closed_loop, reactor
from offline_tf.tasks.plants import plant_file
from offline_tf.types import TaskSpec

HORIZON, PRICE = 8, 1e3
_IPOPT = {
    "ipopt.hessian_approximation": "limited-memory",
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "print_time": 0,
    "ipopt.max_iter": 40,
}


class Mpc:
    """do-mpc on model.casadi, for one plant at a time."""

    def __init__(self, folder: pathlib.Path, task: TaskSpec, price: float | None = PRICE) -> None:
        """Sets the problem up.

        Args:
          folder: of an export with model.casadi.
          task: names and bounds.
          price: of a unit of disagreement beyond the threshold; None: the models are believed.
        """
        self._folder, self._task, self._price = folder, task, price
        self._controllers: list[Any] = []

    def _made(self, first: np.ndarray) -> Any:
        library, casadi = importlib.import_module("do_mpc"), importlib.import_module("casadi")
        found = casadi.Function.load(str(self._folder / "model.casadi"))
        names, task = list(self._task.observation_names), self._task
        model = library.model.Model("discrete", "MX")
        state = model.set_variable("_x", "state", (task.state_dim, 1))
        action = model.set_variable("_u", "action", (task.action_dim, 1))
        following, disagreement, threshold, _ = found(state, action)
        model.set_rhs("state", following)
        model.set_expression("beyond", disagreement - threshold)
        missing = state[names.index("concentration")] - state[names.index("wanted")]
        model.set_expression("cost", 100.0 * casadi.sqrt(missing**2 + 1e-6))
        model.setup()
        made = library.controller.MPC(model)
        made.settings.n_horizon, made.settings.t_step = HORIZON, task.dt
        made.settings.store_full_solution = False
        made.settings.nlpsol_opts = _IPOPT
        made.set_objective(mterm=model.aux["cost"], lterm=model.aux["cost"])
        made.set_rterm(action=0.2)
        made.bounds["lower", "_u", "action"] = task.action_low.astype(np.float64)
        made.bounds["upper", "_u", "action"] = task.action_high.astype(np.float64)
        if self._price is not None:
            made.set_nl_cons(
                "beyond",
                model.aux["beyond"],
                ub=0.0,
                soft_constraint=True,
                penalty_term_cons=self._price,
            )
        made.setup()
        made.x0 = first
        made.u0 = np.array([first[names.index("coolant@-1")]])
        made.set_initial_guess()
        return made

    def reset(self) -> None:
        """Begins episodes."""
        self._controllers = []

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, A]."""
        rows = observation.astype(np.float64)
        if not self._controllers:
            self._controllers = [self._made(row) for row in rows]
        pairs = zip(self._controllers, rows, strict=True)
        return np.stack([made.make_step(row[:, None])[:, 0] for made, row in pairs])


def main(words: list[str]) -> None:
    """Judges it with and without the constraint."""
    folder, episodes = pathlib.Path(words[0]), int(words[1]) if len(words) > 1 else 5
    task = plant_file.read(reactor.DESCRIPTION)
    for name, price in (("with the detector", PRICE), ("without it", None)):
        judged = reactor.judge(Mpc(folder, task, price), episodes)
        print(closed_loop.tell(name, judged), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
