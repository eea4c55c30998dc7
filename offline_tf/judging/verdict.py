"""Whether a run's result can be relied on, and on what grounds; nothing here saw a simulator.

The limits were set by seed 0 of the development half of benchmarks/robustness;
`benchmarks.robustness.verdicts` judges all records by them (docs/results/robustness.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

GREEN, DOUBTFUL, BAD = "green", "doubtful", "bad"
_LEVELS = (GREEN, DOUBTFUL, BAD)
_NEVER = float("inf")
_MORE_DATA = "record more data, or data of a better controller"
_BETTER_JUDGE = "raise --judge_steps, or record more data"


class Ground(NamedTuple):
    """One reason.

    Attributes:
      name: short, as in summary.json.
      value: the number.
      level: "green", "doubtful" or "bad".
      words: what the number is.
      advice: what to try; empty where there is nothing.
    """

    name: str
    value: float
    level: str
    words: str
    advice: str = ""


def ground(
    name: str,
    value: float,
    *,
    doubtful: float,
    bad: float,
    words: str,
    advice: str = "",
) -> Ground:
    """A ground that is doubtful from one value on and bad from another; higher is worse.

    A number that is none is bad.
    """
    level = GREEN if value < doubtful else DOUBTFUL if value < bad else BAD
    return Ground(name, value, level, words, advice)


class DataReturns(NamedTuple):
    """What the data's episodes earned.

    Attributes:
      mean: of all.
      of_best: of the best tenth.
    """

    mean: float
    of_best: float

    @classmethod
    def of(cls, returns: Sequence[float]) -> DataReturns:
        """Of returns, at least one."""
        best = sorted(returns)[-max(1, len(returns) // 10) :]
        return cls(sum(returns) / len(returns), sum(best) / len(best))

    @property
    def spread(self) -> float:
        """The unit of promises: by how much the best tenth is above the mean, or a tenth of it."""
        return max(self.of_best - self.mean, 0.1 * abs(self.of_best), 1e-9)


def of_judgement(
    judged: dict[str, float],
    data: DataReturns,
    model_error: float,
    advice: Mapping[str, str],
    of_clone: float | None = None,
) -> list[Ground]:
    """What the judge's numbers say of a controller.

    The promise is a bound that one in twenty is below; that it lies below the data says little where
    models are apart. So the middle between promise and expectation is held against the data. What is
    too good to be true is seen in the expectation.

    Args:
      judged: see `Judgement.numbers`.
      data: what its episodes earned.
      model_error: held-out squared error of the judge's models: 1 is that of predicting the mean
        change; see `Judge.error`.
      advice: of the algorithm, by ground: what to try where it is not green.
      of_clone: where it is a clone, the centre of what that is worth, see `clones.Chosen`. Beyond what
        the models know its episodes speak for it, so it has not to be promised what they earned, and
        HALT alone is never bad.
    """
    mean, of_best, spread = data.mean, data.of_best, data.spread
    what = (
        "the middle of promise and expectation" if of_clone is None else "what the clone is worth"
    )
    likely = 0.5 * (judged["promise"] + judged["expected"]) if of_clone is None else of_clone
    limits = []
    if "limits_broken" in judged:
        limits = [
            ground(
                "limits_broken",
                judged["limits_broken"],
                doubtful=0.01,
                bad=0.1,
                words="share of the judge's steps in which a limit of a signal is broken",
                advice=advice.get("limits_broken", "raise the price under [limits]"),
            )
        ]
    return limits + [
        ground(
            "below_data",
            (mean - likely) / spread,
            doubtful=0.5,
            bad=3.5,
            words=f"{what} lies below the mean return of the data, in units of its best tenth",
            advice=advice.get("below_data", _MORE_DATA),
        ),
        ground(
            "above_best",
            (judged["expected"] - of_best) / spread,
            doubtful=3.5,
            bad=7.0,
            words="the expectation lies above the best tenth of the episodes, in the same units",
            advice=advice.get("above_best", "try the controller with care"),
        ),
        ground(
            "halted_share",
            judged["halted_share"],
            doubtful=0.5 if of_clone is None else 0.9,
            bad=0.9 if of_clone is None else _NEVER,
            words="share of the judge's episodes that leave what its models know",
            advice=advice.get("halted_share", _BETTER_JUDGE),
        ),
        ground(
            "models_apart",
            judged["models_apart"] / max(abs(judged["expected"]), spread),
            doubtful=0.75,
            bad=1.5,
            words="how far the judge's models are apart, as a share of the expected return",
            advice=advice.get("models_apart", _BETTER_JUDGE),
        ),
        ground(
            "model_error",
            model_error,
            doubtful=0.5,
            bad=0.9,
            words="held-out error of the judge's models, where 1 is that of predicting the mean change "
            "over one step or ten",
            advice=advice.get("model_error", _BETTER_JUDGE),
        ),
    ]


def below_clone(behind: float, spread: float, advice: str) -> Ground:
    """Whether the clone is promised more.

    Args:
      behind: how much less the controller may earn than the clone, by the judge's models.
      spread: see `DataReturns`.
      advice: what to try.
    """
    return ground(
        "below_clone",
        behind / spread,
        doubtful=0.05,
        bad=0.3,
        words="the controller may earn less than the clone of the data, in the same units",
        advice=advice,
    )


class Verdict(NamedTuple):
    """The worst level, and all grounds."""

    level: str
    grounds: list[Ground]

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "level": self.level,
            "grounds": {
                g.name: {"value": g.value, "level": g.level, "words": g.words, "advice": g.advice}
                for g in self.grounds
            },
        }

    def in_words(self) -> str:
        """One line; what is not green is named with its number and what to try, the worst first."""
        if self.level == GREEN:
            return "can be relied on: no ground against it"
        bad, doubtful = (
            "; ".join(
                f"{g.words} ({g.value:.2f}){f': {g.advice}' if g.advice else ''}"
                for g in self.grounds
                if g.level == level
            )
            for level in (BAD, DOUBTFUL)
        )
        if not bad:
            return f"is doubtful: {doubtful}"
        return f"cannot be relied on: {bad}{f'; also doubtful: {doubtful}' if doubtful else ''}"


def of(grounds: list[Ground]) -> Verdict:
    """The verdict on grounds."""
    return Verdict(max((g.level for g in grounds), key=_LEVELS.index), grounds)
