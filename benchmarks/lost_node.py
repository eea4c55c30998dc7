"""A study on a Ray cluster that loses a machine: is everything done, and is it the same to the bit?

python -m benchmarks.lost_node --folder=FOLDER

Starts a cluster of two nodes on this machine, a core each, and a study of twelve short runs on it.
When four are done, every process of one node is killed (SIGKILL): Ray's, and the run that plans there.
Then each run is made once more by its plain command and compared: weights, metrics, results, exports.
Needs requirements-study.txt. Writes results/tables/lost_node.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

from offline_tf.run_folder import comparison, provenance
from offline_tf.run_folder.files import write_json
from offline_tf.studies import description

_RECORD = pathlib.Path("results", "tables", "lost_node.json")
_DONE_BEFORE = 4
_STUDY = """
folder = "{folder}/study"
[flags]
env = "hopper"
data_steps = 6000
data_dir = "{folder}/data"
ensemble_size = 2
dynamics_hidden = "32,32"
iterations = 200
eval_every = 50
eval_episodes = 2
final_episodes = 3
paths_per_member = 4
policy_hidden = "16,16"
horizon = 100
judge_steps = 2000
[[runs]]
algorithm = "morel"
seed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
"""


def descendants(pid: int) -> list[int]:
    """Processes below a process."""
    parents: dict[int, list[int]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(") ")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        below = parents.get(left.pop(), [])
        found += below
        left += below
    return found


def complete(folder: pathlib.Path) -> list[str]:
    """Stages of a run that are complete."""
    return sorted(path.stem for path in (folder / "stages").glob("*.json"))


def plans(folder: pathlib.Path) -> bool:
    """Whether a run has its models and plans in them."""
    return "behavior_cloning" in complete(folder) and "planning" not in complete(folder)


def main() -> int:
    """Returns 0 where all runs are done, went on, and are the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.toml"
    file.write_text(_STUDY.format(folder=folder))
    study = description.read(file)
    jobs = [study.job(name, flags, 1) for name, flags in study.runs.items()]

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    command = [sys.executable, "-m", "offline_tf.study", str(file), "--engine=ray", "--workers=2"]
    process = subprocess.Popen([*command, f"--address={cluster.address}"])
    raylet = next(iter(other.all_processes["raylet"])).process.pid
    while True:
        time.sleep(0.5)
        theirs = " ".join(
            pathlib.Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ")
            for pid in descendants(raylet)
            if pathlib.Path("/proc", str(pid), "cmdline").exists()
        )
        lost = [job for job in jobs if f"{job.folder} " in theirs + " "]
        done = [job for job in jobs if job.is_done]
        if process.poll() is not None:
            sys.exit(f"the study ended with {process.returncode} before a node was killed")
        if len(done) >= _DONE_BEFORE and lost and plans(lost[0].folder):
            break
    before, log_before = complete(lost[0].folder), lost[0].log.stat().st_size
    for pid in [raylet, *descendants(raylet)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    print(f"killed a node with {lost[0].name} on it, which had {', '.join(before)}", flush=True)
    status = process.wait()
    cluster.shutdown()
    said = lost[0].log.read_bytes()[log_before:].decode(errors="replace")
    went_on = "continuing the run" in said

    different = {}
    for job in jobs:
        single = folder / "single" / job.folder.name
        words = [sys.executable, "-m", *job.words, f"--workdir={single}"]
        with job.log.with_suffix(".single").open("w") as log:
            subprocess.run(words, check=True, stdout=log, stderr=log)
        found = comparison.differences(job.folder, single)
        if found:
            different[job.name] = [f"{each.stage}: {each.what}" for each in found]
        print(f"{job.name}: {'differs' if found else 'the same to the bit'}", flush=True)
    record = {
        "runs": len(jobs),
        "done": sum(job.is_done for job in jobs),
        "done_before_the_kill": len(done),
        "lost": lost[0].name,
        "lost_had": before,
        "lost_went_on": went_on,
        "different": different,
        "status": status,
        "commit": provenance.commit(),
    }
    write_json(_RECORD, record)
    return int(status != 0 or not went_on or bool(different))


if __name__ == "__main__":
    sys.exit(main())
