"""MBOP, the baseline planner."""
