"""What any offline reinforcement-learning algorithm in TensorFlow needs; imports nothing heavy."""
