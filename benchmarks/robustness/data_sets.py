"""The sets: what each is made of, and which half of the bench it belongs to.

Six kinds on three robots, and four sets of plants:

  narrow      one good policy without noise
  noisy       one middling policy, half of the rows from noisy episodes
  two         a weak and a good policy, drawing their actions or with noise
  three       a weak, a middling and a good policy, some of the rows with wide noise
  saturated   a policy whose mean is scaled until the bounds clip it
  small       20,000 rows of one policy

Size, physics and layout change from set to set, so that each occurs in both halves.

The split was written with the table, before any set was made and before anything was trained on one.
Settings may be chosen by "development" sets. "reporting" sets are for the numbers that are told. A set
never moves from one half to the other.
"""

from __future__ import annotations

import dataclasses

SPLITS = ("development", "reporting")


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one behaviour policy, in whole episodes.

    Attributes:
      policy: a file in policies/ without its suffix, or one of `behaviour.CONTROLLERS`.
      share: of the set's rows.
      noise: standard deviation of what is added to each action, in halves of the bounds' range.
      gain: factor on the actions, in halves of the bounds' range around their middle.
      draws: whether a stochastic policy draws its actions; else it acts by its mean.
    """

    policy: str
    share: float = 1.0
    noise: float = 0.0
    gain: float = 1.0
    draws: bool = False

    @property
    def name(self) -> str:
        """Tells the parts of a set apart."""
        words = [self.policy]
        words += ["drawn"] if self.draws else []
        words += [f"gain {self.gain:g}"] if self.gain != 1.0 else []
        words += [f"noise {self.noise:g}"] if self.noise else []
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One set.

    Attributes:
      name: the value of --sets.
      split: one of SPLITS.
      env: the value of --env.
      kind: see above; "plant" for what is no robot.
      rows: transitions.
      parts: who acts; none: the data are NeoRL-2's.
      physics: "v2" or "v4", of robots.
      cut: steps after which an episode of the data is cut as a timeout; 0: the task's own limit.
      v0: D4RL's first layout: terminals and timeouts, but no next observations and no states.
      seed: of the making.
    """

    name: str
    split: str
    env: str
    kind: str
    rows: int
    parts: tuple[Part, ...]
    physics: str = "v2"
    cut: int = 0
    v0: bool = False
    seed: int = 0


DEVELOPMENT, REPORTING = SPLITS
_DMSD = "benchmarks/robustness/dmsd.py:DMSD"
_CSTR = "benchmarks/robustness/process.py:CSTR"
_TANKS = "benchmarks/robustness/process.py:TANKS"

