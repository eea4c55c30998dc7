"""Says what goes wrong while planning: once each, with the likely cause and what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Numbers = dict[str, float]

_IN_A_ROW = 5  # iterations that a fault must last before it is told
_SHORT = 5.0  # steps
_RESIDUAL = 0.9  # 1 is that of a direction of zeros
_SHORTENED = 0.1
_CONSTANT = 1e-6


class Fault(NamedTuple):
    """Something that may be wrong with an iteration.

    Attributes:
      name: short.
      is_there: numbers of the iteration -> whether it shows it.
      words: what it is, why it may be, what to change.
    """

    name: str
    is_there: Callable[[Numbers], bool]
    words: str


FAULTS = (
    Fault(
        "all_halt",
        lambda n: n["halt_share"] == 1.0 and n["halt_step"] <= _SHORT,
        "all paths meet HALT within a few steps, so nothing can be learned. The threshold may reject "
        "too much of the data (see usad/planning: threshold above): lower --cut_share, or raise "
        "--beta. Or the policy's noise leads off the data: lower --init_log_std. Or the models are "
        "poor: raise --dynamics_steps, or record more data",
    ),
    Fault(
        "constant_returns",
        lambda n: (
            n["halt_share"] == 0.0 and n["return_spread"] <= _CONSTANT * abs(n["pmdp_return"])
        ),
        "all paths earn the same, so no action is better than another. Look at the task's "
        "reward, or at the data's, with offline_tf.datasets.doctor",
    ),
    Fault(
        "conjugate_gradients",
        lambda n: n["cg_residual"] >= _RESIDUAL,
        "conjugate gradients do not find the natural step: raise --cg_iterations or --cg_damping",
    ),
    Fault(
        "short_steps",
        lambda n: n["step_share"] < _SHORTENED,
        "the natural step is taken to less than a tenth, as the KL comes out far above its target: "
        "lower --kl_per_update, or raise --cg_damping or --min_log_std",
    ),
)


class Watch:
    """Looks at every iteration's numbers; a fault that lasts is told once."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._lasts = dict.fromkeys((fault.name for fault in FAULTS), 0)  # iterations
        self._told: set[str] = set()

    def look(self, numbers: Numbers) -> list[str]:
        """What is to be told after an iteration; mostly nothing.

        Args:
          numbers: of the iteration: those of `path_statistics` and `UpdateReport`, and "return_spread",
            the standard deviation of the paths' returns.
        """
        words = []
        for fault in FAULTS:
            self._lasts[fault.name] = self._lasts[fault.name] + 1 if fault.is_there(numbers) else 0
            if self._lasts[fault.name] >= _IN_A_ROW and fault.name not in self._told:
                self._told.add(fault.name)
                words.append(fault.words)
        return words
