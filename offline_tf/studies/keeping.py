"""Keeps a run in its store while it is worked on; brings what a driver reads of all runs.

The store is asked in a thread, so that a worker looks after its processes meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from absl import logging

from offline_tf.run_folder import stopping
from offline_tf.studies import store
from offline_tf.studies.store import Store, StoreError, Taken

_ASK_SECONDS = 10.0  # how often a try asks whether another worker has let go
_PAUSES = (2.0, 5.0, 15.0, 30.0)  # between tries where a run would be lost or begin anew
_AT_ONCE = 8
_Result = TypeVar("_Result")


class Keeper:
    """Of one try: begin, look, look, ..., end. Each returns at once."""

    def __init__(self, name: str, url: str, folder: pathlib.Path) -> None:
        """Does nothing yet.

        Args:
          name: of the run, for people.
          url: of the run in its store.
          folder: of the run on this machine.
        """
        self._name, self._url, self._folder = name, url, folder
        self._store: Store | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._at_work: concurrent.futures.Future[bool] | None = None
        self._not_before = 0.0
        self._has_begun = self._has_waited = self._is_ending = False
        self._taken: Taken | None = None

    def begin(self) -> bool:
        """Whether the folder is ready and the run ours; False: not yet, or another worker has it.

        Raises:
          StoreError: the store cannot be used.
          Taken: another worker has taken the run meanwhile.
        """
        if time.monotonic() < self._not_before:
            return False
        begun = self._done(self._begin)
        if begun is False:
            self._not_before = time.monotonic() + _ASK_SECONDS
            if not self._has_waited:
                logging.info("%s: another worker has it in %s; waiting", self._name, self._url)
            self._has_waited = True
        return bool(begun)

    def _begin(self) -> bool:
        if self._store is None:
            self._store = Store(self._url, self._folder)
        if not again_and_again(self._store.take):
            return False
        again_and_again(self._store.settle)
        self._has_begun = True
        self._not_before = time.monotonic() + store.PUSH_SECONDS
        return True

    def look(self) -> None:
        """Pushes now and then.

        Raises:
          Taken: another worker has the run, so this one should end.
        """
        if self._taken is not None or time.monotonic() < self._not_before:
            return
        try:
            is_done = self._done(self._push)
        except Taken as error:
            self._taken = error
            raise
        except StoreError as error:
            logging.warning("%s: %s; it is tried again", self._name, error)
            is_done = True
        if is_done:
            self._not_before = time.monotonic() + store.PUSH_SECONDS

    def _push(self) -> bool:
        assert self._store is not None
        self._store.push()
        return True

    def end(self) -> bool:
        """Pushes once more and gives the run back; whether that is done.

        Raises:
          StoreError: the store lacks the run's end; the next worker on this machine brings it up.
          Taken: another worker has the run, and its end is not this one's.
        """
        if not self._is_ending:
            if self._at_work is not None and not self._at_work.done():
                return False
            if self._at_work is not None and isinstance(self._at_work.exception(), Taken):
                self._taken = self._taken or Taken(str(self._at_work.exception()))
            self._at_work, self._is_ending = None, True
        if self._taken is not None:
            self._thread.shutdown(wait=False)
            raise self._taken
        try:
            is_done = bool(self._done(self._finish))
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        if is_done:
            self._thread.shutdown(wait=False)
        return is_done

    def _finish(self) -> bool:
        if self._store is not None and self._has_begun:
            again_and_again(self._store.push)
        if self._store is not None:
            try:
                self._store.release()
            except StoreError as error:  # it is nobody's after some minutes
                logging.warning("%s: %s", self._name, error)
        return True

    def _done(self, work: Callable[[], bool]) -> bool | None:
        """What work in the thread returned, which is begun where there is none; None: not yet."""
        if self._at_work is None:
            self._at_work = self._thread.submit(work)
        if not self._at_work.done():
            return None
        done, self._at_work = self._at_work, None
        return done.result()


def again_and_again(action: Callable[[], _Result]) -> _Result:
    """Tries for about a minute.

    Raises:
      StoreError: the store has not answered in that time.
    """
    for pause in _PAUSES:
        try:
            return action()
        except StoreError as error:
            logging.warning("%s; trying again in %.0f s", error, pause)
            time.sleep(pause)
    return action()


def bring_all(url: str, runs: Iterable[tuple[str, pathlib.Path]], may_push: bool) -> None:
    """Brings down what tables and reports read of the runs of a study; see `Store.bring`.

    Args:
      url: of the study.
      runs: (URL, folder) of each.
      may_push: what this machine alone has goes up.

    Raises:
      StoreError: the store does not answer.
      stopping.Stopped: somebody asked for it.
    """
    all_runs = list(runs)
    there = store.names_in(url) if len(all_runs) > _AT_ONCE else None  # else each is asked for

    def bring(run: tuple[str, pathlib.Path]) -> None:
        run_url, folder = run
        name = run_url.rpartition("/")[2]
        names = (name, *(name + ending for ending in store.BESIDE))
        if there is None or folder.exists() or not there.isdisjoint(names):
            Store(run_url, folder).bring(may_push)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        works = [pool.submit(bring, run) for run in all_runs]
        try:
            for work in works:
                work.result()
                stopping.check()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
