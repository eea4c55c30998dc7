"""Run folders of a study in an object store, by fsspec: what changed goes up, what is there comes down.

Below the study's URL things lie as in its folder:
  NAME/...                   the run folder
  NAME.log, NAME.end.json    beside it
  NAME.lease                 who works on the run

Readers come at any time and writers are killed at any time. So a file goes up after those that it
needs: checkpoints after the metrics up to them, an index after its data, a stage's result after its
checkpoints, manifest.json and summary.json last. Without manifest.json the store holds no run.

The store is the truth. A folder is ahead of it only where the lease says that its last worker was
killed there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from offline_tf import install_hints
from offline_tf.run_folder import files, locks
from offline_tf.types import UserError

LOCK = "run.lock"
PUSH_SECONDS = 60.0
STALE_SECONDS = 5 * PUSH_SECONDS  # a lease that was not refreshed for so long is nobody's
_SETTLE_SECONDS = 2.0  # two that take a lease at once see each other after that
_PASSES = 3  # of a push, while files vanish
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
BESIDE = _LOG, _END, _LEASE = ".log", ".end.json", ".lease"
_MANIFEST, _SUMMARY = "/manifest.json", "/summary.json"
# Of TensorFlow, and of `files.whole`. No "*_temp*": a metric may be called reactor_temperature.
_PASSING = re.compile(r".*(\.partial|_temp(_\w+)?|\.tmp\w*|\.tempstate\w*)")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_SUMS = ("ETag", "etag", "md5Hash", "ino")  # ino: of a disk
_DATA, _INDEX = 1, 2  # ranks


class StoreError(UserError):
    """A store does not do what it is asked for."""


class Taken(Exception):
    """Another worker has taken the run over."""


class Lease(NamedTuple):
    """Who works on a run.

    Attributes:
      host: for people.
      machine: tells machines apart whose hosts have one name.
      folder: of the run there.
      pid: of the worker.
      token: of the try.
      time: of the last refresh, in seconds since 1970; clocks agree to a minute.
    """

    host: str
    machine: str
    folder: str
    pid: int
    token: str
    time: float

    @property
    def is_left(self) -> bool:
        """Whether its worker was one of this machine that is gone, or this process."""
        return self.machine == _machine() and (self.pid == os.getpid() or not _lives(self.pid))

    @property
    def is_fresh(self) -> bool:
        """Whether somebody may work on the run."""
        return abs(time.time() - self.time) < STALE_SECONDS and not self.is_left

    def is_of(self, folder: pathlib.Path) -> bool:
        """Whether it is about a folder of this machine."""
        return self.machine == _machine() and self.folder == str(folder)

    @classmethod
    def parse(cls, text: str | bytes) -> Lease | None:
        """None where it is damaged."""
        try:
            lease = cls(**json.loads(text))
            return lease._replace(pid=int(lease.pid), time=float(lease.time))
        except (ValueError, TypeError):
            return None


def _machine() -> str:
    """Differs between machines, boots and containers: a pid means nothing in another."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        words.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def lease_beside(folder: pathlib.Path) -> Lease | None:
    """The lease of a run as `Store.bring` last saw it."""
    try:
        return Lease.parse(_beside(folder, _LEASE).read_bytes())
    except FileNotFoundError:
        return None


def check_url(url: Any, where: pathlib.Path) -> str:
    """The URL of a study's store, without a slash at its end.

    Args:
      url: as it stands in the file.
      where: the file.

    Raises:
      UserError: it is none, or nothing that other machines see.
    """
    is_url = isinstance(url, str) and _URL.fullmatch(url) is not None and "::" not in url
    if not is_url or (url.startswith(("file:", "local:")) and ":///" not in url):
        raise UserError(
            f"--study: expected a URL such as s3://bucket/path or file:///path for store in {where}, "
            f"got {url!r}"
        )
    if url.startswith("memory:"):
        raise UserError(f"--study: store in {where} is {url}, which is gone with each process")
    return url.rstrip("/")


def check(url: str, may_write: bool) -> None:
    """Checks that a study's store can be used from here, before time is spent.

    Args:
      url: of the study.
      may_write: whether runs will be kept there; else it is only read.

    Raises:
      StoreError: it cannot; why, and what to do.
    """
    system, path = _opened(url)
    if not may_write:
        names_in(url)
        return
    with _told("write to", url):
        probe = f"{path}/{secrets.token_hex(8)}.probe"
        system.pipe_file(probe, b"can be written")
        system.rm_file(probe)


