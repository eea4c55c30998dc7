"""Names that --dataset and --exploration take, for checks and messages."""

from __future__ import annotations

EXPLORATIONS = ("pure", "eps1", "eps3", "gauss1", "gauss3", "random")
# D4RL's kinds of data, made here; the names say that they are not D4RL's own files.
KINDS = ("random-ours", "medium-ours", "mixed-ours", "expert-ours", "medium-expert-ours")
FORMS = (
    "an HDF5 file with D4RL's keys, a Minari id or folder, a D4RL name (walker2d-medium-v2), "
    "tfds:NAME, a pickle of episodes, an npz archive, a CSV table"
)
