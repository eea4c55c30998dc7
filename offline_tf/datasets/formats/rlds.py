"""RLDS episodes through tensorflow-datasets, an optional dependency."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from offline_tf import install_hints
from offline_tf.datasets.formats import episodes
from offline_tf.types import Transitions, UserError

PREFIX = "tfds:"


def read(name: str, state_dim: int | None = None, keys: Sequence[str] = ()) -> Transitions:
    """Reads a data set such as "tfds:d4rl_mujoco_hopper/v2-medium".

    Raises:
      UserError: tensorflow-datasets is not installed, or does not know the name.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError(
            f"--dataset: {name} needs tensorflow-datasets; "
            + install_hints.install("requirements-formats.txt")
        )
    import tensorflow_datasets as tfds

    name = name.removeprefix(PREFIX)
    try:
        dataset = tfds.load(name, split="train")
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--dataset: tensorflow-datasets could not load {name}: {reason}") from None
    return from_episodes(tfds.as_numpy(dataset), name, name.startswith("d4rl"), state_dim, keys)


def from_episodes(
    found: Iterable[Mapping[str, Any]],
    source: str,
    last_is_wrong: bool,
    state_dim: int | None = None,
    keys: Sequence[str] = (),
) -> Transitions:
    """Makes Transitions of RLDS episodes.

    Step t of T holds the observation and the action and reward that followed it; those of the last
    step mean nothing. The step before the last led to the last observation, terminal or not.

    Args:
      found: mappings whose "steps" iterate over mappings with observation, action, reward,
        is_last, is_terminal.
      source: what to name in errors.
      last_is_wrong: whether the last step's observation is not the episode's own (the d4rl
        builder of tensorflow-datasets 4.9 puts the data set's last row there, or zeros); where the
        step before it led is then not known.
      state_dim: S of the task, checked when given.
      keys: where observations are a dict, those of its arrays that are joined, in this order.
    """
    return episodes.join(
        (_episode(_steps(episode), last_is_wrong) for episode in found), source, state_dim, keys
    )


def _steps(episode: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    try:
        return episode["steps"]
    except KeyError as error:
        raise _not_rlds(error) from None


def _episode(steps: Iterable[Mapping[str, Any]], last_is_wrong: bool) -> dict[str, Any]:
    rows = list(_rows(steps))
    used = max(len(rows) - 1, 0)
    shown = rows[: used + (not last_is_wrong)] if used else []
    observations: Any = np.array([row[0] for row in shown])
    if shown and isinstance(shown[0][0], Mapping):
        observations = {key: np.array([row[0][key] for row in shown]) for key in shown[0][0]}
    return {
        "observations": observations,
        "actions": np.array([row[1] for row in rows[:used]]),
        "rewards": np.array([row[2] for row in rows[:used]]),
        "terminals": np.array([bool(rows and rows[-1][3])]),
    }


def _rows(steps: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, Any, Any, bool]]:
    for step in steps:
        try:
            yield step["observation"], step["action"], step["reward"], bool(step["is_terminal"])
        except KeyError as error:
            raise _not_rlds(error) from None


def _not_rlds(missing: KeyError) -> UserError:
    return UserError(
        "--dataset: expected RLDS: episodes of steps with observation, action, reward and is_terminal, "
        f"got none called {missing}"
    )
