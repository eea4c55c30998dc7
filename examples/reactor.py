"""A chemical reactor with a week of operators' habits in its log; PC-Gym's model is the plant.

./run.sh python -m examples.reactor log reactor.csv          writes the log, as a historian would
./run.sh python -m examples.reactor judge RUN [RUN ...]      exports beside the operators and a PI

Needs pcgym: requirements-plants.txt. A cooled stirred tank turns A into B. Operators move the set point
of the coolant so that the concentration of A follows what the planners want. Warmer coolant means less
A; above 303 K the reaction runs away, and the interlock trips the plant at 345 K. The analyser is 30 s
late, the feed's temperature drifts and is measured, its concentration drifts and is not.
"""

from __future__ import annotations

import csv
import datetime
import importlib
import pathlib
import sys

import numpy as np

from examples import closed_loop
from offline_tf.tasks.plants import plant_file

DESCRIPTION = pathlib.Path(__file__).with_name("reactor.toml")
STEP_SECONDS, SAMPLES = 15.0, 3  # a sample every 5 s
LATE, TRIP, COLDEST = 2, 345.0, 290.0
WANTED = 0.80, 0.91
NOISE = 0.002, 0.15, 0.2  # of concentration, temperature, feed temperature
REST_CONCENTRATION = np.array([0.787, 0.835, 0.860, 0.877, 0.891, 0.902, 0.912, 0.920, 0.927])
REST_COOLANT = np.array([303.0, 302.0, 301.0, 300.0, 299.0, 298.0, 297.0, 296.0, 295.0])


def resting_coolant(wanted: np.ndarray) -> np.ndarray:
    """The coolant that holds a concentration with the usual feed, K; from the plant's data sheet."""
    return np.interp(wanted, REST_CONCENTRATION, REST_COOLANT)


class Reactor:
    """The plant; see `closed_loop.Plant`.

    Attributes:
      tripped: whether the interlock has acted.
      action_before: [1] coolant before the episode.
      wanted: mol/L.
    """

    def __init__(self, generator: np.random.Generator, wanted: float, drifts: bool = True) -> None:
        """Rests at a concentration; drifts: whether the feed does, and instruments have noise."""
        self._model = importlib.import_module("pcgym.model_classes").cstr(int_method="casadi")
        self._generator, self._drifts = generator, float(drifts)
        self._coolant = float(resting_coolant(np.array(wanted)))
        self.action_before = np.array([self._coolant], np.float32)
        self._feed = np.array([350.0, 1.0]) + drifts * generator.normal(0.0, [1.5, 0.004])
        self._state, self.wanted, self.tripped = np.array([wanted, 324.0]), wanted, False
        for _ in range(240):
            self._sample()
        self._seen = [self._state[0]] * (LATE * SAMPLES + 1)
        self.tripped = False

    def _sample(self) -> None:
        """5 s of the plant, by Runge and Kutta's method of fourth order; its unit is the minute."""
        inputs, minutes = np.array([self._coolant, *self._feed]), 5.0 / 60.0

        def slope(state: np.ndarray) -> np.ndarray:
            return np.array(self._model(state, inputs))

        first = slope(self._state)
        second = slope(self._state + 0.5 * minutes * first)
        third = slope(self._state + 0.5 * minutes * second)
        last = slope(self._state + minutes * third)
        self._state = self._state + minutes / 6.0 * (first + 2.0 * second + 2.0 * third + last)
        pull = 5.0 / 1800.0 * (np.array([350.0, 1.0]) - self._feed)
        shake = self._generator.normal(0.0, [0.11, 0.0003]) * self._drifts
        self._feed = self._feed + pull + shake
        self.tripped |= bool(self._state[1] > TRIP)
        self._state[1] = min(
            self._state[1], 400.0
        )  # the log goes on after a trip, at the interlock

    def measured(self) -> np.ndarray:
        """Concentration, temperature, feed temperature, wanted."""
        noise = self._generator.normal(0.0, NOISE) * self._drifts
        seen = np.array([self._seen[0], self._state[1], self._feed[0]])
        return np.array([*(seen + noise), self.wanted])

    def hold(self, coolant: float) -> None:
        """A sample, 5 s, with the coolant at a set point."""
        self._coolant = coolant
        self._sample()
        self._seen = [*self._seen[1:], self._state[0]]

    def step(self, action: np.ndarray) -> None:
        """A control step."""
        for _ in range(SAMPLES):
            self.hold(float(action[0]))


class Scheduled(Reactor):
    """An hour in which the planners change their mind twice."""

    def __init__(self, seed: int) -> None:
        """Draws it."""
        generator = np.random.default_rng([seed, 77])
        self._plan = {0: generator.uniform(*WANTED), 20: 0.0, 130: 0.0}
        self._plan = {at: generator.uniform(*WANTED) for at in self._plan}
        self._steps = 0
        super().__init__(generator, self._plan[0])

    def step(self, action: np.ndarray) -> None:
        """A control step."""
        super().step(action)
        self._steps += 1
        self.wanted = self._plan.get(self._steps, self.wanted)


