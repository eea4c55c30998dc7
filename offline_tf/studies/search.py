"""A search over flags by what a run promises, never by a simulator's return (Optuna's sampler).

Each candidate is an ordinary run. Its worth is the promise of its summary: a lower bound, by models
that nothing was planned in. A run whose verdict is bad is worth nothing. While MOReL plans, its judge
looks at the policy now and then; a candidate that lies below the median of the others at the same look
is stopped.
"""

from __future__ import annotations

import csv
import json
import math
import pathlib
from typing import Any, NamedTuple

from offline_tf import install_hints
from offline_tf.numerics import seeds
from offline_tf.run_folder.files import write_json
from offline_tf.studies import description
from offline_tf.studies.running import End, Job
from offline_tf.types import UserError

RANKING = "search.json"
_TRIALS = "search.journal"
_LOOKS = pathlib.Path("metrics", "planning.judge.csv")
_BAD = "bad"


class Candidate(NamedTuple):
    """One that was tried.

    Attributes:
      name: of its run.
      flags: what is searched.
      worth: its promise; None: stopped, failed, or its verdict is bad.
      verdict: "green", "doubtful", "bad"; "stopped" or "failed" where there is none.
    """

    name: str
    flags: dict[str, Any]
    worth: float | None
    verdict: str


class Search:
    """Candidates on top of one run; a `conduct.Source`. Goes on where a killed one stopped."""

    def __init__(
        self, study: description.Study, base: str, flags: dict[str, Any], threads: int
    ) -> None:
        """Opens the trials so far.

        Args:
          study: with a search.
          base: name of the run.
          flags: of the run; its seed is the sampler's too.
          threads: of each candidate.

        Raises:
          UserError: Optuna is not installed.
        """
        assert study.search is not None
        optuna: Any = install_hints.needed("optuna", "requirements-study.txt", "[search]")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._study, self._base, self._flags = optuna, study, base, flags
        self._threads, self._search = threads, study.search
        study.folder.mkdir(parents=True, exist_ok=True)
        back_end = optuna.storages.journal.JournalFileBackend(str(study.folder / _TRIALS))
        self._trials = optuna.create_study(
            study_name=base,
            direction="maximize",
            storage=optuna.storages.JournalStorage(back_end),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=4, n_warmup_steps=max(study.search.warm_up - 1, 0)
            ),
            load_if_exists=True,
        )
        # With the same seed a search that goes on would propose the same candidates again.
        number = len(self._trials.trials)
        seed = seeds.generator(int(flags.get("seed", 0)), "search", number).integers(2**31)
        self._trials.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        state = optuna.trial.TrialState
        self._open = [t.number for t in self._trials.get_trials(states=(state.RUNNING,))]
        self._running: dict[str, Any] = {}
        self._looked: dict[str, int] = {}
        self._pruned: set[str] = set()

    def next(self) -> Job | None:
        """See `conduct.Source`."""
        if self._open:
            number = self._open.pop(0)
            known = {trial.number: trial for trial in self._trials.trials}[number]
            trial = self._optuna.trial.Trial(self._trials, known._trial_id)
            job = self._job(trial)
            self._looked[job.name] = len(known.intermediate_values)
            return job
        if len(self._trials.trials) >= self._search.candidates:
            return None
        if not self._trials.trials and all(
            self._holds(flag, self._flags.get(flag)) for flag in self._search.space
        ):
            self._trials.enqueue_trial({flag: self._flags[flag] for flag in self._search.space})
        return self._job(self._trials.ask())

    def _holds(self, flag: str, value: Any) -> bool:
        """Whether the run's own value is one that the search could take."""
        values = self._search.space[flag]
        if isinstance(values, list):
            return value in values
        return isinstance(value, (int, float)) and values["low"] <= value <= values["high"]

    def _suggest(self, trial: Any, flag: str) -> Any:
        values = self._search.space[flag]
        if isinstance(values, list):
            return trial.suggest_categorical(flag, values)
        low, high, is_log = values["low"], values["high"], values.get("log", False)
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(flag, low, high, log=is_log)
        return trial.suggest_float(flag, low, high, log=is_log)

    def _job(self, trial: Any) -> Job:
        """A candidate; flags that were proposed before are the same.

        Raises:
          UserError: the space is not what it was when the search began.
        """
        try:
            searched = {flag: self._suggest(trial, flag) for flag in self._search.space}
        except ValueError as error:
            self._trials.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            raise UserError(
                f"--study: [search.space] has changed since the search of {self._base} began "
                f"({error}); put it back, or give the study another folder"
            ) from None
        name = f"{self._base}-try{trial.number:03d}"
        self._running[name] = trial
        return self._study.job(name, self._flags | searched, self._threads)

    def to_stop(self, running: list[Job]) -> list[Job]:
        """See `conduct.Source`."""
        if self._search.warm_up < 0:
            return []
        found = []
        for job in running:
            trial = self._running[job.name]
            looks = looks_of(job.folder)
            for number in range(self._looked.get(job.name, 0), len(looks)):
                trial.report(looks[number], number)
            self._looked[job.name] = len(looks)
            if looks and trial.should_prune():
                self._pruned.add(job.name)
                found.append(job)
        return found

    def ended(self, job: Job, end: End) -> None:
        """See `conduct.Source`; one that was stopped from outside goes on when the search does."""
        trial, state = self._running[job.name], self._optuna.trial.TrialState
        if job.is_done:
            worth = worth_of(job.folder)
            if worth is None:
                self._trials.tell(trial, state=state.FAIL)
            else:
                self._trials.tell(trial, worth)
        elif not end.stopped:
            self._trials.tell(trial, state=state.FAIL)
        elif job.name in self._pruned:
            self._trials.tell(trial, state=state.PRUNED)
        self.write()

    def ranking(self) -> list[Candidate]:
        """All that were tried, the most promising first."""
        found = []
        for trial in self._trials.trials:
            name = f"{self._base}-try{trial.number:03d}"
            folder, state = self._study.folder / name, trial.state.name.lower()
            verdict = {"pruned": "stopped", "fail": "failed"}.get(state, state)
            if (folder / "summary.json").exists():
                summary = json.loads((folder / "summary.json").read_text())
                verdict = (summary.get("verdict") or {}).get("level", verdict)
            # Optuna gives one that was stopped the value of its last look.
            worth = trial.value if trial.state.name == "COMPLETE" else None
            found.append(Candidate(name, dict(trial.params), worth, verdict))
        return sorted(found, key=lambda c: math.inf if c.worth is None else -c.worth)

    def write(self) -> None:
        """Keeps the ranking beside the runs."""
        ranked = [candidate._asdict() for candidate in self.ranking()]
        write_json(_ranking_file(self._study, self._base), ranked)


