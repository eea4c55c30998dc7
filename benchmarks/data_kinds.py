"""python -m benchmarks.data_kinds: D4RL's kinds of data, made here; their returns as a Markdown table.

Makes what is missing (12 sets, 20 minutes of a core, 3 GB) in the cache folder and writes
results/tables/data-kinds.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib

from offline_tf import tasks
from offline_tf.datasets.simulated import generated


def main() -> None:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--output", default="results/tables/data-kinds.json")
    arguments = parser.parse_args()
    table = []
    print("| data | rows | episodes | mean return | score |\n|---|---|---|---|---|")
    for env in ("hopper", "walker2d", "halfcheetah"):
        for kind in ("random-ours", "mixed-ours", "medium-ours", "expert-ours"):
            task = tasks.get(env)
            data, name = generated.load_or_make_kind(
                task,
                physics="v2",
                kind=kind,
                num_steps=arguments.steps,
                seed=arguments.seed,
                data_dir=arguments.data_dir,
                threads=os.cpu_count() or 1,
            )
            returns = data.episode_returns()
            mean, std = float(returns.mean()), float(returns.std())
            row = {
                "dataset": name,
                "seed": arguments.seed,
                "rows": len(data),
                "episodes": len(returns),
                "mean_return": mean,
                "std_return": std,
                "normalized_score": task.normalized_score(mean),
            }
            table.append(row)
            print(
                f"| {name} | {len(data)} | {len(returns)} | {mean:.0f} +- {std:.0f} | "
                f"{row['normalized_score']:.1f} |",
                flush=True,
            )
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
