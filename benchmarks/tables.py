"""Seconds and memory to read a table of many rows, beside pandas.

python -m benchmarks.tables --rows=10000000 --pandas_python=PYTHON

Tables of Hopper's width (11 observations, 3 actions, reward, two flags) are written with random numbers
as CSV, gzipped CSV and Parquet. Each reader is a process of its own: ours ends with Transitions, next
observations among them, pandas with a frame of the same columns.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks import memory
from offline_tf import tasks
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "tables.json")
_BLOCK = 100_000
_EPISODE = 1000
_IMPORTS = {
    "ours": "from offline_tf import tasks; from offline_tf.datasets import sources",
    "pandas": "import pandas",
}
_READS = {
    "ours": "data, _ = sources.load(path, tasks.get('hopper'))",
    "pandas": "data = pandas.read_csv(path)",
    "pandas, engine pyarrow": "data = pandas.read_csv(path, engine='pyarrow')",
    "pandas, Parquet": "data = pandas.read_parquet(path)",
}
# Reading alone is timed: the imports come before.
_PROGRAM = """
import sys, time
{imports}
path, began = sys.argv[1], time.perf_counter()
{reads}
with open(sys.argv[2], "w") as file:
    file.write(str(time.perf_counter() - began))
"""


def block(generator: np.random.Generator, start: int) -> pa.RecordBatch:
    """Rows of random numbers."""
    task = tasks.get("hopper")
    names = (*task.observation_names, *task.action_names, "reward")
    rows = np.arange(start, start + _BLOCK)
    columns = {name: generator.normal(size=_BLOCK).round(6) for name in names}
    columns |= {"terminal": np.zeros(_BLOCK, bool), "timeout": rows % _EPISODE == _EPISODE - 1}
    return pa.RecordBatch.from_pydict(columns)


def write(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Writes the tables; returns their paths."""
    generator = np.random.default_rng(0)
    paths = [folder / name for name in ("log.csv", "log.csv.gz", "log.parquet")]
    schema = block(generator, 0).schema
    with (
        pyarrow.csv.CSVWriter(paths[0], schema) as plain,
        pa.CompressedOutputStream(str(paths[1]), "gzip") as packed_file,
        pyarrow.csv.CSVWriter(packed_file, schema) as packed,
        pyarrow.parquet.ParquetWriter(paths[2], schema) as parquet,
    ):
        for start in range(0, count, _BLOCK):
            rows = block(generator, start)
            for writer in (plain, packed, parquet):
                writer.write_batch(rows)
    return paths


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--pandas_python", default="", help="an interpreter that has pandas")
    parser.add_argument(
        "--folder", type=pathlib.Path, help="for the tables; default: a scratch one"
    )
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for path in write(pathlib.Path(scratch), arguments.rows):
            readers = ["ours"]
            if arguments.pandas_python:
                text = ["pandas", "pandas, engine pyarrow"]
                readers += ["pandas, Parquet"] if path.suffix == ".parquet" else text
            for name in readers:
                python = sys.executable if name == "ours" else arguments.pandas_python
                imports = _IMPORTS[name.partition(",")[0]]
                program = _PROGRAM.format(imports=imports, reads=_READS[name])
                seconds = pathlib.Path(scratch, "seconds")
                command = [python, "-c", program, str(path), str(seconds)]
                measured = memory.peak(command, [{"OFFLINE_TF_SCRATCH": scratch}])
                measured["seconds"] = round(float(seconds.read_text()), 1)
                size = round(path.stat().st_size / 2**30, 3)
                found.append({"table": path.name, "gib": size, "reader": name, **measured})
                print(json.dumps(found[-1]), flush=True)
    record = {"rows": arguments.rows, "commit": provenance.commit(), "reads": found}
    write_json(arguments.record, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
