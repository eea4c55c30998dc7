"""An electric drive with three engineers' trials in its log; gym-electric-motor is the plant.

./run.sh python -m examples.drive log drive.csv              writes the log, as a recorder would
./run.sh python -m examples.drive judge RUN [RUN ...]        exports beside the engineers and a PI

Needs gym-electric-motor: requirements-plants.txt. A small permanent-magnet DC motor on a four-quadrant
converter: the action is its voltage, the speed is to follow a set point, the load changes unseen. The
converter trips at 45 A. Recorded every millisecond, controlled every five.
"""

from __future__ import annotations

import csv
import importlib
import pathlib
import sys
from typing import Any

import numpy as np

from examples import closed_loop
from offline_tf.tasks.plants import plant_file

DESCRIPTION = pathlib.Path(__file__).with_name("drive.toml")
SAMPLES, SAMPLE_SECONDS = 5, 1e-3
VOLTS, TRIP, NOISE = 60.0, 45.0, (0.5, 0.3)  # noise of speed and current
WANTED = -200.0, 200.0
FIELD, RESISTANCE, INERTIA = 0.165, 0.5, 2.5e-3
LOAD = 0.1, 0.9  # N m, of dry friction


def resting_volts(wanted: np.ndarray) -> np.ndarray:
    """What turns the motor without a load at a speed, V; from its name plate."""
    return FIELD * wanted


def _motor() -> Any:
    """gym-electric-motor's physical system: states speed, torque, current, voltage, supply."""
    library = importlib.import_module("gym_electric_motor")
    loads = importlib.import_module("gym_electric_motor.physical_systems.mechanical_loads")
    solvers = importlib.import_module("gym_electric_motor.physical_systems.solvers")
    limits = {"omega": 400.0, "torque": 20.0, "i": 120.0, "u": VOLTS}
    motor = {
        "motor_parameter": {"r_a": RESISTANCE, "l_a": 2e-3, "psi_e": FIELD, "j_rotor": 2e-3},
        "limit_values": limits,
        "nominal_values": limits,
    }
    load = {"a": 0.3, "b": 2e-3, "c": 0.0, "j_load": 5e-4}
    made = library.make(
        "Cont-SC-PermExDc-v0",
        tau=SAMPLE_SECONDS,
        motor=motor,
        load=loads.PolynomialStaticLoad(load_parameter=load),
        ode_solver=solvers.EulerSolver(nsteps=5),
    )
    return made.unwrapped.physical_system


