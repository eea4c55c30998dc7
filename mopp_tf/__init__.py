"""MOPP: model-based offline planning with trajectory pruning (Zhan et al. 2022, arXiv 2105.07351).

Start with planner.py, one decision on one page, and algorithm.py, what is fitted before.
"""

import offline_tf  # noqa: F401 (before TensorFlow, see there)
