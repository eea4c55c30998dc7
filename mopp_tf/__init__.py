"""MOPP: model-based offline planning with trajectory pruning (Zhan et al. 2022, arXiv 2105.07351).

Start with planner.py, one decision on one page, and algorithm.py, what is fitted before.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import offline_tf  # noqa: F401 (before TensorFlow, see there)

if TYPE_CHECKING:
    from offline_tf.deployed import Planner


def load(path: str | pathlib.Path, seed: int = 0) -> Planner:
    """Loads what a run hands over, to act with it.

    Args:
      path: of a run folder, or of an export.
      seed: of the proposals.

    Returns:
      An object with act(observation), reset() and decision; see `offline_tf.deployed.Planner`.

    Raises:
      UserError: there is no export of MOPP.
    """
    from offline_tf.deployed import Planner

    return Planner(path, seed)