def names_in(url: str) -> set[str]:
    """What lies directly below a URL; nothing where there is no such place.

    Raises:
      StoreError: it cannot be read.
    """
    system, path = _opened(url)
    with _told("read", url):
        system.invalidate_cache()
        try:
            found = system.ls(path, detail=False)
        except FileNotFoundError:
            return set()
        return {name.rstrip("/").rpartition("/")[2] for name in found}


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    fsspec: Any = install_hints.needed("fsspec", "requirements-study.txt", "store")
    protocol = url.partition("://")[0]
    if protocol not in fsspec.available_protocols():
        raise StoreError(
            f"store: {url} begins with no protocol that fsspec knows; give s3, gs, abfs or file"
        )
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        with _told("open", url):
            return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        registry = importlib.import_module("fsspec.registry")  # fsspec.registry is something else
        known = registry.known_implementations.get(protocol, {}).get("class", "")
        package = known.partition(".")[0]
        advice = "" if package in ("", "fsspec") else f": {install_hints.install_one(package)}"
        raise StoreError(
            f"store: {url} needs a package that is missing ({error}){advice}"
        ) from None


@contextlib.contextmanager
def _told(what: str, url: str) -> Iterator[None]:
    """Makes one line of whatever a protocol raises."""
    try:
        yield
    except (UserError, Taken, ImportError):
        raise
    except Exception as error:  # each protocol has errors of its own
        said = str(error).strip().splitlines()
        reason = said[0][:200] if said else type(error).__name__
        raise StoreError(
            f"store: expected to {what} {url}, got: {reason}; see that it is there, and that this "
            "machine has the credentials"
        ) from None


def _rank(key: str) -> int:
    """When a file goes up, and comes down: those with higher ranks need those with lower."""
    name = key.rpartition("/")[2]
    if key in (_MANIFEST, _SUMMARY, _END):
        return 4 + (_MANIFEST, _SUMMARY, _END).index(key)
    if key.startswith("/stages/"):
        return 3
    if name.endswith(".index") or name == "checkpoint":
        return _INDEX
    return _DATA if ".data-" in name else 0


def _is_light(key: str) -> bool:
    """Whether tables and reports read it."""
    is_on_top = key.endswith(".json") and key.count("/") == 1
    return is_on_top or key in (_LOG, _END) or key.startswith(("/stages/", "/metrics/"))


def _is_passing(key: str) -> bool:
    """Whether it is of a process that writes just now."""
    return key == f"/{LOCK}" or any(_PASSING.fullmatch(part) for part in key.split("/"))


def _mark(info: dict[str, Any]) -> str:
    """Differs where a file of the store has changed; sorted, the oldest is first."""
    words = [
        next((str(info[name]) for name in names if info.get(name) is not None), "")
        for names in (_TIMES, _SUMS)
    ]
    return f"{' '.join(words)} {info.get('size')}"


def _beside(folder: pathlib.Path, ending: str) -> pathlib.Path:
    return folder.with_name(folder.name + ending)


class _Known(NamedTuple):
    """What this machine knows of the folder and the store.

    Attributes:
      light: the folder is a copy of what tables read, and no more.
      whole: it is what this machine's worker made, or brought down to the end.
      files: key -> [size, time in ns, mark in the store] of those that were the same here and there.
    """

    light: bool
    whole: bool
    files: dict[str, list[Any]]


