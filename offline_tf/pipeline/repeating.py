"""A finished run made again from its manifest, in a process of its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import pathlib
import platform
import sys

from offline_tf.config import knobs
from offline_tf.pipeline.tuning import flag_of
from offline_tf.run_folder import comparison, provenance, stopping
from offline_tf.run_folder.comparison import Difference
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError


def repeat(record: RunRecord, folder: pathlib.Path, threads: int | None) -> list[Difference]:
    """Makes a run again, or goes on with it, and compares.

    Args:
      record: a finished run.
      folder: of the new one.
      threads: of the new one; None: as of the old one.

    Returns:
      What is not the same to the bit; see `comparison.differences`.

    Raises:
      UserError: the run is not finished, or does not say what made it, or the new one failed.
      stopping.Stopped: this process was asked to stop; so was the new run.
    """
    command = command_of(record, folder, threads)
    if stopping.run_command([sys.executable, *command]):
        raise UserError(f"--workdir: the run could not be made again; see above, or {folder}")
    return comparison.differences(record.folder, folder)


def command_of(record: RunRecord, folder: pathlib.Path, threads: int | None) -> list[str]:
    """What follows "python" to make a run again, with what it did where a flag is younger than it is.

    Raises:
      UserError: the manifest does not name the module.
    """
    module = record.manifest.get("module")
    if not module:
        raise UserError(
            f"--workdir: expected a manifest that names its module in {record.folder}, got an older "
            "version's; its command stands in its summary.json"
        )
    package, _, command = module.rpartition(".")
    stages = importlib.import_module(f"{package}.config").STAGES if command == "train" else ()
    flags = knobs.other_in_older_runs(stages) | record.manifest["flags"] | {"workdir": str(folder)}
    if threads is not None:
        flags["threads"] = threads
    words = [flag_of(*item) for item in flags.items() if item[1] is not None]
    return ["-m", module, *words]


def other_means(record: RunRecord) -> list[str]:
    """What is other here than where the run was made, in words: code and packages."""
    now = {"commit": provenance.commit(), "python": platform.python_version()}
    then = {"commit": record.commits, **record.manifest.get("versions", {})}
    now |= {name: importlib.metadata.version(name) for name in then if name not in now}
    return [
        f"{name} was {then.get(name, 'unknown')} and is {version}"
        for name, version in now.items()
        if then.get(name) != version
    ]
