"""What others have published, quoted: nothing here was measured by this project.

MOReL's returns are of its paper, arXiv 2005.05951, table 1: a million steps, mean of its seeds. Scores
on D4RL are 100 (R - random) / (expert - random). Those of MOReL and MOPP are on D4RL's v0 data. All
others are on v2, from the table in ECPI's README.
"""

from __future__ import annotations

from typing import NamedTuple

ROBOTS = ("hopper", "walker2d", "halfcheetah", "ant")
EXPLORATIONS = ("pure", "eps1", "eps3", "gauss1", "gauss3")
_MOREL = {
    "hopper": (3642, 3724, 3535, 3653, 3648),
    "walker2d": (3709, 2899, 3186, 4027, 2828),
    "halfcheetah": (6028, 5861, 5869, 6026, 5892),
    "ant": (3663, 3305, 3008, 3329, 3693),
}
MOREL_RETURNS = {
    (robot, exploration): value
    for robot, values in _MOREL.items()
    for exploration, value in zip(EXPLORATIONS, values, strict=True)
}

# Robots in the order of D4RL's papers; kinds without the version.
D4RL_ALGORITHMS = ("BC", "MOReL", "MOPP", "MOPO", "COMBO", "RAMBO", "MOBILE", "EDAC")
_D4RL = {
    "halfcheetah-random": (2.2, 25.6, 9.4, 34.0, 38.8, 40.0, 39.3, 28.4),
    "hopper-random": (3.7, 53.6, 13.7, 31.7, 17.9, 21.6, 31.9, 25.3),
    "walker2d-random": (1.3, 37.3, 6.3, 7.4, 7.0, 11.5, 17.9, 16.6),
    "halfcheetah-medium": (43.2, 42.1, 44.7, 73.3, 54.2, 77.6, 74.6, 65.9),
    "hopper-medium": (54.1, 95.4, 31.8, 62.8, 97.2, 92.8, 106.6, 101.6),
    "walker2d-medium": (70.9, 77.8, 80.7, 84.1, 81.9, 86.9, 87.7, 92.5),
    "halfcheetah-medium-replay": (37.6, 40.2, 43.1, 72.1, 55.1, 68.9, 71.7, 61.3),
    "hopper-medium-replay": (16.6, 93.6, 32.3, 103.5, 89.5, 96.6, 103.9, 101.0),
    "walker2d-medium-replay": (20.3, 49.8, 18.5, 86.6, 56.1, 85.0, 89.9, 87.1),
    "halfcheetah-medium-expert": (44.0, 53.3, 106.2, 90.8, 90.2, 93.7, 108.2, 106.3),
    "hopper-medium-expert": (53.9, 108.7, 95.4, 81.6, 111.1, 83.3, 112.6, 110.7),
    "walker2d-medium-expert": (90.1, 95.6, 92.9, 112.9, 103.3, 68.3, 115.2, 114.7),
}
D4RL_SCORES = {
    (name, algorithm): value
    for name, values in _D4RL.items()
    for algorithm, value in zip(D4RL_ALGORITHMS, values, strict=True)
}

# What D4RL's version 2 files hold.
D4RL_DATA_SOURCE = (
    "quoted: what two public repositories print of D4RL's v2 files cut into episodes; they agree on "
    "medium and expert; random stands in one, medium-replay and the steps in the other"
)


class Statistics(NamedTuple):
    """Of whole episodes.

    Attributes:
      mean, std: of the returns; the spread is over episodes (n).
      steps: rows in whole episodes; None: not known.
    """

    mean: float
    std: float
    steps: int | None


D4RL_DATA: dict[str, dict[str, Statistics]] = {
    "hopper": {
        "random": Statistics(18.40, 17.45, None),
        "medium": Statistics(1422.06, 378.95, 999_906),
        "medium-replay": Statistics(467.30, 511.03, 402_000),
        "expert": Statistics(3511.36, 328.59, 999_494),
    },
    "walker2d": {
        "random": Statistics(1.87, 5.81, None),
        "medium": Statistics(2852.09, 1095.44, 999_995),
        "medium-replay": Statistics(682.70, 895.96, 302_000),
        "expert": Statistics(4920.51, 136.39, 999_214),
    },
    "halfcheetah": {
        "random": Statistics(-288.80, 80.43, None),
        "medium": Statistics(4770.33, 355.75, 1_000_000),
        "medium-replay": Statistics(3093.29, 1680.69, 202_000),
        "expert": Statistics(10656.43, 441.68, 1_000_000),
    },
}
