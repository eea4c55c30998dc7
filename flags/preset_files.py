"""Presets: absl flagfiles in presets/FAMILY/PRESET/, which hold differences from the defaults only."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Sequence

from absl import flags

from offline_tf.types import UserError

_PRESETS = pathlib.Path(__file__).parent / "presets"


def preset_file(family: str, preset: str, env: str, dataset: str = "") -> pathlib.Path:
    """Returns the flagfile of a preset: that of the data set where there is one, else the robot's.

    Args:
      family: "morel" or "mopp".
      preset: such as "default".
      env: the robot.
      dataset: the value of --dataset; "medium-ours", "medium-sac" and "DIR/hopper-medium-v2.hdf5"
        are all "medium".

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
    for suffix in ("-ours", "-sac", "-v0", "-v1", "-v2"):
        name = name.removesuffix(suffix)
    return {"medium-replay": "mixed"}.get(name, name)


def _is_tuned_on(dataset: str) -> bool:
    """Whether the constants of `tuned` were chosen on such data."""
    return not dataset or dataset.endswith("-ours")


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

    A task without files of its own takes the dataclasses' defaults under --preset=default. On the kinds
    with -ours that preset has the constants of `tuned`, which were chosen on them; on other data, those
    with -sac among them, it has rules. --preset=rules has these on all data.

    Raises:
      UserError: no such preset.
    """
    if family is None:
        return list(argv)
    words = flags.FlagValues().read_flags_from_files(list(argv), force_gnu=False)
    env = _peek(words, "env", default_env)
    preset = _peek(words, "preset", "default")
    dataset = _peek(words, "dataset", default_dataset)
    tuned = (_PRESETS / family / "tuned" / f"{env}.flags").exists()
    if preset == "default" and tuned and env in known_tasks and _is_tuned_on(dataset):
        preset = "tuned"
    preset = "default" if preset == "rules" else preset
    built_in = (_PRESETS / family / "default" / f"{env}.flags").exists()
    if preset == "default" and not (env in known_tasks and built_in):
        return list(argv)
    if env not in known_tasks:
        near = difflib.get_close_matches(env, known_tasks, n=1)
        hint = f"; did you mean --env={near[0]}?" if near else ""
        raise UserError(f"--preset: expected default for --env={env}, got {preset!r}{hint}")
    return [argv[0], f"--flagfile={preset_file(family, preset, env, dataset)}", *argv[1:]]
