"""Names that --dataset and --exploration take, for checks and messages, and how files are read."""

from __future__ import annotations

from typing import NamedTuple

EXPLORATIONS = ("pure", "eps1", "eps3", "gauss1", "gauss3", "random")
# D4RL's kinds of data, made here; the names say that they are not D4RL's own files. Those with sac have
# D4RL's recipe: SAC, and medium and expert as good as D4RL's.
OUR_KINDS = ("random-ours", "medium-ours", "mixed-ours", "expert-ours", "medium-expert-ours")
REPLAY_KINDS = ("medium-replay-sac", "full-replay-sac")  # of a training, not made on demand
SAC_KINDS = ("medium-sac", "expert-sac", "medium-expert-sac", *REPLAY_KINDS)
KINDS = (*OUR_KINDS, *SAC_KINDS)
FORMS = (
    "an HDF5 file with D4RL's keys, a Minari id or folder, a D4RL name (walker2d-medium-v2), "
    "tfds:NAME, a pickle of episodes, an npz archive, a CSV or Parquet table or a folder of them, a "
    "LeRobot folder"
)


class Reading(NamedTuple):
    """What a file does not say of itself.

    Attributes:
      columns: names of a table's columns in order, see `table_rows.named`; empty: it has names.
      observation_keys: where observations are a dict, those that are joined, in this order.
    """

    columns: tuple[str, ...] = ()
    observation_keys: tuple[str, ...] = ()


AS_NAMED = Reading()
