"""The pessimistic MDP and natural policy gradient in it."""