class Drive:
    """The plant; see `closed_loop.Plant`.

    Attributes:
      tripped: whether the converter has switched off.
      action_before: [1] volts before the episode.
      wanted: rad/s.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        """Stands still."""
        self._system, self._generator = _motor(), generator
        self._state = self._system.reset() * self._system.limits
        self.action_before, self.wanted = np.zeros(1, np.float32), 0.0
        self.tripped, self._current_shown = False, 0.0
        self.change_load()

    def change_load(self) -> None:
        """Another dry friction, which nobody measures."""
        self._system.mechanical_load._a = float(self._generator.uniform(*LOAD))

    def measured(self) -> np.ndarray:
        """Speed, current, wanted speed; the converter shows at what current it tripped."""
        noise = self._generator.normal(0.0, NOISE)
        return np.array([self._state[0] + noise[0], self._current_shown + noise[1], self.wanted])

    def hold(self, volts: float) -> None:
        """A millisecond."""
        share = np.array([0.0 if self.tripped else volts / VOLTS])
        self._state = self._system.simulate(share) * self._system.limits
        if not self.tripped:
            self._current_shown = float(self._state[2])
            self.tripped = abs(self._current_shown) > TRIP

    def step(self, action: np.ndarray) -> None:
        """A control step."""
        for _ in range(SAMPLES):
            self.hold(float(action[0]))


class Scheduled(Drive):
    """A second: from standing still to a speed, to another one, and a load that changes."""

    def __init__(self, seed: int) -> None:
        """Draws it."""
        super().__init__(np.random.default_rng([seed, 78]))
        draw = self._generator.uniform
        self._plan = {0: draw(*WANTED), 60: draw(*WANTED), 130: draw(*WANTED)}
        self._load_at, self._steps = int(draw(20, 180)), 0
        self.wanted = self._plan[0]

    def step(self, action: np.ndarray) -> None:
        """A control step."""
        super().step(action)
        self._steps += 1
        self.wanted = self._plan.get(self._steps, self.wanted)
        if self._steps == self._load_at:
            self.change_load()


class Engineer:
    """Somebody who tries a controller.

    Attributes:
      name: of the trial.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        """Trial A (a ramp), B (a soft proportional controller) or C (a hard, oscillating PI)."""
        self.name, self._seed = name, seed
        self.reset()

    def reset(self) -> None:
        """Begins."""
        self._generator = np.random.default_rng([self._seed, ord(self.name)])
        self._volts, self._sum, self._shake = np.zeros(0), np.zeros(0), np.zeros(0)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, 1]."""
        speed, current, wanted = observation[:, 0], observation[:, 1], observation[:, 2]
        if not len(self._volts):
            self._volts, self._sum = np.zeros(len(speed)), np.zeros(len(speed))
            self._shake = np.zeros(len(speed))
        missing = wanted - speed
        self._shake = 0.7 * self._shake + self._generator.normal(0.0, 0.8, len(speed))
        if self.name == "A":
            aim = resting_volts(wanted)
            self._volts = self._volts + np.clip(aim - self._volts, -0.6, 0.6)
            volts = self._volts
        elif self.name == "B":
            volts = resting_volts(speed) + np.clip(0.12 * missing, -8.0, 8.0)
        else:
            self._sum = np.clip(self._sum + missing, -300.0, 300.0)
            volts = resting_volts(speed) + np.clip(0.35 * missing + 0.02 * self._sum, -19.0, 19.0)
        # All of them ease off when the current is high.
        volts = volts + self._shake - 0.3 * np.sign(current) * np.maximum(np.abs(current) - 30.0, 0)
        return np.clip(volts, -VOLTS, VOLTS)[:, None]


def write_log(path: pathlib.Path, seconds: float = 160.0, seed: int = 0) -> int:
    """Writes the log, and returns how often the converter tripped.

    A row each millisecond. Trials take 8 s; between two of them the recorder is off for a while.
    After a trip the drive stands for 0.2 s.
    """
    generator, clock, trips = np.random.default_rng(seed), 0.0, 0
    trials = int(seconds / 8.0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["t [s]", "speed [rad/s]", "current [A]", "speed set [rad/s]", "u set [V]"])
        for trial in range(trials):
            plant, engineer = Drive(generator), Engineer("ABC"[trial % 3], seed + trial)
            until, stands = 0, 0
            for step in range(int(8.0 / (SAMPLES * SAMPLE_SECONDS))):
                if step >= until:
                    plant.wanted = round(float(generator.uniform(*WANTED)), 1)
                    until = step + int(generator.uniform(60, 160))
                    plant.change_load()
                if plant.tripped and not stands:
                    trips, stands = trips + 1, 40
                volts = float(engineer.act(plant.measured()[None])[0, 0])
                if stands:
                    volts, stands = 0.0, stands - 1
                    plant.tripped = plant.tripped and stands > 0
                    if not stands:
                        engineer.reset()
                for _ in range(SAMPLES):
                    seen = plant.measured()
                    rows.writerow(
                        [f"{clock:.3f}", f"{seen[0]:.2f}", f"{seen[1]:.2f}", f"{seen[2]:.1f}"]
                        + [f"{volts:.3f}"]
                    )
                    plant.hold(volts)
                    clock += SAMPLE_SECONDS
            clock += float(generator.uniform(1.0, 5.0))
    return trips


class Cascade:
    """The textbook's speed controller: a PI asks for a current, which becomes a voltage.

    The current's bound is 38 A. Gain and reset time are SIMC's (Skogestad 2003) of an integrating
    process with dead time: the motor's inertia, and one and a half control steps.
    """

    DEAD_STEPS, MOST_AMPS = 1.5, 38.0

    def __init__(self) -> None:
        """Tunes it from the name plate."""
        per_step = FIELD / INERTIA * SAMPLES * SAMPLE_SECONDS  # rad/s per A and step
        self.gain = 1.0 / (per_step * 2.0 * self.DEAD_STEPS)
        self.integral_steps = 8.0 * self.DEAD_STEPS
        self.reset()

    def reset(self) -> None:
        """Forgets the integral."""
        self._sum: np.ndarray | float = 0.0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, 1]."""
        speed, wanted = observation[:, 0].astype(np.float64), observation[:, 2]
        raw = self.gain * (wanted - speed + self._sum)
        inside = np.abs(raw) < self.MOST_AMPS
        self._sum = self._sum + np.where(inside, wanted - speed, 0.0) / self.integral_steps
        amps = np.clip(raw, -self.MOST_AMPS, self.MOST_AMPS)
        return np.clip(resting_volts(speed) + RESISTANCE * amps, -VOLTS, VOLTS)[:, None]


def controllers() -> dict[str, closed_loop.Controller]:
    """The three engineers and the PI."""
    found: dict[str, closed_loop.Controller] = {f"trial {x}": Engineer(x, 5) for x in "ABC"}
    return found | {"PI (SIMC)": Cascade()}


def judge(
    controller: closed_loop.Controller, episodes: int = 50, seed: int = 5
) -> closed_loop.Judged:
    """A second each, the same for every controller."""
    plants = [Scheduled(1000 * seed + number) for number in range(episodes)]
    return closed_loop.run(plant_file.read(DESCRIPTION), plants, controller)


if __name__ == "__main__":
    closed_loop.command(sys.argv[1:], write_log, controllers, judge)
