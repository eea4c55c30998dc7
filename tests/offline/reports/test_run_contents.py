import pathlib

import numpy as np
import pytest

from offline_tf.reports import run_contents
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError


def tables_of(folder: pathlib.Path, content: bytes):
    record = RunRecord.create_or_continue(folder, "morel", {"seed": 0})
    record.stage("judge").finish({"bound": 1.0}, 1.0)
    (folder / "metrics").mkdir()
    (folder / "metrics" / "fit.csv").write_bytes(content)
    return run_contents.read(folder).tables


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        (b"step,loss\n1,0.5\n2,0.25\n", [1, 2]),
        (b"step,loss\n1,0.5\n2,0.2", [1, 2]),  # no better is known of a number that is cut
        (b"step,loss\n1,0.5\n2,-", [1]),
        (b"step,loss\n1,0.5\n2", [1]),
        (b"step,loss\n1,-", None),
        (b"step,loss\n1", None),
        (b"step,loss\n", None),
        (b"step,lo", None),
        (b"", None),
    ],
)
def test_a_row_that_a_kill_cut_short_is_left_out(tmp_path, content, steps):
    tables = tables_of(tmp_path / "run", content)
    if steps is None:
        assert tables == {}
    else:
        np.testing.assert_array_equal(tables["fit"]["step"], steps)


@pytest.mark.parametrize(
    "content", [b"step,loss\n1,x\n2,0.5\n", b"step,step\n1,2\n", b"\xff\xfe,loss\n1,2\n"]
)
def test_a_damaged_table_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"expected a table of numbers in .*fit\.csv"):
        tables_of(tmp_path / "run", content)


def test_a_damaged_summary_is_named(tmp_path):
    tables_of(tmp_path / "run", b"step,loss\n1,2\n")
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        run_contents.read(tmp_path / "run")
