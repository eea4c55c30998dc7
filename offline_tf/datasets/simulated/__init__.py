"""Data made in the simulator."""
