"""The summary of a MOPP or MBOP run, in numbers and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

from mopp_tf import config
from mopp_tf.experiment import panels
from mopp_tf.experiment.configs import Configs
from offline_tf.pipeline import summary
from offline_tf.pipeline.run import Experiment

# Stage, number in its result, its name in the summary.
_FITTED = (
    ("limit", "limit", "uncertainty_limit"),
    ("dynamics", "nll", "dynamics_nll"),
    ("dynamics", "mse", "dynamics_mse"),
    ("dynamics", "judged", "judged_rows"),
    ("behavior", "nll", "behavior_nll"),
    ("behavior", "mse", "behavior_mse"),
    ("q", "gap", "q_gap"),
    ("q", "mse", "value_mse"),
)


def summarize(experiment: Experiment[Configs], measured: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json and says in words what happened."""
    configs = experiment.configs
    return summary.write(
        experiment,
        algorithm=configs.run.algorithm,
        settings={"variant": variant(configs), "horizon": configs.knobs.planner.horizon},
        results=measured,
        fitted=_fit_numbers(experiment.record.results()),
        in_words=in_words,
        report=panels.LAYOUT,
    )


def variant(configs: Configs) -> str:
    """What sets a run apart from the plain algorithm under the default preset, for tables."""
    preset = configs.run.preset
    if configs.run.algorithm == "mbop":  # it knows none of the others
        plain, own = (dataclasses.asdict(part) for part in (config.MbopConfig(), configs.mbop))
        changed = [f"{name[5:]} {own[name]:g}" for name in own if own[name] != plain[name]]
        return ", ".join([preset] * (preset != "default") + changed)
    hidden, usual = configs.model.mlp_hidden, config.ModelConfig().mlp_hidden
    sizes = "" if hidden == usual else " " + "-".join(map(str, hidden))
    parts = {
        preset: preset != "default",
        "no pruning": not configs.planner.prune,
        "no max-Q": not configs.planner.max_q,
        f"MLP{sizes}": configs.model.network == "mlp",
        "mode conditioning": preset == "default" and configs.model.conditioning == "mode",
    }
    return ", ".join(name for name, applies in parts.items() if applies)


def _fit_numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Numbers of the fits, on the rows that "judged_rows" names, and the pruning limit."""
    return {
        name: results[stage]["result"][key]
        for stage, key, name in _FITTED
        if stage in results and key in results[stage]["result"]
    }


def in_words(numbers: dict[str, Any]) -> str:
    """The summary as a person would say it."""
    lines = [
        summary.heading(numbers),
        f"  behaviour data       {numbers['behavior_return']:10.1f}",
    ]
    if numbers.get("true_return_mean") is None:
        lines += [
            summary.NOTHING_RAN,
            f"  planned ahead from rows of the data: return {numbers['expected_return']:.2f}, kept "
            f"{100 * numbers['kept_share']:.0f} % of the candidates, fallback in "
            f"{100 * numbers['fallback']:.0f} % of the decisions",
        ]
        if "fqe_value" in numbers:
            lines.append(
                f"  value of the behaviour at starts of episodes: fitted {numbers['fqe_value']:.2f}, "
                f"in the data {numbers['data_value']:.2f} (discounted)"
            )
    else:
        lines += [
            *(
                [f"  behaviour model      {numbers['bc_return']:10.1f}"]
                if "bc_return" in numbers
                else []
            ),
            f"  planner              {numbers['true_return_mean']:10.1f} "
            f"+- {numbers['true_return_std']:.1f} over {numbers['episodes']} episodes",
            f"  kept {100 * numbers['kept_share']:.0f} % of the candidates, effective sample size "
            f"{numbers['effective_sample_size']:.0f}, fallback in {100 * numbers['fallback']:.0f} % "
            f"of the decisions",
            f"  a decision for all episodes at once took {numbers['decision_ms_median']:.0f} ms",
        ]
    lines.append(f"  export: {numbers['export']}")
    return "\n".join(lines)