SETS = (
    DataSet(
        "hopper-narrow", DEVELOPMENT, "hopper", "narrow", 100_000, (Part("hopper-good"),), seed=1
    ),
    DataSet(
        "hopper-noisy",
        REPORTING,
        "hopper",
        "noisy",
        100_000,
        (Part("hopper-middle", 0.5), Part("hopper-middle", 0.5, noise=0.3)),
        physics="v4",
        v0=True,
        seed=2,
    ),
    DataSet(
        "hopper-two",
        DEVELOPMENT,
        "hopper",
        "two",
        300_000,
        (Part("hopper-weak", 0.5, draws=True), Part("hopper-good", 0.5, draws=True)),
        physics="v4",
        seed=3,
    ),
    DataSet(
        "hopper-three",
        REPORTING,
        "hopper",
        "three",
        100_000,
        (
            Part("hopper-weak", 0.4, noise=0.3),
            Part("hopper-middle", 0.3, noise=0.1),
            Part("hopper-good", 0.3),
        ),
        cut=300,
        seed=4,
    ),
    DataSet(
        "hopper-saturated",
        DEVELOPMENT,
        "hopper",
        "saturated",
        100_000,
        (Part("hopper-middle", 0.5, gain=3.0), Part("hopper-middle", 0.5, gain=3.0, noise=0.3)),
        v0=True,
        seed=5,
    ),
    DataSet(
        "hopper-small",
        REPORTING,
        "hopper",
        "small",
        20_000,
        (Part("hopper-middle", noise=0.1),),
        physics="v4",
        seed=6,
    ),
    DataSet(
        "walker2d-narrow",
        REPORTING,
        "walker2d",
        "narrow",
        300_000,
        (Part("walker2d-good", noise=0.1),),
        physics="v4",
        seed=7,
    ),
    DataSet(
        "walker2d-noisy",
        DEVELOPMENT,
        "walker2d",
        "noisy",
        100_000,
        (Part("walker2d-middle", 0.5), Part("walker2d-middle", 0.5, noise=0.3)),
        physics="v4",
        seed=8,
    ),
    DataSet(
        "walker2d-two",
        REPORTING,
        "walker2d",
        "two",
        100_000,
        (Part("walker2d-weak", 0.6, noise=0.3), Part("walker2d-good", 0.4)),
        seed=9,
    ),
    DataSet(
        "walker2d-three",
        DEVELOPMENT,
        "walker2d",
        "three",
        300_000,
        (
            Part("walker2d-weak", 0.4, noise=0.1),
            Part("walker2d-middle", 0.4, noise=0.3),
            Part("walker2d-good", 0.2),
        ),
        seed=10,
    ),
    DataSet(
        "walker2d-saturated",
        REPORTING,
        "walker2d",
        "saturated",
        300_000,
        (Part("walker2d-good", 0.5, gain=3.0), Part("walker2d-middle", 0.5, gain=3.0, noise=0.1)),
        v0=True,
        seed=11,
    ),
    DataSet(
        "walker2d-small",
        DEVELOPMENT,
        "walker2d",
        "small",
        20_000,
        (Part("walker2d-good", noise=0.3),),
        physics="v4",
        cut=300,
        seed=12,
    ),
    DataSet(
        "halfcheetah-narrow",
        DEVELOPMENT,
        "halfcheetah",
        "narrow",
        100_000,
        (Part("halfcheetah-good"),),
        v0=True,
        seed=13,
    ),
    DataSet(
        "halfcheetah-noisy",
        REPORTING,
        "halfcheetah",
        "noisy",
        100_000,
        (Part("halfcheetah-middle", 0.5), Part("halfcheetah-middle", 0.5, noise=0.3)),
        physics="v4",
        seed=14,
    ),
    DataSet(
        "halfcheetah-two",
        DEVELOPMENT,
        "halfcheetah",
        "two",
        100_000,
        (Part("halfcheetah-weak", 0.5, noise=0.3), Part("halfcheetah-good", 0.5, noise=0.1)),
        cut=300,
        seed=15,
    ),
    DataSet(
        "halfcheetah-three",
        REPORTING,
        "halfcheetah",
        "three",
        300_000,
        (
            Part("halfcheetah-weak", 0.5, noise=0.1),
            Part("halfcheetah-middle", 0.3, noise=0.3),
            Part("halfcheetah-good", 0.2, noise=0.1),
        ),
        seed=16,
    ),
    DataSet(
        "halfcheetah-saturated",
        DEVELOPMENT,
        "halfcheetah",
        "saturated",
        100_000,
        (Part("halfcheetah-middle", 0.5, gain=3.0), Part("halfcheetah-weak", 0.5, gain=3.0)),
        physics="v4",
        seed=17,
    ),
    DataSet(
        "halfcheetah-small",
        REPORTING,
        "halfcheetah",
        "small",
        20_000,
        (Part("halfcheetah-weak", 0.5, noise=0.3), Part("halfcheetah-middle", 0.5)),
        physics="v4",
        cut=300,
        seed=18,
    ),
    DataSet(
        "dmsd-own", DEVELOPMENT, _DMSD, "plant", 20_000, (Part("dmsd-pd", noise=0.3),), seed=19
    ),
    DataSet("dmsd-neorl2", REPORTING, _DMSD, "plant", 100_000, (), seed=20),
    DataSet(
        "cstr",
        REPORTING,
        _CSTR,
        "plant",
        20_000,
        (Part("cstr-p", noise=0.3),),
        seed=21,
    ),
    DataSet(
        "tanks",
        DEVELOPMENT,
        _TANKS,
        "plant",
        20_000,
        (Part("tanks-p", 0.5, noise=0.3), Part("tanks-p", 0.5)),
        seed=22,
    ),
)
BY_NAME = {data_set.name: data_set for data_set in SETS}
