import re

import numpy as np
import pytest
import toys

from offline_tf.datasets.quality import examination
from offline_tf.reports import doctor_page
from offline_tf.types import Transitions


def page_of(tmp_path, data, task):
    report = examination.examine(data, task, False, 0, 1)
    doctor_page.write(tmp_path / "doctor.html", report, "log<1>.csv", data, task)
    return report, (tmp_path / "doctor.html").read_text()


def test_a_page_shows_findings_and_pictures(tmp_path):
    task, data = toys.cart(), toys.transitions((30,) * 8)
    report, page = page_of(tmp_path, data, task)
    assert "log&lt;1&gt;.csv" in page and "log<1>" not in page
    assert page.count("<svg") == 3
    for finding in report["findings"]:
        assert finding["code"] in page
    for name in (*task.observation_names, *task.action_names):
        assert re.search(rf">{name}<", page)
    assert not re.search(r'(src|href)="http', page)  # nothing is fetched


def test_an_answer_is_seen_where_it_comes():
    generator = np.random.default_rng(0)
    action = np.repeat(generator.normal(size=100), 5)
    level = np.zeros(500)
    for t in range(499):
        level[t + 1] = level[t] + 0.3 * (action[t - 4] if t >= 4 else 0.0) - 0.3 * level[t]
    values = np.stack([level, action], axis=1)
    found = doctor_page.answers(values, np.array([499]), ["level", "valve"], 1)
    assert int(np.argmax(found["valve", "level"])) == 5
    assert list(found) == [("valve", "level")]


@pytest.mark.parametrize("column", [0, 1])
def test_what_never_moves_answers_nothing(column):
    values = np.random.default_rng(0).normal(size=(300, 2))
    values[:, column] = 1.0
    assert doctor_page.answers(values, np.array([299]), ["level", "valve"], 1) == {}


def test_many_rows_and_columns_are_drawn_in_part(tmp_path):
    generator = np.random.default_rng(0)
    count, width = 5000, 30
    observations = generator.normal(size=(count + 1, width)).astype(np.float32)
    data = Transitions(
        observations=observations[:-1],
        actions=generator.uniform(-1, 1, (count, 1)).astype(np.float32),
        rewards=np.zeros(count, np.float32),
        next_observations=observations[1:],
        terminals=np.zeros(count, bool),
        timeouts=np.arange(count) % 10 == 9,
    )
    task = toys.cart(observation_names=tuple(f"x{i}" for i in range(width)))
    _, page = page_of(tmp_path, data, task)
    assert "Drawn: the first 5,000 rows, 16 columns." in page
    assert len(page) < 5_000_000
