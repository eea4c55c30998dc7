"""What other libraries call D4RL's columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from absl import logging

# D4RL's name of a column, then others': mjrl, decision-transformer, CS285, imitation, Gymnasium,
# Tianshou, RLlib, Stable-Baselines3's buffers, NeoRL, robomimic.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "observations": ("observation", "obs", "states", "state"),
    "actions": ("action", "acts", "act"),
    "rewards": ("reward", "rews", "rew"),
    "next_observations": (
        "next_observation",
        "next_obs",
        "obs_next",
        "new_obs",
        "next_states",
        "next_state",
    ),
    "terminals": (
        "terminal",
        "terminated",
        "terminateds",
        "terminations",
    ),
    # The episode ended, for whatever reason.
    "dones": ("done",),
    "timeouts": ("timeout", "truncated", "truncateds", "truncations"),
    # A number or word that is the same in all rows of an episode.
    "episodes": ("episode", "episode_id", "episode_ids", "episode_index", "eps_id", "traj_ids"),
    # The first row of each episode, as numbers of rows or as a flag.
    "starts": ("index", "episode_starts", "is_first"),
    "infos/qpos": (),
    "infos/qvel": (),
}


def found_in(names: Collection[str]) -> dict[str, str]:
    """D4RL's name -> the name that is there, of the columns that are known.

    Args:
      names: of columns; where several mean the same, D4RL's is taken, or the first in SYNONYMS.
    """
    present = {
        name: [word for word in (name, *others) if word in names]
        for name, others in SYNONYMS.items()
    }
    return {name: words[0] for name, words in present.items() if words}


def renamed(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The known columns of a mapping under D4RL's names."""
    return {name: mapping[word] for name, word in found_in(mapping).items()}


def tell(names: Collection[str], source: str) -> None:
    """Logs what is taken for what, where names are not D4RL's own."""
    taken = [f"{word} as {name}" for name, word in found_in(names).items() if word != name]
    tell_taken(taken, source)


def tell_taken(taken: Collection[str], source: str) -> None:
    """Logs what is taken for what; nothing where nothing is."""
    if taken:
        logging.info("--dataset: %s: taking %s", source, ", ".join(taken))
