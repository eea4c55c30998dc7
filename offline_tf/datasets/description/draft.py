"""A first plant.toml from what a table looks like, with the evidence for each guess as a comment."""

from __future__ import annotations

import datetime
import json
import keyword
import math
import re
import unicodedata

from offline_tf.datasets.description.table_facts import Column, Facts

_UNIT = re.compile(r"[\[(]\s*([^\])]*?)\s*[\])]")
_MOST_GAPS = 5
_SPELLED = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
)
_PERCENT = "%"
_COST = re.compile(r"cost|loss|penalty", re.I)


def identifier(name: str) -> str:
    """A name for expressions: letters, digits and _; a unit in brackets is left out."""
    plain = _UNIT.sub("", name).translate(_SPELLED)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = re.sub(r"\W+", "_", plain).strip("_").lower()
    if keyword.iskeyword(plain):
        return f"{plain}_"
    return plain if plain and not plain[0].isdigit() else f"x_{plain}".rstrip("_")


def unit(name: str) -> str:
    """What stands in brackets in a column's name; empty where nothing does."""
    found = _UNIT.search(name)
    return found[1] if found else ""


def write(facts: Facts, name: str, history: int) -> str:
    """The text of a plant.toml.

    Args:
      facts: of the table.
      name: of the task.
      history: rows in an observation; 0: as the delays suggest.
    """
    names = _unique([column.name for column in facts.columns])
    slowest = max((delay.steps for delay in facts.delays), default=0)
    rows = history or min(max(slowest + 1, 1), 10)
    low, middle, high = facts.spacing_seconds
    looked = "" if facts.is_whole else f" (the first {facts.rows:,} rows)"
    lines = [
        f"# A first draft from {facts.path.name}{looked}. Read each line: it is guessed.",
        f"# {facts.rows:,} rows" + (f"; {facts.dialect}" if facts.dialect else ""),
        "",
        f"name = {_text(name)}",
        f"step_seconds = {_number(facts.step_seconds)}  # rows are {_number(middle)} s apart, 98 % of "
        f"them {_number(low)} to {_number(high)} s",
        "max_episode_steps = 1000  # a longer stretch is cut into episodes of so many",
        f"history = {rows}  # rows in an observation",
        "time_of_day = false  # true: with sine and cosine of the time of day",
    ]
    lines += [f"# {line}" for line in _of_delays(facts, names, slowest, rows)]
    lines += [
        "",
        "[log]",
        f"time = {_text(facts.time)}",
        f"time_format = {_text(facts.time_format)}",
    ]
    if facts.date:
        lines.append(f"date = {_text(facts.date)}")
    if facts.batch:
        lines.append(
            f"batch = {_text(facts.batch)}  # it changes where the clock begins anew, and nowhere else"
        )
    if facts.long:
        lines += [
            f"tag = {_text(facts.long.tag)}  # a row has one signal's value: its name",
            f"value = {_text(facts.long.value)}",
        ]
    lines.append(
        f"max_gap_seconds = {_number(facts.gap_seconds)}  # a longer silence ends an episode: there "
        f"{'is' if len(facts.gaps) == 1 else 'are'} {len(facts.gaps)}"
    )
    for at, length in facts.gaps[:_MOST_GAPS]:
        lines.append(f"#   {_moment(facts, at)}, for {length:,.0f} s")
    lines.append("idle_seconds = 0  # more than 0: leaves out stretches without a moving action")
    for column in facts.of_kind("observation"):
        lines += ["", "[[observations]]", *_signal(column, names)]
        if column.stuck_seconds:
            lines.append(
                f"# stuck? once it did not change for {column.stuck_seconds:,.0f} s, far longer than "
                "usual; hold_seconds ends an episode where a sample is older"
            )
    for column in facts.of_kind("action"):
        lower, upper = _bounds(column)
        lines += ["", "[[actions]]", *_signal(column, names)]
        lines.append(f"low = {lower!r}  # logged: {_number(column.low)} to {_number(column.high)}")
        lines.append(f"high = {upper!r}")
    lines += ["", *_reward(facts, names), ""]
    lines += ["# When an episode is over for good; without it nothing ends.", "# [termination]"]
    lines.append('# expression = "level > 4.5"')
    unused = [f"{c.name} ({c.why})" for c in facts.of_kind("constant")] + facts.left_out
    if unused:
        lines += ["", f"# Not used: {'; '.join(unused)}"]
    return "\n".join(lines) + "\n"


def _of_delays(facts: Facts, names: dict[str, str], slowest: int, rows: int) -> list[str]:
    told = [
        f"{names[delay.observation]} answers {names[delay.action]} most after {delay.steps} steps "
        f"(correlation of their changes {delay.correlation:.2f})"
        for delay in facts.delays
    ]
    seen = {delay.action for delay in facts.delays}
    told += [
        f"no measurement was seen to answer {names[column.name]}"
        for column in facts.of_kind("action")
        if column.name not in seen
    ]
    if slowest + 1 > rows:
        told.append(
            f"the slowest answer takes {slowest} steps: history = {slowest + 1} would hold it"
        )
    return told


def _signal(column: Column, names: dict[str, str]) -> list[str]:
    found = [f"name = {_text(names[column.name])}", f"column = {_text(column.name)}"]
    about = [f"unit {unit(column.name)}"] if unit(column.name) else []
    about.append(f"{_number(column.low)} to {_number(column.high)}")
    about.append(column.why)
    if column.missing > 0:
        about.append(f"{100 * column.missing:.1f} % missing")
    found.append(f'resample = "mean"  # {"; ".join(about)}')
    if column.hold_seconds:
        hold = _number(column.hold_seconds)
        found.append(f"hold_seconds = {hold}  # its values are further apart than the rows")
    return found


def _bounds(column: Column) -> tuple[float, float]:
    """Bounds of an action: 0 to 100 of a percentage, else what was logged."""
    if unit(column.name) == _PERCENT and column.low >= 0.0 and column.high <= 100.0:
        return 0.0, 100.0
    return column.low, column.high


def _reward(facts: Facts, names: dict[str, str]) -> list[str]:
    if rewards := facts.of_kind("reward"):
        lines = [
            "# A reward is raised: for a column of costs, leave [reward] out or turn its sign."
        ]
        for number, column in enumerate(rewards):
            is_taken = number == 0 and not _COST.search(column.name)
            lines += ["[reward]"] if is_taken else ["# [reward]"]
            entry = f"column = {_text(column.name)}  # {column.why}"
            lines.append(entry if is_taken else f"# {entry}")
        return lines
    measured = [names[column.name] for column in facts.of_kind("observation")] or ["x"]
    return [
        "# What is wanted, as arithmetic over the names above; before(x) is x before the step.",
        "# Without it the reward is 0 and nothing can be learned.",
        "# [reward]",
        f'# expression = "-({measured[0]} - 1.0)**2"',
    ]


def _moment(facts: Facts, seconds: float) -> str:
    if facts.time_format == "seconds":
        return f"at {seconds:,.0f} s"
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"after {moment:%Y-%m-%d %H:%M:%S}"


def _unique(columns: list[str]) -> dict[str, str]:
    """Column -> its identifier, each once."""
    found: dict[str, str] = {}
    for column in columns:
        name, number = identifier(column), 2
        while name in found.values():
            name, number = f"{identifier(column)}_{number}", number + 1
        found[column] = name
    return found


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """At most six digits, as TOML writes numbers."""
    if not math.isfinite(value):
        return "0"
    text = f"{value:.6g}"
    return text if "e" not in text else repr(float(text))
