"""MOPP: model-based offline planning with trajectory pruning (Zhan et al. 2022, arXiv 2105.07351).

Only the place of the package so far: no module of the algorithm has landed.
"""
