"""python -m morel_tf.train_behavior --env=hopper --target_return=1000: makes a behaviour policy."""

from __future__ import annotations

from flags import schema
from morel_tf import config

USAGE = """
usage: python -m morel_tf.train_behavior --env=hopper [--target_return=1000 | --num_steps=N] [flags]

Trains a policy in the real simulator by natural policy gradient, to serve as a behaviour policy.
"""


def main(behavior: config.BehaviorConfig) -> None:
    """Trains, or continues."""
    from morel_tf.behavior_policy import training  # here, so that --help needs no TensorFlow

    training.run(behavior)


if __name__ == "__main__":
    schema.run(main, configs=[config.BehaviorConfig], usage=USAGE, resumable=True)
