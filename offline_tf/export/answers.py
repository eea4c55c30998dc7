"""What a request to an export is answered: bytes in, bytes out, in TensorFlow Serving's REST form.

It knows HTTP's status codes and no more: paths, limits and a queue are in `http_server`.
See docs/serving.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import re
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from offline_tf.export import loaded
from offline_tf.types import Array, UserError

DEFAULT_SIGNATURE = "serving_default"
INTERNAL_ERROR = "internal error; the server's log says more"
_KEYS = ("signature_name", "instances", "inputs")
_JSON_WORDS = {
    str: "a string",
    type(None): "null",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    float: "a fraction",
    int: "a number",
}


class Refused(Exception):
    """A request that is not answered; its one line goes to the client."""

    def __init__(self, status: int, message: str) -> None:
        """Holds what is sent."""
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes back.

    Attributes:
      status: of HTTP.
      body: JSON.
      signature: that was asked, or "unknown".
      rows: that were computed.
    """

    status: int
    body: bytes
    signature: str = "unknown"
    rows: int = 0


def saved_model_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a SavedModel: the path, or "export" in it.

    Raises:
      UserError: neither is one.
    """
    for folder in (pathlib.Path(path), pathlib.Path(path) / "export"):
        if (folder / "saved_model.pb").is_file():
            return folder
    raise UserError(
        f"--export: expected a run folder or an export with saved_model.pb at {path}, found none"
    )


class Served:
    """A SavedModel whose signatures answer requests; safe to call from many threads.

    Attributes:
      task: name in interface.json; "default" where there is none, as in older exports.
      version: name of the folder where it is a number, as in TensorFlow Serving's layout, else "1".
      metadata: signature definitions as they are stored, in the form of protobuf's JSON.
    """

    def __init__(self, path: str | pathlib.Path, max_rows: int) -> None:
        """Loads it.

        Args:
          path: a run folder, or an export.
          max_rows: rows that a request may hold.

        Raises:
          UserError: there is none, it is damaged, or a signature takes or gives what is not a number.
        """
        folder = saved_model_folder(path)
        try:
            self._model = tf.saved_model.load(str(folder))  # signatures die with their model
            self.metadata = _metadata(folder)
            interface = folder / loaded.INTERFACE
            stored = json.loads(interface.read_text()) if interface.exists() else {}
            self.task = str(stored.get("task", "default"))
        except Exception as error:  # TensorFlow, protobuf and json raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--export: {folder} is damaged: {reason}") from None
        self.version = folder.resolve().name if folder.resolve().name.isdecimal() else "1"
        self._max_rows = max_rows
        self._functions = dict(self._model.signatures)
        self._inputs: dict[str, dict[str, Any]] = {
            name: dict(sorted(function.structured_input_signature[1].items()))
            for name, function in self._functions.items()
        }
        if not self._functions:
            raise UserError(f"--export: {folder} has no signatures")
        for name, function in self._functions.items():
            for key, spec in (self._inputs[name] | function.structured_outputs).items():
                if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
                    raise UserError(
                        f"--export: signature {name!r}: expected numbers in {key!r}, got "
                        f"{spec.dtype.name}"
                    )
            for key, spec in self._inputs[name].items():
                if spec.shape.rank is None:
                    raise UserError(f"--export: signature {name!r}: {key!r} is of unknown rank")

    def warm_up(self) -> None:
        """Calls every signature once, with zeros: first calls are slow."""
        for name, inputs in self._inputs.items():
            zeros = {
                key: tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)
                for key, spec in inputs.items()
            }
            try:
                self._functions[name](**zeros)
            except tf.errors.InvalidArgumentError as error:  # a model that takes no zeros
                logging.warning("signature %s is not warmed up: %s", name, _first_line(error))

    def answer(self, body: bytes) -> Answer:
        """Answers the body of a predict request; raises nothing."""
        name = "unknown"
        try:
            request = _parse(body)
            name = self._signature(request)
            by_row = "instances" in request
            columns = (
                self._columns_of_rows(name, request) if by_row else self._columns(name, request)
            )
            arrays = {
                key: _parse_array(key, value, self._inputs[name][key])
                for key, value in columns.items()
            }
            rows = len(request["instances"]) if by_row else self._rows(name, arrays)
            outputs = self._call(name, arrays)
            value = _by_row(name, outputs, rows) if by_row else _by_column(outputs)
            return Answer(200, encode(value), name, rows)
        except Refused as error:
            return Answer(error.status, error_body(str(error)), name)
        except Exception:
            logging.exception("signature %s", name)
            return Answer(500, error_body(INTERNAL_ERROR), name)

    def _signature(self, request: dict[str, Any]) -> str:
        """Name of the signature that is asked for."""
        unknown = sorted(set(request) - set(_KEYS))
        if unknown:
            refuse(f"expected no keys but {', '.join(_KEYS)}, got {quote(unknown[0])}")
        if ("instances" in request) == ("inputs" in request):
            refuse("expected either instances (rows) or inputs (columns)")
        name = request.get("signature_name", DEFAULT_SIGNATURE)
        if not isinstance(name, str) or name not in self._functions:
            names = ", ".join(sorted(self._functions))
            refuse(f"signature_name: expected one of {names}, got {quote(name)}")
        return name

    def _columns_of_rows(self, name: str, request: dict[str, Any]) -> dict[str, list[Any]]:
        """Inputs of a request in the row format: {"instances": [...]}."""
        specs, instances = self._inputs[name], request["instances"]
        heads = {spec.shape[0] if spec.shape.rank else 0 for spec in specs.values()}
        if len(heads) != 1 or 0 in heads:
            shapes = ", ".join(f"{key} {_shape_in_words(spec)}" for key, spec in specs.items())
            refuse(
                f"signature {name!r} has inputs that are not one per row ({shapes}); send columns: "
                '{"inputs": {...}} instead of instances'
            )
        if not isinstance(instances, list) or not instances:
            refuse(f"instances: expected a list of rows, got {quote(instances)}")
        self._limit(len(instances))
        objects = [isinstance(row, dict) for row in instances]
        if not any(objects) and len(specs) == 1:
            return {next(iter(specs)): instances}
        if not all(objects):
            at = objects.index(False)
            refuse(f"instances[{at}]: expected an object with {', '.join(specs)}")
        for at, row in enumerate(instances):
            _same_names(f"instances[{at}]", row, specs)
        return {key: [row[key] for row in instances] for key in specs}

    def _columns(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Inputs of a request in the column format: {"inputs": ...}."""
        specs, inputs = self._inputs[name], request["inputs"]
        if not isinstance(inputs, dict):
            if len(specs) != 1:
                refuse(f"inputs: expected an object with {', '.join(specs) or 'nothing'}")
            inputs = {next(iter(specs)): inputs}
        _same_names("inputs", inputs, specs)
        for key, spec in specs.items():
            if isinstance(inputs[key], list) and spec.shape.rank and spec.shape[0] is None:
                self._limit(len(inputs[key]))
        return inputs

    def _limit(self, rows: int) -> None:
        if rows > self._max_rows:
            refuse(f"expected at most {self._max_rows} rows in a request, got {rows}")

    def _rows(self, name: str, arrays: dict[str, Array]) -> int:
        """Rows of a request; 1 for a signature without rows."""
        specs = self._inputs[name]
        sizes = {
            key: len(arrays[key])
            for key, spec in specs.items()
            if spec.shape.rank and spec.shape[0] is None
        }
        if len(set(sizes.values())) > 1:
            words = ", ".join(f"{key} {size}" for key, size in sizes.items())
            refuse(f"expected the same number of rows in all inputs, got {words}")
        return next(iter(sizes.values()), 1)

    def _call(self, name: str, arrays: dict[str, Array]) -> dict[str, Array]:
        specs = self._inputs[name]
        tensors = {key: tf.constant(values, specs[key].dtype) for key, values in arrays.items()}
        try:
            outputs = self._functions[name](**tensors)
            return {key: value.numpy() for key, value in sorted(outputs.items())}
        except tf.errors.InvalidArgumentError as error:  # such as a member that does not exist
            refuse(f"signature {name!r}: {_first_line(error)}")


