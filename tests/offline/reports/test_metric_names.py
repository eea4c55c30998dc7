"""The shared library knows no metric of an algorithm by name: algorithms hand their layouts over."""

import ast
import pathlib
import re

import pytest

from mopp_tf.experiment import panels as mopp_panels
from morel_tf.experiment import panels as morel_panels

PACKAGE = pathlib.Path(__file__).parent.parent.parent.parent / "offline_tf"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
# What the library itself measures, or every summary has; see campaign_record.
SHARED = {
    "behavior_return",  # pipeline/opening
    "bc_return",
    "true_return_mean",
    "normalized_score",
    "wall_seconds",
    "fqe_value",  # policies/fitted_value
    "loss",  # models/fitting
    "held_out",  # numerics/holdout
    "promise",  # judging/judge
    "reward",
    "mean",
    "gap",
}
# Outputs of exports that users call by name.
EXPORTED = {"rendering/controllers.py": {"kept_share"}}


def _names():
    """All metrics and numbers of summaries that both algorithms' reports show."""
    layouts = (morel_panels.LAYOUT, mopp_panels.LAYOUT)
    columns = {line.column for layout in layouts for panel in layout.panels for line in panel.lines}
    return columns | {number.key for layout in layouts for number in layout.numbers}


def strings(source):
    """String literals of Python source, docstrings left out."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def named(source, names):
    """Those names that stand in the source as a literal, or as a part of a path or a pattern."""
    parts = {part for text in strings(source) for part in re.split(r"[/.^$|()]+", text)}
    return parts & names


def test_the_search_finds_names_in_literals_only():
    names = {"kept_share", "kl", "halt_share"}
    assert {"kept_share", "halt_share", "kl", "pmdp_return"} <= _names() - SHARED
    assert named('x = run["kept_share"]\n', names) == {"kept_share"}
    assert named("x = f\"kept {found['kept_share']:.0f}\"\n", names) == {"kept_share"}
    assert named('TAGS = (r"^planning/(halt_share|kl)$",)\n', names) == {"halt_share", "kl"}
    assert named('def f():\n    """Of kept_share."""\n    return kept_share\n', names) == set()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_of_the_shared_library_names_an_algorithms_metric(path):
    allowed = EXPORTED.get(str(path.relative_to(PACKAGE)), set())
    assert named(path.read_text(), _names()) - SHARED - allowed == set()
