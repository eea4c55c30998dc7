"""D4RL's own files by name: looked up in D4RL's cache folder, else downloaded."""

from __future__ import annotations

import hashlib
import http.client
import os
import pathlib
import re
import urllib.error
import urllib.request

from absl import logging

from offline_tf.run_folder import locks, progress
from offline_tf.types import UserError

# The one host there has been; $OFFLINE_TF_MIRRORS (URLs, comma separated) are tried before it.
MIRRORS = ("http://rail.eecs.berkeley.edu/datasets/offline_rl",)
_NAME = re.compile(
    r"(hopper|walker2d|halfcheetah|ant)-"
    r"(random|medium|expert|medium-replay|full-replay|mixed|medium-expert)-v([012])"
)
_FAULTS = {
    "hopper-medium-expert-v0": "it holds expert and mixed data (D4RL issue 19)",
    "hopper-medium-v1": "hopper's expert and medium files of v1 are swapped (D4RL issue 76)",
    "hopper-expert-v1": "hopper's expert and medium files of v1 are swapped (D4RL issue 76)",
    "hopper-medium-replay-v1": "it was made wrongly (D4RL issue 86)",
}
_BLOCK = 1 << 20
_SECONDS = 30


def is_name(name: str) -> bool:
    """Whether a name is one of D4RL's, such as walker2d-medium-v2."""
    return _NAME.fullmatch(name) is not None


def remote_path(name: str) -> str:
    """Returns the path on D4RL's host: walker2d-medium-v2 -> gym_mujoco_v2/walker2d_medium-v2.hdf5.

    Raises:
      UserError: D4RL has no such set in that version.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"--dataset: expected ROBOT-SET-vN as in D4RL, got {name!r}")
    robot, kind, version = match.groups()
    kind = kind.replace("-", "_")
    if version == "0":
        if kind == "full_replay":
            raise UserError("--dataset: D4RL's v0 has no full-replay; v1 and v2 have")
        kind = "mixed" if kind == "medium_replay" else kind
        robot = "walker" if (robot, kind) == ("walker2d", "mixed") else robot
        return f"gym_mujoco/{robot}_{kind}.hdf5"
    kind = "medium_replay" if kind == "mixed" else kind
    return f"gym_mujoco_v{version}/{robot}_{kind}-v{version}.hdf5"


def folder() -> pathlib.Path:
    """D4RL's cache: $D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    return pathlib.Path(
        os.environ.get("D4RL_DATASET_DIR") or pathlib.Path.home() / ".d4rl" / "datasets"
    )


def find(name: str) -> pathlib.Path:
    """Returns the file of a name; downloads it if it is not in the cache folder.

    Raises:
      UserError: it could not be had from any mirror; the message says where to put the file.
    """
    if name in _FAULTS:
        logging.warning("--dataset: %s has a known fault: %s", name, _FAULTS[name])
    remote = remote_path(name)
    path = folder() / pathlib.PurePosixPath(remote).name
    if path.exists():
        return path
    extra_mirrors = [
        mirror.strip() for mirror in os.environ.get("OFFLINE_TF_MIRRORS", "").split(",")
    ]
    problems = []
    for mirror in (*filter(None, extra_mirrors), *MIRRORS):
        url = f"{mirror.rstrip('/')}/{remote}"
        try:
            fetch(url, path)
        # urllib's errors are OSErrors, those of http.client are not.
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())
            problems.append(f"{url}: {reason}")
            continue
        logging.info("%s: sha256 %s", path, sha256(path))
        return path
    raise UserError(
        f"--dataset: {name} is not at {path} and could not be downloaded "
        f"({'; '.join(problems)}); put the file there, or name its path"
    )


def fetch(url: str, path: pathlib.Path) -> None:
    """Downloads a file, going on where an earlier attempt stopped; it appears when it is complete.

    Raises:
      OSError: the server cannot be reached, or sends less than it announces.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected an http or https URL, got {url}")
    with locks.held(path.with_name(path.name + ".lock")):
        if not path.exists():  # another process may have had it
            _fetch(url, path)


def _fetch(url: str, path: pathlib.Path) -> None:
    partial = path.with_name(path.name + ".partial")
    received = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_SECONDS
        )
    except urllib.error.HTTPError as error:
        if not received or error.code != 416:
            raise
        # What lies there is no part of this file.
        partial.unlink()
        received = 0
        response = urllib.request.urlopen(url, timeout=_SECONDS)
    with response:
        resumed = received > 0 and response.status == 206
        received = received if resumed else 0
        length = response.headers.get("Content-Length")
        total = received + int(length) if length is not None else None
        logging.info("downloading %s%s", url, f", going on at byte {received}" if resumed else "")
        bar = progress.Progress("downloading")
        with partial.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                received += len(block)
                bar.tell(received / 1e6, total and total / 1e6, "MB")
        progress.leave()
    if total is not None and received != total:
        raise OSError(f"expected {total} bytes, got {received}; run again to go on")
    partial.replace(path)


def sha256(path: pathlib.Path) -> str:
    """Returns a file's checksum."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
