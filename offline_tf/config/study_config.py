"""The knobs of a study."""

from __future__ import annotations

import dataclasses

from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Study."""

    study: str = knob("", "The file that describes it; see docs/many-runs.md.")
    status: bool = knob(False, "Print how far the runs are, and stop.")
    engine: str = knob(
        "local",
        "Where runs are worked: local, processes of this machine; ray, a Ray cluster; slurm, a Slurm "
        "cluster by submitit.",
        choices=("local", "ray", "slurm"),
    )
    workers: int = knob(
        0, "Runs at a time; 0: as many as cores and memory allow, with Slurm all.", low=0
    )
    threads: int = knob(1, "Threads of each run.", low=1)
    address: str = knob(
        "", "HOST:PORT of a Ray cluster, or auto; empty: one is started on this machine."
    )
    slurm: tuple[str, ...] = knob(
        (),
        "NAME=VALUE for submitit, such as slurm_partition=cpu or timeout_min=600; may be given "
        "several times.",
        repeated=True,
    )
    table_minutes: float = knob(5.0, "How often the table of all runs is printed.", low=0.01)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.study:
            raise UserError("--study: expected a file that describes a study, got none")
        if self.address and self.engine != "ray":
            raise UserError("--address: is of a Ray cluster; give --engine=ray with it")
        if self.slurm and self.engine != "slurm":
            raise UserError("--slurm: is for --engine=slurm; give that with it")
        if wrong := [word for word in self.slurm if "=" not in word]:
            raise UserError(f"--slurm: expected NAME=VALUE, got {wrong[0]!r}")
