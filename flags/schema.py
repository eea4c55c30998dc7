"""Runs a command: from the command line to main(*configs), what is printed, and how it ends."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging as stdlib_logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from flags import endings
from flags.definitions import define, help_text, read
from flags.preset_files import expand
from offline_tf import quiet_start
from offline_tf.config.knobs import check, knob
from offline_tf.run_folder import progress, stopping
from offline_tf.types import UserError

_COLOURS = {stdlib_logging.WARNING: "33", stdlib_logging.ERROR: "31"}  # yellow, red
_PATHS = ("workdir", "export", "input")  # what a command reads


@dataclasses.dataclass(frozen=True)
class CommonConfig:
    """Common to all commands."""

    dry_run: bool = knob(False, "Check the flags, say what would be done, and stop.")
    quiet: bool = knob(False, "Print warnings and errors only.")
    verbose: bool = knob(
        False, "Print more: every metric, stage, progress each second, TensorFlow's start."
    )
    debug: bool = knob(False, "Show the traceback of an error.")
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


def refuse(message: str, status: int = 2) -> NoReturn:
    """Ends the process with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def run(
    main: Callable[..., None],
    *,
    configs: Sequence[type],
    usage: str,
    family: str | None = None,
    known_tasks: Sequence[str] = (),
    default_env: str = "",
    default_dataset: str = "",
    plan: Callable[..., Sequence[str]] | None = None,
    resumable: bool = False,
    positional: str = "",
) -> None:
    """Runs a binary: defines the flags, parses them, calls main(*configs).

    Bad input ends in one line and status 2, a fault of ours in one line, a file to report and status 1;
    --debug shows the traceback instead. Ctrl-C with 130, --max_hours with 75, both for resumable
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
      positional: the flag that a word without dashes stands for; empty: such a word is refused.
    """
    for config in (*configs, CommonConfig):
        define(config, flags.FLAGS)

    def parse(argv: list[str]) -> list[str]:
        if any(word in ("--help", "-help", "-h", "-?") for word in argv[1:]):
            print(help_text(usage, [*configs, CommonConfig]))
            sys.exit(0)
        if positional and len(argv) > 1 and not argv[1].startswith("-"):
            argv = [argv[0], f"--{positional}={argv[1]}", *argv[2:]]
        try:
            arguments = flags.FLAGS(expand(argv, family, known_tasks, default_env, default_dataset))
        except (flags.Error, UserError) as error:
            refuse(" ".join(str(error).split()))
        if len(arguments) > 1:
            refuse(f"expected flags only (--name=value), got {arguments[1]!r}; see --help")
        return arguments

    def body(_: list[str]) -> None:
        debug = flags.FLAGS["debug"].value
        try:
            common = read(CommonConfig, flags.FLAGS)
            _speak(common)
            if not common.verbose:
                quiet_start.install()
            parsed = [read(config, flags.FLAGS) for config in configs]
            if common.dry_run:
                lines = plan(*parsed) if plan else _intent(parsed, resumable)
                print("\n".join(["nothing is done (--dry_run); this would be:", *lines]))
                return
            hours = common.max_hours or float("inf")
            with stopping.allowed(hours) if resumable else stopping.at_once(hours):
                try:
                    main(*parsed)
                finally:
                    progress.leave()
        except stopping.Stopped as stopped:
            logging.warning("%s; %s", stopped, _go_on(resumable))
            sys.exit(stopped.status)
        except KeyboardInterrupt:
            print(f"interrupted; {_go_on(resumable)}", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if debug:
                raise
            line = endings.in_one_line(error, resumable)
            if line is None:
                refuse(endings.unforeseen(error), status=1)
            refuse(line)

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


def _speak(common: CommonConfig) -> None:
    """Sets what is printed, and how."""
    logging.use_absl_handler()
    stdlib_logging.getLogger("tensorflow").setLevel(stdlib_logging.ERROR)
    if not flags.FLAGS["verbosity"].present:  # --verbosity of absl wins
        level = logging.DEBUG if common.verbose else logging.INFO
        logging.set_verbosity(logging.WARNING if common.quiet else level)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Formatter())
    specs = [importlib.util.find_spec(name) for name in ("tensorflow", "keras", "matplotlib")]
    foreign = tuple(os.path.dirname(spec.origin) for spec in specs if spec and spec.origin)
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