def _metadata(folder: pathlib.Path) -> dict[str, Any]:
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        name: json_format.MessageToDict(
            definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, definition in sorted(saved_model.meta_graphs[0].signature_def.items())
    }


def refuse(message: str, status: int = 400) -> NoReturn:
    """Raises `Refused`."""
    raise Refused(status, message)


def quote(value: Any) -> str:
    """The client's own words, short enough to send back."""
    words = json.dumps(value)
    return words if len(words) <= 60 else words[:57] + "..."


def _first_line(error: tf.errors.OpError) -> str:
    """TensorFlow's message without its names of nodes."""
    return re.sub(r"\{\{.*?\}\}\s*", "", str(error.message)).partition("\n")[0][:200]


def _parse(body: bytes) -> dict[str, Any]:
    def no_number(word: str) -> NoReturn:
        refuse(f"expected finite numbers, got {word}, which JSON does not have")

    try:
        request = json.loads(body, parse_constant=no_number)
    except RecursionError:
        refuse("expected JSON, got lists or objects too deep")
    except ValueError as error:  # not JSON, not UTF-8, an endless number
        refuse(f"expected JSON, got: {str(error)[:100]}")
    if not isinstance(request, dict):
        refuse(f"expected a JSON object, got {_JSON_WORDS[type(request)]}")
    return request


