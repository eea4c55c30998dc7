"""Episodes in the simulator, for reporting only."""