def _ranking_file(study: description.Study, base: str) -> pathlib.Path:
    return study.folder / f"{base}.{RANKING}"


def read(study: description.Study, base: str) -> list[Candidate]:
    """The ranking that a search keeps beside its runs; empty where none has begun."""
    path = _ranking_file(study, base)
    return [Candidate(**each) for each in json.loads(path.read_text())] if path.exists() else []


def looks_of(folder: pathlib.Path) -> list[float]:
    """What the judge promised of the policy at each look during MOReL's planning."""
    try:
        with (folder / _LOOKS).open() as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    found = []
    for row in rows:
        try:
            found.append(float(row["promise"]))
        except (KeyError, TypeError, ValueError):  # a row that is being written
            break
    return found


def worth_of(folder: pathlib.Path) -> float | None:
    """A finished run's promise; None where its verdict is bad, or it has none."""
    summary = json.loads((folder / "summary.json").read_text())
    promise, verdict = summary.get("promise"), summary.get("verdict") or {}
    if promise is None or not math.isfinite(promise) or verdict.get("level") == _BAD:
        return None
    return float(promise)


def in_words(found: list[Candidate]) -> list[str]:
    """The ranking, and what to do with it."""
    lines = []
    for candidate in found:
        flags = " ".join(f"--{key}={value}" for key, value in candidate.flags.items())
        worth = "" if candidate.worth is None else f"{candidate.worth:.4g}"
        lines.append(f"{candidate.name}  {worth:>9}  {candidate.verdict:<9} {flags}")
    if found and found[0].worth is not None:
        lines.append(f"most is promised by {found[0].name}")
    return lines
