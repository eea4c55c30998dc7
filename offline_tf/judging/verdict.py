"""Whether a run's result can be relied on, and on what grounds; nothing here saw a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

GREEN, DOUBTFUL, BAD = "green", "doubtful", "bad"
_LEVELS = (GREEN, DOUBTFUL, BAD)


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


def of_judgement(
    judged: dict[str, float],
    data_returns: Sequence[float],
    clone_promise: float,
    model_error: float,
) -> list[Ground]:
    """What the judge's numbers say of a controller.

    Args:
      judged: see `Judgement.numbers`.
      data_returns: of the data's episodes.
      clone_promise: what the judge promises of the behaviour's clone.
      model_error: held-out squared error of the judge's models, in standardised changes: 1 is that of
        predicting the mean change.
    """
    mean = sum(data_returns) / len(data_returns)
    best = sorted(data_returns)[-max(1, len(data_returns) // 10) :]
    of_best = sum(best) / len(best)
    spread = max(of_best - mean, 0.1 * abs(of_best), 1e-9)
    expected = judged["expected"]
    return [
        ground(
            "below_data",
            (mean - judged["promise"]) / spread,
            doubtful=0.0,
            bad=0.5,
            words="the promise lies below the mean return of the data, in units of its best tenth",
            advice="record more data, or data of a better controller",
        ),
        ground(
            "above_best",
            (judged["promise"] - of_best) / spread,
            doubtful=0.5,
            bad=2.0,
            words="the promise lies above the best tenth of the episodes, in the same units",
            advice="lower --cut_share, or try the controller with care",
        ),
        ground(
            "halted_share",
            judged["halted_share"],
            doubtful=0.2,
            bad=0.6,
            words="share of the judge's episodes that leave what its models know",
            advice="lower --kl_per_update or --judge_patience, or raise --judge_steps",
        ),
        ground(
            "models_apart",
            judged["models_apart"] / max(abs(expected), spread),
            doubtful=0.25,
            bad=0.75,
            words="how far the judge's models are apart, as a share of the expected return",
            advice="raise --judge_steps, or record more data",
        ),
        ground(
            "below_clone",
            (clone_promise - judged["promise"]) / spread,
            doubtful=0.05,
            bad=0.3,
            words="the promise lies below that of the clone of the data, in the same units",
            advice="deploy the clone",
        ),
        ground(
            "model_error",
            model_error,
            doubtful=0.1,
            bad=0.4,
            words="held-out error of the judge's models, where 1 is that of predicting the mean change",
            advice="raise --judge_steps, or record more data",
        ),
    ]


class Verdict(NamedTuple):
    """The worst level, and all grounds."""

    level: str
    grounds: list[Ground]

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "level": self.level,
            "grounds": {g.name: {"value": g.value, "level": g.level} for g in self.grounds},
        }

    def in_words(self) -> str:
        """One line; what is not green is named with its number and what to try."""
        if self.level == GREEN:
            return "can be relied on: no ground against it"
        reasons = [g for g in self.grounds if g.level == self.level]
        said = "; ".join(
            f"{g.words} ({g.value:.2f}){f': {g.advice}' if g.advice else ''}" for g in reasons
        )
        return f"{'is doubtful' if self.level == DOUBTFUL else 'cannot be relied on'}: {said}"


def of(grounds: list[Ground]) -> Verdict:
    """The verdict on grounds."""
    return Verdict(max((g.level for g in grounds), key=_LEVELS.index), grounds)
