"""How a stage dataclass declares a knob: one field, with help, bounds and source beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from offline_tf.types import UserError

_AS_DEFAULT = object()


def knob(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    source: str = "",
    repeated: bool = False,
    infinite: bool = False,
    older: Any = _AS_DEFAULT,
) -> Any:
    """Declares a field of a stage dataclass.

    Args:
      default: the value without a flag.
      help: one or two sentences, with the unit.
      low, high: inclusive bounds of numbers.
      choices: allowed words.
      source: paper section or authors' file.
      repeated: a tuple of words whose flag is given once for each.
      infinite: whether a number may be infinite.
      older: what a run did whose folder is older than the knob, where that is not the default.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "source": source,
        "repeated": repeated,
        "infinite": infinite,
        "older": default if older is _AS_DEFAULT else older,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Any) -> None:
    """Checks bounds and choices; call it in __post_init__.

    Raises:
      UserError: a value is out of its bounds.
    """
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        if meta.get("choices") and value not in meta["choices"]:
            raise UserError(
                f"--{field.name}: expected one of {', '.join(meta['choices'])}, got {value!r}"
            )
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, (int, float)) and not isinstance(item, bool):
                low, high = meta.get("low"), meta.get("high")
                inside = (low is None or item >= low) and (high is None or item <= high)
                if math.isinf(item) and inside and not meta.get("infinite"):
                    raise UserError(f"--{field.name}: expected a finite number, got {item}")
                if not inside or item != item:
                    low_text = "-inf" if low is None else f"{low:g}"
                    high_text = "inf" if high is None else f"{high:g}"
                    raise UserError(
                        f"--{field.name}: expected a value in [{low_text}, {high_text}], got {item}"
                    )


def of_older_runs(configs: Iterable[Any]) -> dict[str, Any]:
    """What a run folder that lacks a flag of some stage dataclasses did: name -> value."""
    return {
        field.name: field.metadata.get("older", field.default)
        for part in configs
        for field in dataclasses.fields(part)
    }


def other_in_older_runs(configs: Iterable[Any]) -> dict[str, Any]:
    """Of these, what differs from today's default: the flags that make such a run again."""
    older = of_older_runs(configs)
    defaults = {field.name: field.default for part in configs for field in dataclasses.fields(part)}
    return {name: value for name, value in older.items() if value != defaults[name]}


def rebuild(cls: type, flags: dict[str, Any]) -> Any:
    """Builds a stage dataclass from a manifest's flags, where tuples are lists.

    A flag that the manifest lacks is younger than the run: see `of_older_runs`.

    Raises:
      UserError: a value is out of its bounds.
    """
    values = of_older_runs([cls]) | {
        field.name: flags[field.name] for field in dataclasses.fields(cls) if field.name in flags
    }
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
