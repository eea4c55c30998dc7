"""Does a search by promise pick what the simulator would pick?

python -m benchmarks.search --folder=FOLDER --dataset=FILE.hdf5 --env=FILE.py:NAME

Trains a run with the default settings, then lets `study` search twenty candidates on its models. The
search sees no simulator; each candidate's return in it is read from its summary afterwards. The same
command goes on where it was stopped. Needs requirements-study.txt. Writes results/tables/search.json.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from offline_tf.run_folder.files import write_json
from offline_tf.studies import description, search

_RECORD = pathlib.Path("results", "tables", "search.json")
_EPISODES = 100
_STUDY = """
folder = "{folder}/study"
[flags]
env = "{env}"
dataset = "{dataset}"
final_episodes = {episodes}
inspection = false
[[runs]]
algorithm = "morel"
seed = 0
dynamics_from = "{folder}/default"
[search]
candidates = 20
warm_up = 3
[search.space]
kl_per_update = {{low = 0.005, high = 0.05, log = true}}
horizon = [50, 100]
threshold_margin = {{low = 0.75, high = 3.0, log = true}}
discount = [0.99, 0.999]
init_log_std = {{low = -2.5, high = -0.5}}
"""


def told(folder: pathlib.Path) -> dict[str, Any]:
    """What a finished run promised and returned; nothing of one that is not."""
    path = folder / "summary.json"
    if not path.exists():
        return {}
    summary = json.loads(path.read_text())
    return {
        "promise": round(summary["promise"], 1),
        "true_return_mean": round(summary["true_return_mean"], 1),
        "true_return_std": round(summary["true_return_std"], 1),
        "verdict": summary["verdict"]["level"],
    }


def main() -> int:
    """Trains, searches and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--workers", default="1")
    arguments = parser.parse_args()
    folder, dataset = arguments.folder.resolve(), arguments.dataset.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    default = ["--seed=0", "--threads=1", "--noinspection", f"--workdir={folder / 'default'}"]
    default += [f"--env={arguments.env}", f"--dataset={dataset}"]
    subprocess.run([sys.executable, "-m", "morel_tf.train", *default], check=True)
    file = folder / "search.toml"
    file.write_text(
        _STUDY.format(folder=folder, env=arguments.env, dataset=dataset, episodes=_EPISODES)
    )
    words = ["-m", "offline_tf.study", str(file), f"--workers={arguments.workers}"]
    subprocess.run([sys.executable, *words], check=True)
    study = description.read(file)
    assert study.search is not None
    (name,) = study.runs
    record = {
        "dataset": dataset.name,
        "space": study.search.space,
        "default": told(folder / "default"),
        "candidates": [
            {
                "name": each.name.rpartition("-")[2],
                "flags": {k: float(f"{v:.4g}") for k, v in each.flags.items()},
                "searched": each.verdict,
                **told(study.folder / each.name),
            }
            for each in search.read(study, name)
        ],
        "episodes": _EPISODES,
        "commit": json.loads((folder / "default" / "manifest.json").read_text())["commit"],
    }
    write_json(_RECORD, record)
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
