"""Signatures of an export as ONNX files, each checked by onnxruntime in a process without TensorFlow.

Optional packages: requirements-onnx.txt.
"""

from __future__ import annotations

import importlib
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from offline_tf.export import fresh_process, loaded
from offline_tf.install_hints import install
from offline_tf.run_folder import files
from offline_tf.types import Array, UserError

OPSET = 17
TOLERANCE = 1e-4
_BATCH = "B"
_CHILD = """
import sys, numpy, onnxruntime
path, given, returned = sys.argv[1:]
data = numpy.load(given)
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
values = session.run(names, {name: data[name] for name in data.files})
assert "tensorflow" not in sys.modules
numpy.savez(returned, **dict(zip(names, values)))
"""


def check_installed() -> None:
    """Checks, before anything is exported, that the packages are there.

    Raises:
      UserError: they are not.
    """
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"--onnx needs {name}: {install('requirements-onnx.txt')}") from None


def write(
    folder: pathlib.Path,
    signatures: Mapping[str, str],
    samples: Mapping[str, Array],
) -> float:
    """Writes one file a signature beside a SavedModel, and compares it with that.

    Args:
      folder: of the SavedModel.
      signatures: name of a file, without its ending -> signature.
      samples: inputs by their names, [B, ..], to compare on.

    Returns:
      The largest difference; of outputs above 1, relative to the largest.

    Raises:
      RuntimeError: a file computes something else.
    """
    model, worst = loaded.Deployed(folder), 0.0
    for name, signature in signatures.items():
        path = folder / f"{name}.onnx"
        function = model.signatures[signature]
        specs = dict(function.structured_input_signature[1])
        _write(function, specs, path, model.interface)
        given = {key: samples[key] for key in specs}
        found = fresh_process.run(_CHILD, path, given)
        expected = model.call(signature, **given)
        worst = float(np.maximum(worst, fresh_process.largest_difference(found, expected)))
    if not worst <= TOLERANCE:
        raise RuntimeError(
            f"export to {folder}: ONNX files differ by {worst:.2g}, expected at most {TOLERANCE:g}"
        )
    return worst


def _write(
    function: Any,
    specs: Mapping[str, tf.TensorSpec],
    path: pathlib.Path,
    interface: loaded.Interface,
) -> None:
    logging.getLogger("tf2onnx").setLevel(logging.WARNING)
    converter: Any = importlib.import_module("tf2onnx").convert
    inputs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()]

    def called(*values: tf.Tensor) -> Any:
        return function(**dict(zip(specs, values, strict=True)))

    graph = tf.function(called, input_signature=inputs, autograph=False)
    made, _ = converter.from_function(graph, input_signature=inputs, opset=OPSET)
    for value in (*made.graph.input, *made.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # tf2onnx numbers them
                size.dim_param = _BATCH
    about = {
        "task": interface.task,
        "observation_names": list(interface.observation_names),
        "action_names": list(interface.action_names),
        "dt": interface.dt,
    }
    for key, value in about.items():
        made.metadata_props.add(key=key, value=json.dumps(value))
    with files.whole(path) as partial:
        partial.write_bytes(made.SerializeToString())
