"""Data by D4RL's recipe: what a training with SAC leaves, as data sets that compare with D4RL's."""
