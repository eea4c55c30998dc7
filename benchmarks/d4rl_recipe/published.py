"""What D4RL's version 2 files of three robots hold, quoted; none was measured here."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = (
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


D4RL: dict[str, dict[str, Statistics]] = {
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
