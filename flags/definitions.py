"""Frozen stage dataclasses as absl flags, back again, and as a --help page.

A knob is a dataclass field made with `offline_tf.config.knobs.knob`. Its default, help, unit, bounds
and source stand there and nowhere else.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from offline_tf.types import UserError


def _flag_type(annotation: Any) -> Any:
    """Int | None and the like become int."""
    arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
    return arguments[0] if arguments and typing.get_origin(annotation) is not tuple else annotation


def define(config: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of a stage dataclass.

    Raises:
      flags.DuplicateFlagError: a name is defined already.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        text = field.metadata["help"]
        kind = _flag_type(hints[field.name])
        choices = field.metadata.get("choices")
        default: Any = field.default
        common: dict[str, Any] = {"flag_values": flag_values}
        if choices:
            flags.DEFINE_enum(field.name, default, list(choices), text, **common)
        elif kind is bool:
            flags.DEFINE_boolean(field.name, default, text, **common)
        elif kind is int:
            flags.DEFINE_integer(field.name, default, text, **common)
        elif kind is float:
            flags.DEFINE_float(field.name, default, text, **common)
        elif kind is str:
            flags.DEFINE_string(field.name, default, text, **common)
        elif field.metadata.get("repeated"):
            flags.DEFINE_multi_string(field.name, list(default), text, **common)
        elif typing.get_origin(kind) is tuple:
            flags.DEFINE_list(field.name, [str(x) for x in default], text, **common)
        else:
            raise TypeError(f"{config.__name__}.{field.name}: no flag for type {kind}")


def read(config: type, flag_values: flags.FlagValues = flags.FLAGS) -> Any:
    """Builds a stage dataclass from parsed flags.

    Raises:
      UserError: a value is out of its bounds.
    """
    hints = typing.get_type_hints(config)
    values = {}
    for field in dataclasses.fields(config):
        value: Any = flag_values[field.name].value
        kind = _flag_type(hints[field.name])
        if typing.get_origin(kind) is tuple:
            element = typing.get_args(kind)[0]
            try:
                value = tuple(element(x) for x in value)
            except ValueError:
                raise UserError(
                    f"--{field.name}: expected a comma-separated list of {element.__name__}, "
                    f"got {value}"
                ) from None
        values[field.name] = value
    return config(**values)


def _describe(field: dataclasses.Field, width: int) -> str:
    default = field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    words = [field.metadata["help"]]
    if field.metadata.get("choices"):
        words.append("One of " + ", ".join(map(repr, field.metadata["choices"])) + ".")
    words.append(f"Default: {shown if shown not in (None, '') else 'none'}.")
    if field.metadata.get("source"):
        words.append(f"[{field.metadata['source']}]")
    body = textwrap.fill(" ".join(words), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  --{field.name}\n{body}"


def help_text(usage: str, configs: Sequence[type]) -> str:
    """Returns the --help page: usage, then the knobs, grouped by stage."""
    width = min(shutil.get_terminal_size((100, 20)).columns, 100)
    parts = [usage.strip(), ""]
    for config in configs:
        title = (config.__doc__ or config.__name__).strip().splitlines()[0]
        parts.append(f"{title}\n{'-' * len(title)}")
        parts.extend(_describe(field, width) for field in dataclasses.fields(config))
        parts.append("")
    parts.append("A file of flags: --flagfile=FILE. All flags of all libraries: --helpfull.")
    return "\n".join(parts)
