"""Turns frozen stage dataclasses into absl flags, presets and back.

A knob is a dataclass field made with `offline_tf.config.knobs.knob`. Its default, help, unit, bounds
and source stand there and nowhere else. A preset is an absl flagfile that holds differences only.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import logging as stdlib_logging
import os
import pathlib
import shlex
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from offline_tf import quiet_start
from offline_tf.config.knobs import check, knob
from offline_tf.run_folder import progress, stopping
from offline_tf.types import UserError

_PRESETS = pathlib.Path(__file__).parent / "presets"
_COLOURS = {stdlib_logging.WARNING: "33", stdlib_logging.ERROR: "31"}  # yellow, red
# What a path or a disk refuses, wherever a command comes upon it.
_NOT_OURS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
_PATHS = ("workdir", "export", "input")  # what a command reads


@dataclasses.dataclass(frozen=True)
class CommonConfig:
    """Common to all commands."""

    dry_run: bool = knob(False, "Check the flags, say what would be done, and stop.")
    quiet: bool = knob(False, "Print warnings and errors only.")
    verbose: bool = knob(
        False, "Print more: every metric, stage, progress each second, TensorFlow's start."
    )
    max_hours: float = knob(
        0.0,
        "Stop after so many hours, a run at its next checkpoint, other commands at once; 0: never.",
        low=0.0,
    )

    def __post_init__(self) -> None:
        """Checks that they go together."""
        check(self)
        if self.quiet and self.verbose:
            raise UserError("--quiet, --verbose: expected one of them, got both")


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
    data = f" and --dataset={dataset}" if dataset else ""
    raise UserError(
        f"--preset: expected a preset that exists for --env={env}{data}, got {preset!r}; "
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

    A task without files of its own takes the dataclasses' defaults under --preset=default.

    Raises:
      UserError: no such preset.
    """
    if family is None:
        return list(argv)
    words = flags.FlagValues().read_flags_from_files(list(argv), force_gnu=False)
    env = _peek(words, "env", default_env)
    preset = _peek(words, "preset", "default")
    dataset = _peek(words, "dataset", default_dataset)
    built_in = (_PRESETS / family / "default" / f"{env}.flags").exists()
    if preset == "default" and not (env in known_tasks and built_in):
        return list(argv)
    if env not in known_tasks:
        raise UserError(f"--preset: expected default for --env={env}, got {preset!r}")
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
    plan: Callable[..., Sequence[str]] | None = None,
    resumable: bool = False,
) -> None:
    """Runs a binary: defines the flags, parses them, calls main(*configs).

    Bad input ends in one line and status 2; Ctrl-C with 130, --max_hours with 75, both for resumable
    commands after the next checkpoint and with the command to go on; SIGTERM does so too there.

    Args:
      main: takes one instance per entry of `configs`.
      configs: stage dataclasses, in the order of the help page.
      usage: first paragraph of the help page.
      family: whose presets apply, or None.
      known_tasks: values of --env for which presets are looked up.
      default_env, default_dataset: the values of --env and --dataset where none is given.
      plan: (*configs) -> lines that say what `main` would do, for --dry_run.
      resumable: whether the same command goes on where it stopped.
    """
    for config in (*configs, CommonConfig):
        define(config, flags.FLAGS)

    def parse(argv: list[str]) -> list[str]:
        if any(word in ("--help", "-help", "-h", "-?") for word in argv[1:]):
            print(help_text(usage, [*configs, CommonConfig]))
            sys.exit(0)
        try:
            rest = flags.FLAGS(expand(argv, family, known_tasks, default_env, default_dataset))
        except (flags.Error, UserError) as error:
            refuse(" ".join(str(error).split()))
        if len(rest) > 1:
            refuse(f"expected flags only (--name=value), got {rest[1]!r}; see --help")
        return rest

    def body(_: list[str]) -> None:
        try:
            ways = read(CommonConfig, flags.FLAGS)
            _speak(ways)
            if not ways.verbose:
                quiet_start.install()
            found = [read(config, flags.FLAGS) for config in configs]
            if ways.dry_run:
                lines = plan(*found) if plan else _intent(found, resumable)
                print("\n".join(["nothing is done (--dry_run); this would be:", *lines]))
            else:
                hours = ways.max_hours or float("inf")
                with stopping.allowed(hours) if resumable else stopping.at_once(hours):
                    try:
                        main(*found)
                    finally:
                        progress.leave()
        except UserError as error:
            refuse(str(error))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            refuse(f"{where}{error.strerror}; choose another path, or mend this one")
        except stopping.Stopped as stopped:
            logging.warning("%s; %s", stopped, _go_on(resumable))
            sys.exit(stopped.status)
        except KeyboardInterrupt:
            print(f"interrupted; {_go_on(resumable)}", file=sys.stderr)
            sys.exit(130)

    app.run(body, flags_parser=parse)


def _go_on(resumable: bool) -> str:
    if not resumable:
        return "what it was writing is not complete"
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    python = sys.executable
    if python.startswith(os.getcwd() + os.sep):
        python = os.path.relpath(python)
    command = [python, *(["-m", spec.name] if spec else sys.argv[:1]), *sys.argv[1:]]
    return f"to go on: {shlex.join(command)}"


def _speak(ways: CommonConfig) -> None:
    """Sets what is printed, and how."""
    logging.use_absl_handler()
    stdlib_logging.getLogger("tensorflow").setLevel(stdlib_logging.ERROR)
    if not flags.FLAGS["verbosity"].present:  # --verbosity of absl wins
        level = logging.DEBUG if ways.verbose else logging.INFO
        logging.set_verbosity(logging.WARNING if ways.quiet else level)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Formatter())
    found = [importlib.util.find_spec(name) for name in ("tensorflow", "keras", "matplotlib")]
    foreign = tuple(os.path.dirname(spec.origin) for spec in found if spec and spec.origin)
    handler.addFilter(lambda record: not record.pathname.startswith(foreign))


class _Formatter(stdlib_logging.Formatter):
    """The message alone; warnings and errors in colour where a person looks on."""

    def format(self, record: stdlib_logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        colour = _COLOURS.get(record.levelno)
        if colour and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            return f"\033[{colour}m{text}\033[0m"
        return text


def _intent(configs: Sequence[Any], makes_folder: bool) -> list[str]:
    """What a command would do, as far as its flags say.

    Raises:
      UserError: what it would read is not there.
    """
    lines = []
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            for name in value if isinstance(value, tuple) else (value,):
                is_read = field.name in _PATHS and not (makes_folder and field.name == "workdir")
                if is_read and name and not os.path.exists(name):
                    raise UserError(f"--{field.name}: expected a path that exists, got {name}")
            if value != field.default:
                lines.append(f"  --{field.name}={value}")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [f"{spec.name if spec else sys.argv[0]} with", *(lines or ["  all defaults"])]
