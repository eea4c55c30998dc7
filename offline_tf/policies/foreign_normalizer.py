"""What VecNormalize of Stable-Baselines3 does to observations, from its pickle; nothing in it is run.

Source: VecNormalize.normalize_obs, clip((s - mean) / sqrt(var + epsilon), -clip, clip).
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from offline_tf.numerics import pickle_sizes, pickled_arrays
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, UserError

FILE = "vecnormalize.pkl"


class Normalizer(NamedTuple):
    """Statistics [S] of a policy's training, and its limits."""

    mean: Array
    variance: Array
    epsilon: float
    clip: float

    def apply(self, observations: Array) -> Array:
        """[B, S] -> [B, S] float32."""
        standard = (observations - self.mean) / np.sqrt(self.variance + self.epsilon)
        return np.clip(standard, -self.clip, self.clip).astype(np.float32)


def beside(policy: pathlib.Path) -> pathlib.Path | None:
    """The file of a policy's zip file: beside it, or in the folder of its name; None: there is none."""
    places = (policy.with_name(FILE), policy.with_suffix("") / FILE)
    return next((path for path in places if path.is_file()), None)


def read(path: pathlib.Path, width: int) -> Normalizer | None:
    """Reads a VecNormalize.

    Args:
      path: of the pickle.
      width: S, of the policy's observations.

    Returns:
      The normalizer; None where it normalises rewards alone.

    Raises:
      UserError: no such file, damaged, of another kind, or for other observations.
    """
    try:
        check_size(path.stat().st_size, str(path), "policy_normalizer")
        pickle_sizes.check_file(path)
        with path.open("rb") as file:
            state = vars(pickled_arrays.DataOnly(file).load())
        if not state["norm_obs"]:
            return None
        statistics = vars(state["obs_rms"])
        found = Normalizer(
            np.asarray(pickled_arrays.resolved(statistics["mean"]), np.float64),
            np.asarray(pickled_arrays.resolved(statistics["var"]), np.float64),
            float(pickled_arrays.resolved(state["epsilon"])),
            float(pickled_arrays.resolved(state["clip_obs"])),
        )
    except FileNotFoundError:
        raise UserError(f"--policy_normalizer: expected a file at {path}, found none") from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--policy_normalizer: expected Stable-Baselines3's VecNormalize of plain observations in "
            f"{path}: {reason}"
        ) from None
    if found.mean.shape != (width,) or found.variance.shape != (width,):
        raise UserError(
            f"--policy_normalizer: {path} is of observations {found.mean.shape}, the policy takes "
            f"({width},)"
        )
    sound = np.isfinite(found.mean).all() and (found.variance >= 0.0).all() and found.clip > 0.0
    if not sound or not np.isfinite(found.variance).all() or not found.epsilon >= 0.0:
        raise UserError(f"--policy_normalizer: the statistics in {path} are not finite")
    return found
