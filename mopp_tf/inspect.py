"""python -m mopp_tf.inspect --workdir=RUN: looks at the models and the candidates of a run again."""

from __future__ import annotations

from flags import schema
from offline_tf.config.shared_knobs import InspectConfig

USAGE = """
usage: python -m mopp_tf.inspect --workdir=RUN [--against=expert-ours] [--against=FILE]

Draws the pictures of RUN/inspection anew, and says how well disagreement tells the data from other
data: shuffled and random actions, and the data sets that are given.
"""


def main(config: InspectConfig) -> None:
    """Inspects and prints the numbers."""
    from mopp_tf.experiment import inspection  # here, so that --help needs no TensorFlow
    from offline_tf.pipeline import inspecting

    inspecting.look_again(config, inspection.inspect_again)


if __name__ == "__main__":
    schema.run(main, configs=[InspectConfig], usage=USAGE)
