"""The summary of a MOReL run, in numbers and in words."""

from __future__ import annotations

from typing import Any

from morel_tf import algorithm
from morel_tf.experiment import panels
from morel_tf.experiment.configs import Configs, algorithm_name
from morel_tf.experiment.evaluation import late_returns
from offline_tf.pipeline import summary
from offline_tf.pipeline.run import Experiment


def summarize(
    experiment: Experiment[Configs], learned: algorithm.Learned, measured: dict[str, Any]
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened."""
    configs, iterations = experiment.configs, experiment.configs.planner.iterations
    return summary.write(
        experiment,
        algorithm=algorithm_name(configs),
        settings={"iterations": iterations, "horizon": configs.pmdp.horizon},
        results={
            "bc_return": measured.get("bc_return"),
            "pmdp_return": learned.pmdp_return,
            **{name: value for name, value in measured.items() if name != "bc_return"},
            **late_returns(experiment.record, iterations),
        },
        fitted={"threshold": learned.calibrations["planning"].threshold},
        in_words=in_words,
        report=panels.LAYOUT,
    )


def in_words(numbers: dict[str, Any]) -> str:
    """The summary as a person would say it."""
    lines = [
        summary.heading(numbers),
        f"  behaviour policy     {numbers['behavior_return']:10.1f}",
    ]
    if numbers.get("true_return_mean") is None:
        lines += [
            summary.NOTHING_RAN,
            f"  over {numbers['horizon']} steps the P-MDP promises {numbers['pmdp_return']:.1f}",
            f"  the detector knows {100 * numbers['known_share']:.0f} % of the policy's actions in "
            "states of the data",
        ]
        if "fqe_value" in numbers:
            lines.append(
                f"  fitted Q evaluation values it at {numbers['fqe_value']:.2f} (twins "
                f"{numbers['fqe_gap']:.2f} apart; discount {numbers['fqe_discount']}; beyond time "
                f"limits too); up to its end, an episode brought {numbers['data_value']:.2f}"
            )
    else:
        lines += [
            f"  behaviour cloning    {numbers['bc_return']:10.1f}",
            f"  policy, mean action  {numbers['true_return_mean']:10.1f} "
            f"+- {numbers['true_return_std']:.1f} over {numbers['episodes']} episodes",
            f"  policy, stochastic   {numbers['true_return_stochastic']:10.1f}",
            f"  over {numbers['horizon']} steps: P-MDP {numbers['pmdp_return']:.1f}, "
            f"true {numbers['true_return_at_horizon']:.1f}",
        ]
    return "\n".join([*lines, f"  export: {numbers['export']}"])