class Store:
    """One run in a store. A key is what follows the run's name: "/manifest.json", ".log"."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        """Opens it.

        Args:
          url: of the run, STORE/NAME.
          folder: of the run on this machine.

        Raises:
          StoreError: the protocol's package is missing, say.
        """
        self.url, self.folder = url, folder
        self._fs, self._path = _opened(url)
        self._sent: dict[str, list[int]] = {}  # since the store was last listed
        self._token, self._refreshed = "", 0.0
        self._is_ahead = False

    # Both sides.

    def _local(self, key: str) -> pathlib.Path:
        return pathlib.Path(f"{self.folder}{key}")

    def _here(self, passing: bool = False) -> dict[str, list[int]]:
        """Key -> [size, time in ns]; with those of a process that writes where `passing`."""
        paths = {key: self._local(key) for key in (_LOG, _END)}
        for top, _, names in os.walk(self.folder):
            for name in names:
                path = pathlib.Path(top, name)
                paths["/" + path.relative_to(self.folder).as_posix()] = path
        found = {}
        for key, path in paths.items():
            if passing or not _is_passing(key):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        stat = path.stat()
                        found[key] = [stat.st_size, stat.st_mtime_ns]
        return found

    def _there(self) -> dict[str, str]:
        """Key -> mark of what the store holds."""
        self._fs.invalidate_cache()
        found = {}
        for path, info in self._fs.find(self._path, detail=True).items():
            key = path.removeprefix(self._path)
            parts = key.split("/")
            if parts[0] or len(parts) < 2 or set(parts[1:]) & {"", ".", ".."}:
                raise StoreError(f"store: expected files of {self.url}, found {path}; take it away")
            found[key] = _mark(info)
        for key in (_LOG, _END):
            with contextlib.suppress(FileNotFoundError):
                found[key] = _mark(self._fs.info(self._path + key))
        return found

    def _known(self) -> _Known:
        try:
            return _Known(**json.loads(self._known_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return _Known(False, False, {})

    def _know(self, known: _Known) -> None:
        ending = f".{os.getpid()}.partial"  # others may look at the same time
        with files.whole(self._known_file, ending) as partial:
            partial.write_text(json.dumps(known._asdict()) + "\n")

    @property
    def _known_file(self) -> pathlib.Path:
        return _beside(self.folder, ".store.json")

    # Up.

    def push(self) -> None:
        """Brings up what changed, and takes away what is gone here.

        Raises:
          StoreError: the store does not answer; the next push goes on.
          Taken: another worker has the run; nothing more is written.
        """
        with _told("write to", self.url):
            self._hold(0.0)
            for _ in range(_PASSES):
                if self._push_once():
                    return

    def _push_once(self) -> bool:
        """Whether everything was there until it was up."""
        before = self._here()  # what needs other files goes up only if these were seen after it
        here, there, known = self._here(), self._there(), self._known()
        known.files.update(
            {key: [*seen, there[key]] for key, seen in self._sent.items() if key in there}
        )

        def changed(key: str) -> bool:
            return known.files.get(key) != [*here[key], there.get(key)]

        for key in [key for key in here if _rank(key) == _DATA and changed(key)]:
            index = key.partition(".data-")[0] + ".index"
            if there.pop(index, None) is not None:  # else it would be read with other data
                self._fs.rm_file(self._path + index)
        is_whole, sent = True, {}
        for key in sorted(filter(changed, here), key=lambda key: (_rank(key), here[key][1])):
            self._hold()
            if (_rank(key) >= _INDEX and key not in before) or not self._up(key):
                is_whole = False
            else:
                sent[key] = self._sent[key] = here[key]
        if is_whole:
            for key in there.keys() - here.keys():
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path + key)
        there = self._there()
        same = {key: seen for key, seen in known.files.items() if key in here}
        same |= {key: [*seen, there[key]] for key, seen in sent.items() if key in there}
        self._know(_Known(False, True, same))
        self._sent.clear()
        return is_whole

    def _up(self, key: str) -> bool:
        """Whether the file was still there."""
        there = self._path + key
        try:
            if "file" in _protocols(self._fs):  # a disk would show half of it
                self._fs.put_file(str(self._local(key)), f"{there}.partial")
                self._fs.mv(f"{there}.partial", there)
            else:
                self._fs.put_file(str(self._local(key)), there)
        except FileNotFoundError:
            if self._local(key).exists():
                raise
            return False
        return True

    # Down.

    def pull(self, light: bool) -> bool:
        """Makes the folder what the store holds; where that holds no run, the folder stays as it is.

        Args:
          light: only what tables and reports read; the rest of the folder stays as it is. Nothing is
            done where a process of this machine works on the run.

        Returns:
          Whether the store holds the run.

        Raises:
          StoreError: the store does not answer.
          Taken: another worker has the run.
        """
        if light and locks.is_held(self.folder / LOCK):
            return True
        with _told("read", self.url):
            there, known = self._there(), self._known()
            if _MANIFEST not in there:
                if known.light:
                    self._forget(there)
                said, same = {key: there[key] for key in (_LOG, _END) if key in there}, {}
                if said and not self.folder.exists():  # by a try that made no folder
                    same = self._down(said, True, known)[1]
                if same or not light:
                    self._know(_Known(light, not light, same))
                return False
            if not light:
                self._know(known._replace(whole=False))
            is_new = not self.folder.exists()
            count, same = self._down(there, light, known)
            if light:
                is_copy = known.light or is_new
                self._know(_Known(is_copy, known.whole and not count, known.files | same))
            else:
                self._know(_Known(False, True, same))
            return True

    def _down(
        self, there: dict[str, str], light: bool, known: _Known
    ) -> tuple[int, dict[str, list[Any]]]:
        """How many files were changed here, and what is the same here and there after that."""
        here = self._here(passing=not light)
        wanted = {
            key: mark
            for key, mark in there.items()
            if not _is_passing(key) and (not light or _is_light(key))
        }
        count, same = 0, {}
        for key in here.keys() - wanted.keys() - {f"/{LOCK}"}:
            if not light or _is_light(key):
                self._local(key).unlink(missing_ok=True)
                count += 1
        for key in sorted(wanted, key=lambda key: (_rank(key), there[key], key)):
            self._hold()
            path = self._local(key)
            if known.files.get(key) != [*here.get(key, ()), there[key]]:
                with files.whole(path, f".{os.getpid()}.partial") as partial:
                    self._fs.get_file(self._path + key, str(partial))
                count += 1
            stat = path.stat()
            same[key] = [stat.st_size, stat.st_mtime_ns, there[key]]
        return count, same

    def _forget(self, there: dict[str, str]) -> None:
        """Takes a light copy away whose run is gone from the store, but for what is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._known_file.unlink(missing_ok=True)
        for key in {_LOG, _END} - there.keys():
            self._local(key).unlink(missing_ok=True)

    def bring(self, may_push: bool) -> None:
        """Brings down what tables read, unless this machine works on the run or knows more of it.

        Args:
          may_push: what this machine alone has goes up instead.

        Raises:
          StoreError: the store does not answer.
        """
        if locks.is_held(self.folder / LOCK):
            return
        lease = self.lease()
        if lease is not None and lease.is_of(self.folder):
            self._local(_LEASE).unlink(missing_ok=True)
            if may_push and lease.is_left and self._known().whole:
                self._push_alone()
            return
        is_there = self.pull(light=True)
        if lease is None:
            self._local(_LEASE).unlink(missing_ok=True)
        else:
            files.write_json(self._local(_LEASE), lease._asdict())
        if may_push and not is_there and self._local(_SUMMARY).exists():
            self._push_alone()

    def _push_alone(self) -> None:
        """Pushes a run that nobody works on."""
        with contextlib.suppress(Taken):
            if self.take():
                self.settle()
                self.release()

    # Who works on it.

    def lease(self) -> Lease | None:
        """The lease in the store, fresh or not.

        Raises:
          StoreError: the store does not answer.
        """
        with _told("read", self.url):
            self._fs.invalidate_cache()
            try:
                return Lease.parse(self._fs.cat_file(self._path + _LEASE))
            except FileNotFoundError:
                return None

    def take(self) -> bool:
        """Takes the lease; False: somebody else works on the run.

        Raises:
          StoreError: the store does not answer.
        """
        lease = self.lease()
        if lease is not None and lease.is_fresh:
            return False
        with _told("write to", self.url):
            known = self._known()
            is_left = lease is not None and lease.is_left and lease.is_of(self.folder)
            self._is_ahead = is_left and known.whole
            if not self._is_ahead:  # said before the lease is: it would say the opposite
                self._know(known._replace(whole=False))
            self._token = secrets.token_hex(8)
            self._write_lease()
        time.sleep(_SETTLE_SECONDS)
        lease = self.lease()
        if lease is None or lease.token != self._token:
            self._token = ""
            return False
        return True

    def settle(self) -> None:
        """Makes folder and store the same, once the lease is taken.

        Raises:
          StoreError: the store does not answer.
          Taken: another worker has the run.
        """
        if self._is_ahead or not self.pull(light=False):
            self.push()

    def release(self) -> None:
        """Gives the lease back, if it is ours.

        Raises:
          StoreError: the store does not answer.
        """
        lease = self.lease()
        if self._token and lease is not None and lease.token == self._token:
            with _told("write to", self.url), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path + _LEASE)
        self._token = ""

    def _hold(self, seconds: float = PUSH_SECONDS / 2) -> None:
        """Refreshes the lease that was taken, if that was not done for some seconds."""
        if not self._token or time.monotonic() - self._refreshed < seconds:
            return
        lease = self.lease()
        if lease is not None and lease.token != self._token:
            self._token = ""
            raise Taken(f"{lease.host} has taken the run over")
        self._write_lease()

    def _write_lease(self) -> None:
        lease = Lease(
            *(socket.gethostname(), _machine(), str(self.folder), os.getpid()),
            *(self._token, time.time()),
        )
        content, there = json.dumps(lease._asdict()).encode(), self._path + _LEASE
        if "file" in _protocols(self._fs):
            partial = f"{there}.{self._token}.partial"
            self._fs.pipe_file(partial, content)
            self._fs.mv(partial, there)
        else:
            self._fs.pipe_file(there, content)
        self._refreshed = time.monotonic()


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)
