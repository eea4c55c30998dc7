"""Turns frozen stage dataclasses into absl flags, presets and back.

A knob is a dataclass field made with `offline_tf.knobs.knob`: its default, help, unit, bounds and
source stand there and nowhere else. A preset is an absl flagfile that holds differences only.
"""

from __future__ import annotations

import dataclasses
import logging as stdlib_logging
import os
import pathlib
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from offline_tf.types import UserError

# TensorFlow's C++ start-up messages drown a run's own lines; a value that the user set stands.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_PRESETS = pathlib.Path(__file__).parent / "presets"


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


def preset_file(family: str, preset: str, env: str, dataset: str = "") -> pathlib.Path:
    """Returns the flagfile of a preset: that of the data set where there is one, else the robot's.

    Args:
      family: "morel" or "mopp".
      preset: such as "default".
      env: the robot.
      dataset: the value of --dataset; "medium-ours" and "DIR/hopper-medium-v2.hdf5" are both
        "medium".

    Raises:
      UserError: no such preset; the message lists those that exist.
    """
    folder = _PRESETS / family / preset
    for name in (f"{env}-{_kind_of_data(env, dataset)}", env):
        if (folder / f"{name}.flags").exists():
            return folder / f"{name}.flags"
    known = sorted(f"{p.parent.name} ({p.stem})" for p in (_PRESETS / family).glob("*/*.flags"))
    raise UserError(
        f"--preset: expected a preset that exists for --env={env}, got {preset!r}; "
        f"there are: {', '.join(known)}"
    )


def _kind_of_data(env: str, dataset: str) -> str:
    name = pathlib.Path(dataset).stem.replace("_", "-").lower().removeprefix(f"{env}-")
    for suffix in ("-ours", "-v0", "-v1", "-v2"):
        name = name.removesuffix(suffix)
    return {"medium-replay": "mixed"}.get(name, name)


def _peek(argv: Sequence[str], name: str, default: str) -> str:
    """Reads one string flag before the others are parsed; the last one given counts."""
    value = default
    for index, word in enumerate(argv):
        for dashes in ("--", "-"):
            if word.startswith(f"{dashes}{name}="):
                value = word.split("=", 1)[1]
            elif word == f"{dashes}{name}" and index + 1 < len(argv):
                value = argv[index + 1]
    return value


def expand(
    argv: Sequence[str],
    family: str | None,
    known_tasks: Sequence[str],
    default_env: str,
    default_dataset: str = "",
) -> list[str]:
    """Puts the preset's flagfile in front of the user's flags, which win over it.

    A registered task without a file of its own takes the dataclasses' defaults under
    --preset=default.
    """
    if family is None:
        return list(argv)
    words = flags.FlagValues().read_flags_from_files(list(argv), force_gnu=False)
    env = _peek(words, "env", default_env)
    preset = _peek(words, "preset", "default")
    dataset = _peek(words, "dataset", default_dataset)
    built_in = (_PRESETS / family / "default" / f"{env}.flags").exists()
    if env not in known_tasks or (preset == "default" and not built_in):
        return list(argv)
    return [argv[0], f"--flagfile={preset_file(family, preset, env, dataset)}", *argv[1:]]


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


def refuse(message: str) -> NoReturn:
    """Ends the process with one line and status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run(
    main: Callable[..., None],
    configs: Sequence[type],
    usage: str,
    family: str | None = None,
    known_tasks: Sequence[str] = (),
    default_env: str = "",
    default_dataset: str = "",
) -> None:
    """Runs a binary: defines the flags, parses them, calls main(*configs), reports bad input (exit 2).

    Args:
      main: takes one instance per entry of `configs`.
      configs: stage dataclasses, in the order of the help page.
      usage: first paragraph of the help page.
      family: whose presets apply, or None.
      known_tasks: values of --env for which presets are looked up.
      default_env, default_dataset: the values of --env and --dataset where none is given.
    """
    for config in configs:
        define(config)

    def parse(argv: list[str]) -> list[str]:
        if any(word in ("--help", "-help", "-h", "-?") for word in argv[1:]):
            print(help_text(usage, configs))
            sys.exit(0)
        try:
            rest = flags.FLAGS(expand(argv, family, known_tasks, default_env, default_dataset))
        except (flags.Error, UserError) as error:
            refuse(" ".join(str(error).split()))
        if len(rest) > 1:
            refuse(f"expected flags only (--name=value), got {rest[1]!r}; see --help")
        return rest

    def body(_: list[str]) -> None:
        logging.use_absl_handler()
        stdlib_logging.getLogger("tensorflow").setLevel(stdlib_logging.ERROR)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().setFormatter(None)
        logging.get_absl_handler().addFilter(lambda record: "tensorflow" not in record.pathname)
        try:
            main(*(read(config) for config in configs))
        except UserError as error:
            refuse(str(error))

    app.run(body, flags_parser=parse)
