"""Logged data: files, collection in the simulator, velocities that observations clip."""

EXPLORATIONS = ("pure", "eps1", "eps3", "gauss1", "gauss3", "random")
# What --dataset takes, for messages.
FORMS = (
    "an HDF5 file with D4RL's keys, a Minari id or folder, a D4RL name (walker2d-medium-v2), "
    "tfds:NAME, a pickle of episodes, an npz archive, a CSV table"
)
