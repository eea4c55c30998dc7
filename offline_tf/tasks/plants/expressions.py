"""Arithmetic over the names of columns, as plant.toml writes it: parsed here, never run as Python.

Operators: + - * / ** %, comparisons (chained ones too), and, or, not. Functions: abs, sqrt, exp, log,
sin, cos, tanh, min, max, clip(x, low, high), where(condition, a, b), before(name). A bare name is the
value after the step, the value that an action led to; before(name) is the value that it was taken in.
Truth values count as 1 and 0 in sums.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from offline_tf.types import Tensor, UserError

_DEEPEST = 100
_LARGEST = 1e38  # of float32
_CONSTANTS = {"pi": math.pi}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: tf.pow,
    ast.Mod: tf.math.floormod,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: tf.less,
    ast.LtE: tf.less_equal,
    ast.Gt: tf.greater,
    ast.GtE: tf.greater_equal,
    ast.Eq: tf.equal,
    ast.NotEq: tf.not_equal,
}
# Name -> function and the number of its arguments; -1: two or more.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "abs": (tf.abs, 1),
    "sqrt": (tf.sqrt, 1),
    "exp": (tf.exp, 1),
    "log": (tf.math.log, 1),
    "sin": (tf.sin, 1),
    "cos": (tf.cos, 1),
    "tanh": (tf.tanh, 1),
    "min": (lambda *values: functools.reduce(tf.minimum, values), -1),
    "max": (lambda *values: functools.reduce(tf.maximum, values), -1),
    "clip": (tf.clip_by_value, 3),
    "where": (tf.where, 3),
}
_BEFORE = "before"


class Expression(NamedTuple):
    """A parsed expression.

    Attributes:
      text: as written.
      names: whose values after the step it takes.
      names_before: whose values before the step it takes.
    """

    text: str
    names: frozenset[str]
    names_before: frozenset[str]

    def __call__(self, after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        """[B] float32.

        Args:
          after: [B] of each name after the step; of actions, the one that was taken.
          before: [B] of each name before the step.
        """
        found = _value(ast.parse(self.text, mode="eval").body, after, before)
        shape = tf.shape(next(iter((*after.values(), *before.values()))))
        return tf.broadcast_to(_number(found), shape)


def parse(text: str, known: Collection[str], where: str) -> Expression:
    """Parses an expression.

    Args:
      text: such as "-(level - 2)**2 - 0.1 * abs(valve - before(valve))".
      known: names that it may use.
      where: what to name in errors, such as "plant.toml: reward".

    Raises:
      UserError: it is none, or uses something else.
    """
    try:
        body = ast.parse(text.strip(), mode="eval").body
        _check_depth(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{where}: expected arithmetic, got {text[:100]!r} ({reason})") from None
    after: set[str] = set()
    before: set[str] = set()
    try:
        _collect(body, after, before)
    except _Refused as error:
        raise UserError(f"{where}: {error} in {text[:100]!r}") from None
    unknown = sorted((after - set(_CONSTANTS) | before) - set(known))
    if unknown:
        raise UserError(
            f"{where}: unknown names {', '.join(unknown)} in {text[:100]!r}; known are "
            f"{', '.join(known)}"
        )
    constants = frozenset(_CONSTANTS) - set(known)
    return Expression(text.strip(), frozenset(after) - constants, frozenset(before))


class _Refused(Exception):
    """Something that is no arithmetic."""


def _check_depth(node: ast.AST, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    for child in ast.iter_child_nodes(node):
        _check_depth(child, depth + 1)


def _collect(node: ast.AST, after: set[str], before: set[str]) -> None:
    """Gathers names; refuses all that `_value` does not know."""
    if isinstance(node, ast.Name):
        after.add(node.id)
        return
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        number: Any = node.value
        if not abs(number) < _LARGEST:
            raise _Refused("a number that is not finite")
        return
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else "?"
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise _Refused(f"named arguments of {name}")
        if name == _BEFORE:
            if len(node.args) != 1 or not isinstance(node.args[0], ast.Name):
                raise _Refused("before() without the name of a column")
            before.add(node.args[0].id)
            return
        if name not in _FUNCTIONS:
            raise _Refused(f"the function {name}; known are before, {', '.join(_FUNCTIONS)};")
        count = _FUNCTIONS[name][1]
        if len(node.args) != count if count > 0 else len(node.args) < 2:
            raise _Refused(f"{len(node.args)} arguments of {name}")
        children: list[ast.AST] = list(node.args)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        children = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub | ast.Not):
        children = [node.operand]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.BoolOp):
        children = list(node.values)
    else:
        raise _Refused(f"{type(node).__name__.lower()}, which is no arithmetic,")
    for child in children:
        _collect(child, after, before)


def _value(node: Any, after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
    def value(child: ast.AST) -> Tensor:
        return _value(child, after, before)

    if isinstance(node, ast.Name):
        known = after[node.id] if node.id in after else _CONSTANTS[node.id]
        return tf.cast(known, tf.float32)
    if isinstance(node, ast.Constant):
        return tf.constant(node.value, tf.float32)
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name == _BEFORE:
            return tf.cast(before[ast.unparse(node.args[0])], tf.float32)
        if name == "where":
            condition, *values = map(value, node.args)
            return tf.where(_truth(condition), *map(_number, values))
        return _FUNCTIONS[name][0](*(_number(value(child)) for child in node.args))
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_number(value(node.left)), _number(value(node.right)))
    if isinstance(node, ast.UnaryOp):
        found = value(node.operand)
        if isinstance(node.op, ast.Not):
            return tf.logical_not(_truth(found))
        return -_number(found) if isinstance(node.op, ast.USub) else _number(found)
    if isinstance(node, ast.BoolOp):
        combine = tf.logical_and if isinstance(node.op, ast.And) else tf.logical_or
        return functools.reduce(combine, (_truth(value(child)) for child in node.values))
    sides = [_number(value(side)) for side in (node.left, *node.comparators)]
    pairs = itertools.pairwise(sides)
    held = [_COMPARISONS[type(op)](*pair) for op, pair in zip(node.ops, pairs, strict=True)]
    return functools.reduce(tf.logical_and, held)


def _number(value: Tensor) -> Tensor:
    return tf.cast(value, tf.float32)


def _truth(value: Tensor) -> Tensor:
    return value if value.dtype == tf.bool else tf.not_equal(value, 0.0)
