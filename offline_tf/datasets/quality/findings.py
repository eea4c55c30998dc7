"""What a check says of logged data: what was seen, what it means for training, what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from offline_tf.types import TaskSpec, Transitions

SEVERITIES = ("note", "warning", "error")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about a data set.

    Attributes:
      code: short name, the same for the same fault.
      severity: one of SEVERITIES; with an error no training makes sense.
      what: what was seen, with numbers.
      meaning: what it does to training.
      advice: what to do.
    """

    code: str
    severity: str
    what: str
    meaning: str
    advice: str


Check = Callable[[Transitions, TaskSpec], Iterator[Finding]]
