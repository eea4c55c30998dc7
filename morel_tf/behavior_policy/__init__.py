"""Behaviour policies, trained in the simulator to make data."""
