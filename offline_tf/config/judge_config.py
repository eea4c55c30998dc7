"""The knobs of the judge, for both algorithms."""

from __future__ import annotations

import dataclasses

from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Judge: models apart, by which controllers are compared without a simulator."""

    judge_members: int = knob(
        3, "Models of the judge, fitted apart from those that plan; 0: no judge.", low=0, high=16
    )
    judge_hidden: tuple[int, ...] = knob((256, 256), "Hidden widths of each (ReLU).", low=1)
    judge_steps: int = knob(15_000, "Adam steps at most.", low=1)
    judge_starts: int = knob(
        20, "Episode starts of the data from which each model rolls a controller out.", low=2
    )
    judge_cut_share: float = knob(
        0.1,
        "Share of held-out episodes that may be above the judge's threshold, before its margin, when "
        "they are walked with their own actions.",
        low=0.0,
        high=1.0,
    )
    judge_margin: float = knob(1.5, "Factor on that threshold.", low=0.0)

    def __post_init__(self) -> None:
        """Checks the bounds, and that models can disagree."""
        check(self)
        if self.judge_members == 1:
            raise UserError(
                "--judge_members: expected 0, or 2 models or more, as one disagrees with nobody, got 1"
            )
