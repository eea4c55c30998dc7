"""MOReL: model-based offline reinforcement learning (Kidambi et al. 2020, arXiv 2005.05951)."""

import offline_tf  # noqa: F401 (before TensorFlow, see there)