def _same_names(where: str, values: dict[str, Any], specs: dict[str, Any]) -> None:
    if values.keys() != specs.keys():
        parts = [f"{where}: expected {', '.join(specs) or 'nothing'}"]
        parts += [f"lacks {key}" for key in specs if key not in values][:3]
        parts += [f"does not take {quote(key)}" for key in values if key not in specs][:3]
        refuse("; ".join(parts))


def _shape_in_words(spec: Any) -> str:
    """A shape such as [B, 17]."""
    sizes = ["?" if size is None else str(size) for size in spec.shape]
    if sizes and spec.shape[0] is None:
        sizes[0] = "B"
    return f"[{', '.join(sizes)}]"


def _parse_array(name: str, value: Any, spec: Any) -> Array:
    """Nested lists as an array of a signature's shape and type."""
    sizes, level = [], [value]
    while level and type(level[0]) is list:
        if {*map(type, level)} != {list} or len({*map(len, level)}) != 1:
            refuse(
                f"{name}: expected shape {_shape_in_words(spec)}, got lists of different lengths"
            )
        sizes.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    expected, kinds = "numbers", {int, float}
    if spec.dtype.is_bool:
        expected, kinds = "true or false", {bool}
    elif spec.dtype.is_integer:
        expected, kinds = "whole numbers", {int}
    unexpected = {*map(type, level)} - kinds
    if unexpected:
        refuse(f"{name}: expected {expected}, got {_JSON_WORDS[min(unexpected, key=str)]}")
    if not spec.shape.is_compatible_with(sizes) or not level:
        shown = [str(size) for size in sizes[:6]] + ["..."] * (len(sizes) > 6)
        refuse(f"{name}: expected shape {_shape_in_words(spec)}, got [{', '.join(shown)}]")
    try:
        if not spec.dtype.is_floating:
            return np.array(level, spec.dtype.as_numpy_dtype).reshape(sizes)
        with np.errstate(over="ignore"):
            numbers = np.array(level, np.float64).astype(spec.dtype.as_numpy_dtype)
    except OverflowError:
        refuse(f"{name}: expected numbers in the range of {spec.dtype.name}")
    if not np.isfinite(numbers).all():
        refuse(f"{name}: expected finite numbers in the range of {spec.dtype.name}")
    return numbers.reshape(sizes)


def _plain(values: Array) -> Any:
    """An array as nested lists; what is not finite as None, for JSON has no word for it."""
    if values.dtype.kind in "biu":
        return values.tolist()
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if finite.all():
        return numbers.tolist()
    with_none = numbers.astype(object)
    with_none[~finite] = None
    return with_none.tolist()


def _by_row(name: str, outputs: dict[str, Array], rows: int) -> dict[str, Any]:
    """An answer in the row format: {"predictions": one entry per row}."""
    for key, values in outputs.items():
        if values.ndim == 0 or len(values) != rows:
            refuse(
                f"signature {name!r} gives {key} of shape {list(values.shape)}, which is not one per "
                'row; send columns: {"inputs": {...}} instead of instances'
            )
    columns = [_plain(values) for values in outputs.values()]
    if len(columns) == 1:
        return {"predictions": columns[0]}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns)]}


def _by_column(outputs: dict[str, Array]) -> dict[str, Any]:
    """An answer in the column format: {"outputs": one entry per output}."""
    columns = {key: _plain(values) for key, values in outputs.items()}
    return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}


def encode(value: Any) -> bytes:
    """A value as compact JSON."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_body(message: str) -> bytes:
    """The JSON of an error."""
    return encode({"error": message})
