"""Knobs that commands of both algorithms share."""

from __future__ import annotations

import dataclasses
from typing import Any

from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError


def compile_knob() -> Any:
    """--compile, for the commands with hot loops; see `process.use_compiler`."""
    return knob(
        "auto",
        "What runs the hot loops (fitting, roll-outs in the model, decisions): graph (TensorFlow's "
        "own kernels), xla, or auto (xla where TensorFlow sees a GPU).",
        choices=("auto", "graph", "xla"),
    )


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection."""

    workdir: str = knob("", "Run folder.")
    against: tuple[str, ...] = knob(
        (),
        "Data set to tell apart, as for --dataset, or random-ours, medium-ours ...; may be "
        "given several times.",
        repeated=True,
    )
    data_dir: str = knob("", "Folder for data that is made; empty: the run's.")
    threads: int = knob(0, "CPU threads; 0: all cores.", low=0)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir:
            raise UserError("--workdir: expected the folder of a run, got none")
