"""Knobs that commands of both algorithms share."""

from __future__ import annotations

import dataclasses

from offline_tf.knobs import check, knob
from offline_tf.types import UserError


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