class Operator:
    """Somebody on shift, with habits.

    Attributes:
      name: of the shift.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        """The habits of shift A (gentle), B (impatient) or C (by hand, every four minutes)."""
        self.name, self._seed = name, seed
        self.reset()

    def reset(self) -> None:
        """Takes over."""
        self._generator = np.random.default_rng([self._seed, ord(self.name)])
        self._steps, self._coolant, self._sum = 0, np.zeros(0), 0.0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, 1]; looks at the concentration, and what is wanted."""
        concentration, wanted = observation[:, 0], observation[:, 3]
        count, missing = len(observation), wanted - concentration
        resting = resting_coolant(wanted)
        if not len(self._coolant):
            self._coolant, self._sum = resting.copy(), np.zeros(count)
        draw = self._generator.normal
        if self.name == "A":  # half the way at once, the rest never; pokes at it now and then
            aim = 300.0 + 0.75 * (resting - 300.0) - 15.0 * missing
            self._coolant = self._coolant + 0.1 * (aim - self._coolant) + draw(0.0, 0.06, count)
        elif self.name == "B":  # a strong hand, half-kelvin moves, overshoots
            self._sum = np.clip(self._sum + missing, -1.0, 1.0)
            aim = resting - 55.0 * missing - 5.0 * self._sum + draw(0.0, 0.35, count)
            self._coolant = np.round(2.0 * aim) / 2.0
        elif self._steps % 16 == 0:  # C: a step of a kelvin towards it, where it is off by much
            move = np.where(np.abs(missing) > 0.006, -np.sign(missing), 0.0)
            self._coolant = self._coolant + move * self._generator.uniform(0.4, 1.3, count)
        self._steps += 1
        self._coolant = np.clip(self._coolant, COLDEST + 3.0, 303.5)
        return self._coolant[:, None].copy()


def write_log(path: pathlib.Path, days: float = 7.0, seed: int = 0) -> int:
    """Writes the log, and returns how often the plant tripped.

    Rows come about every 5 s, the analyser's value every 15 s; for two hours the historian was down,
    and for three the plant was left alone.
    """
    generator = np.random.default_rng(seed)
    plant, shifts = Reactor(generator, 0.87), [Operator(name, seed) for name in "ABC"]
    began = datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC)
    left_alone, down = (2.4 * 86400, 2.4 * 86400 + 10800), (4.6 * 86400, 4.6 * 86400 + 7200)
    seconds, cooling, trips, until = 0.0, 0, 0, 0.0
    operator = shifts[0]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["Timestamp", "Shift", "AIC-101 Concentration [mol/L]", "AIC-101 SP [mol/L]"]
            + ["TI-102 Reactor temperature [K]", "TI-103 Feed temperature [K]", "TIC-104 SP [K]"]
        )
        for _ in range(int(days * 86400 / STEP_SECONDS)):
            on_shift = shifts[int(seconds // 28800) % 3]
            if on_shift is not operator:
                operator = on_shift
                operator.reset()
            if seconds >= until:
                plant.wanted = round(float(generator.uniform(*WANTED)), 3)
                until = seconds + generator.uniform(1500.0, 4500.0)
            if plant.tripped:
                trips, cooling, plant.tripped = trips + 1, 80, False
            seen = plant.measured()
            if not left_alone[0] < seconds < left_alone[1]:
                coolant = float(operator.act(seen[None])[0, 0])
                if cooling:
                    coolant, cooling = COLDEST, cooling - 1
                    operator.reset()
            for sample in range(SAMPLES):
                shown = seen if sample == 0 else plant.measured()
                stamp = seconds + 5.0 * sample + generator.uniform(0.0, 0.4) * (sample > 0)
                if not down[0] < seconds < down[1]:
                    at = began + datetime.timedelta(seconds=float(stamp))
                    analysis = f"{shown[0]:.4f}" if sample == 0 else ""
                    rows.writerow(
                        [at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3], operator.name, analysis]
                        + [f"{plant.wanted:.3f}", f"{shown[1]:.2f}", f"{shown[2]:.2f}"]
                        + [f"{coolant:.2f}"]
                    )
                plant.hold(coolant)
            seconds += STEP_SECONDS
    return trips


def step_test(wanted: float = 0.86) -> closed_loop.StepTest:
    """What an engineer would measure before tuning a PI: the coolant moved by half a kelvin."""
    plant = Reactor(np.random.default_rng(0), wanted, drifts=False)
    coolant, seen = float(plant.action_before[0]), []
    for _ in range(120):
        seen.append(plant.measured()[0])
        plant.step(np.array([coolant - 0.5]))
    return closed_loop.StepTest.of(np.array(seen), -0.5)


def controllers() -> dict[str, closed_loop.Controller]:
    """The three shifts and the PI."""
    gain, integral = step_test().simc()
    found: dict[str, closed_loop.Controller] = {f"shift {x}": Operator(x, 5) for x in "ABC"}
    found["PI (SIMC)"] = closed_loop.PI(
        plant_file.read(DESCRIPTION),
        controlled="concentration",
        wanted="wanted",
        gain=gain,
        integral_steps=integral,
        resting=resting_coolant,
    )
    return found


def judge(
    controller: closed_loop.Controller, episodes: int = 50, seed: int = 5
) -> closed_loop.Judged:
    """An hour each, the same for every controller."""
    plants = [Scheduled(1000 * seed + number) for number in range(episodes)]
    return closed_loop.run(plant_file.read(DESCRIPTION), plants, controller)


if __name__ == "__main__":
    closed_loop.command(sys.argv[1:], write_log, controllers, judge)
