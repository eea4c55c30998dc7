"""MOReL: model-based offline reinforcement learning (Kidambi et al. 2020, arXiv 2005.05951)."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import offline_tf  # noqa: F401 (before TensorFlow, see there)

if TYPE_CHECKING:
    from offline_tf.export.loaded import Controller


def load(path: str | pathlib.Path) -> Controller:
    """Loads what a run hands over, to act with it.

    Args:
      path: of a run folder, or of an export.

    Returns:
      An object with act(observation), act_guarded, is_known; see `offline_tf.export.loaded.Controller`.

    Raises:
      UserError: there is no export of MOReL.
    """
    from offline_tf.export.loaded import Controller

    return Controller(path)
