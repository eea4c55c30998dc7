"""SavedModels and LiteRT files, and the check that a fresh process computes the same."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from offline_tf.export import fresh_process, loaded
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec

PLANT = "plant.toml"
# Signature -> name of an input or output -> values.
Values = dict[str, dict[str, Array]]

_CHILD = """
import os, sys, numpy, tensorflow as tf
folder, given, returned, between, within = sys.argv[1:]
tf.config.threading.set_inter_op_parallelism_threads(int(between))
tf.config.threading.set_intra_op_parallelism_threads(int(within))
data, out = numpy.load(given), {}
loaded = tf.saved_model.load(folder) if os.path.isdir(folder) else None
for name in sorted({key.partition("/")[0] for key in data.files}):
    inputs = {k.partition("/")[2]: data[k] for k in data.files if k.partition("/")[0] == name}
    if loaded is None:
        lite = tf.lite.Interpreter(model_path=folder)
        known = lite.get_signature_list()
        outputs = lite.get_signature_runner(name if name in known else None)(**inputs)
    else:
        outputs = loaded.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
    out |= {name + "/" + key: numpy.asarray(value) for key, value in outputs.items()}
numpy.savez(returned, **out)
"""


def save(
    module: tf.Module,
    folder: pathlib.Path,
    signatures: Mapping[str, Any],
    task: TaskSpec,
    readme: str,
) -> None:
    """Writes a SavedModel; the folder appears, or is replaced, only when it is complete.

    Args:
      module: holds the variables.
      folder: of the SavedModel.
      signatures: name -> concrete function.
      task: names and bounds for interface.json.
      readme: text of README.md.
    """
    with files.whole(folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        tf.saved_model.save(module, str(partial), signatures=dict(signatures))
        (partial / "README.md").write_text(readme)
        interface = loaded.Interface.of(task)
        files.write_json(partial / loaded.INTERFACE, dataclasses.asdict(interface))
        if folder.exists():
            shutil.rmtree(folder)


def describe(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Puts a run's manifest beside an export, and the plant's description where there is one.

    Args:
      folder: of the export.
      manifest: of the run.
    """
    files.write_json(folder / "manifest.json", dict(manifest))
    plant = pathlib.Path(str(manifest["flags"].get("env", "")))
    if plant.suffix == ".toml" and plant.exists():
        shutil.copyfile(plant, folder / PLANT)


def save_lite(module: tf.Module, path: pathlib.Path, function: Any) -> None:
    """Writes one signature as a LiteRT (TFLite) file with its weights frozen.

    Args:
      module: holds the variables.
      path: of the file.
      function: the concrete function. Its variables are read as constants here: a SavedModel of a
        module with Keras 3 networks converts without an error to a file that computes nonsense.
    """
    _write(path, tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert())


def save_constant_lite(
    signatures: Mapping[str, Any], path: pathlib.Path, eight_bits: bool = False
) -> None:
    """Writes several signatures, in whose graphs weights are constants, as one LiteRT file.

    Args:
      signatures: name -> concrete function without variables.
      path: of the file.
      eight_bits: whether the weights of products are rounded to 8-bit integers, one scale per
        output, and their inputs row by row when the file runs ("dynamic range").
    """
    with tempfile.TemporaryDirectory() as scratch:
        tf.saved_model.save(tf.Module(), scratch, signatures=dict(signatures))
        keys = list(signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=keys)
        if eight_bits:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        _write(path, converter.convert())


def _write(path: pathlib.Path, content: bytes) -> None:
    with files.whole(path) as partial:
        partial.write_bytes(content)


def run_in_fresh_process(path: pathlib.Path, given: Values) -> Values:
    """Calls signatures of an export in a new Python process that knows nothing of this project.

    It has this process's threads: with others, products round differently, and where a planner
    chooses by the largest of nearly equal values, rounding becomes another choice.

    Args:
      path: folder of a SavedModel, or a .tflite file.
      given: inputs by signature.

    Returns:
      Outputs by signature.

    Raises:
      RuntimeError: the process failed; the message holds the end of its output.
    """
    flat = {f"{name}/{key}": v for name, values in given.items() for key, v in values.items()}
    threads = (
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.threading.get_intra_op_parallelism_threads(),
    )
    outputs: Values = {}
    for key, value in fresh_process.run(_CHILD, path, flat, tuple(map(str, threads))).items():
        name, _, output = key.partition("/")
        outputs.setdefault(name, {})[output] = value
    return outputs


def verify(
    signatures: Mapping[str, Any],
    path: pathlib.Path,
    given: Values,
    tolerance: float,
    compared: Collection[str] = (),
) -> float:
    """Compares an export in a fresh process with the live functions.

    Args:
      signatures: name -> the live function.
      path: of the export.
      given: inputs of the signatures that are called.
      tolerance: allowed difference.
      compared: names of outputs; empty: all of floating point.

    Returns:
      The largest absolute difference; of outputs above 1, relative to the largest.

    Raises:
      RuntimeError: it is above the tolerance, or no number.
    """
    worst = 0.0
    fresh = run_in_fresh_process(path, given)
    for name, inputs in given.items():
        live = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        expected = {
            key: value.numpy() for key, value in live.items() if not compared or key in compared
        }
        worst = float(np.maximum(worst, fresh_process.largest_difference(fresh[name], expected)))
    if not worst <= tolerance:
        raise RuntimeError(
            f"export to {path}: outputs in a fresh process differ by {worst:.2g}, "
            f"expected at most {tolerance:g}"
        )
    return worst


def readme(
    title: str,
    words: str,
    task: TaskSpec,
    signatures: Mapping[str, Any],
    says: Mapping[str, str],
) -> str:
    """The README.md of an export.

    Args:
      title: what was exported.
      words: what the reader must know beside the signatures.
      task: names and bounds of what goes in and out.
      signatures: name -> concrete function.
      says: name -> what the signature does, in a sentence.
    """
    lines = [f"# {title}", "", words, "", "| signature | takes | gives | |", "|---|---|---|---|"]
    for name, function in signatures.items():
        takes = [_spec(spec.name, spec) for spec in function.structured_input_signature[0]]
        gives = [_spec(key, spec) for key, spec in sorted(function.structured_outputs.items())]
        lines.append(f"| `{name}` | {', '.join(takes)} | {', '.join(gives)} | {says[name]} |")
    bounds = zip(task.action_names, task.action_low, task.action_high, strict=True)
    lines += [
        "",
        f"B is any number of rows. Observations and states, in the units of {task.name}'s data: "
        f"{', '.join(task.observation_names)}.",
        f"Actions: {', '.join(f'{name} in [{low:g}, {high:g}]' for name, low, high in bounds)}; "
        f"one every {task.dt:g} s.",
    ]
    return "\n".join(lines) + "\n"


def _spec(name: str, spec: Any) -> str:
    shape = ", ".join("B" if size is None else str(size) for size in spec.shape)
    return f"`{name}` [{shape}] {spec.dtype.name}"
