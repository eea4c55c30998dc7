"""Logged data: files, collection in the simulator, velocities that observations clip."""
