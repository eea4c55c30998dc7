"""One decision of the planner and its parts."""
