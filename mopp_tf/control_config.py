"""Control at run time: another reward, constraints, other planner knobs; nothing is retrained."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from mopp_tf.config import MbopConfig, PlannerConfig
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

# The knobs of `PlannerConfig` that MBOP uses.
_TAKEN_BY_MBOP = (
    "population",
    "temperature_units",
    "terminal_value",
    "planner_termination",
    "planner_precision",
)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Control flexibility: another reward, and constraints, at run time."""

    reward: str = knob(
        "",
        "MODULE:FUNCTION of (s [B,S], a [B,A], s' [B,S]) -> reward [B], in TensorFlow; see "
        "mopp_tf/objectives.py.",
    )
    reward_mode: str = knob(
        "add",
        "Whether it is added to the reward that the planner has, or replaces it.",
        choices=("add", "replace"),
    )
    reward_arg: float | None = knob(
        None, "Number handed to the reward function; None: its default."
    )
    constraint: str = knob(
        "",
        "MODULE:FUNCTION of (s, a, s') and --constraint_arg -> violation [B], positive where broken.",
    )
    constraint_arg: float | None = knob(None, "Number handed to the constraint function.")
    constraint_mode: str = knob(
        "hard",
        "hard: candidates that break it are pruned, unless all do, and then those that break it least "
        "stay; soft: they pay --constraint_weight per unit.",
        choices=("hard", "soft"),
    )
    constraint_weight: float = knob(
        100.0, "Price of a unit of violation, soft mode.", low=0.0, high=1e9
    )
    planner: tuple[str, ...] = knob(
        (),
        "Planner knobs that differ from the run's, KNOB=VALUE,...: Q was fitted to the old reward, so "
        "another objective wants max_q=false,terminal_value=false,sigma_max=1.",
    )

    def __post_init__(self) -> None:
        """Checks the bounds and the form of the function names."""
        check(self)
        for name in ("reward", "constraint"):
            value = getattr(self, name)
            if value and value.count(":") != 1:
                raise UserError(f"--{name}: expected MODULE:FUNCTION, got {value!r}")


def changed_planner(
    planner: PlannerConfig, mbop: MbopConfig, changes: tuple[str, ...], algorithm: str = "mopp"
) -> tuple[PlannerConfig, MbopConfig]:
    """Returns the knobs with KNOB=VALUE changes.

    Args:
      planner, mbop: the knobs so far.
      changes: each KNOB=VALUE.
      algorithm: "mopp" or "mbop": whose knobs may change.

    Raises:
      UserError: the algorithm has no such knob (the nearest is named), or a value of the wrong type or
        out of bounds.
    """
    values: dict[str, Any] = {}
    knobs = dataclasses.asdict(planner)
    if algorithm == "mbop":
        knobs = {name: knobs[name] for name in _TAKEN_BY_MBOP} | dataclasses.asdict(mbop)
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator or name not in knobs:
            near = difflib.get_close_matches(name, knobs, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"--planner: expected KNOB=VALUE of {algorithm}'s planner, got {change!r}{hint}"
            )
        kind = float if knobs[name] is None else type(knobs[name])
        try:
            values[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(
                f"--planner: expected {name} as {kind.__name__}, got {text!r}"
            ) from None
    of_mbop = {name: value for name, value in values.items() if hasattr(mbop, name)}
    others = {name: value for name, value in values.items() if name not in of_mbop}
    return dataclasses.replace(planner, **others), dataclasses.replace(mbop, **of_mbop)
