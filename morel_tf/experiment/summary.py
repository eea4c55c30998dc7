"""The summary of a MOReL run, in numbers and in words."""

from __future__ import annotations

from typing import Any

from morel_tf import algorithm
from morel_tf.experiment import panels
from morel_tf.experiment.configs import Configs, algorithm_name
from morel_tf.experiment.evaluation import late_returns, promise_correlation
from offline_tf.judging import good_episodes, verdict
from offline_tf.judging.verdict import DataReturns, Verdict
from offline_tf.pipeline import summary
from offline_tf.pipeline.run import Experiment

# What to try where a ground of the verdict on a planned policy is not green.
_ADVICE = {
    "above_best": "raise --cut_share, or try the controller with care",
    "halted_share": "lower --kl_per_update or --judge_patience, or raise --judge_steps",
}


def summarize(
    experiment: Experiment[Configs], learned: algorithm.Learned, measured: dict[str, Any]
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened."""
    configs, planned = experiment.configs, learned.planned
    iterations = int(planned.get("iterations", configs.planner.iterations))
    judged = verdict_on(experiment, learned)
    return summary.write(
        experiment,
        algorithm=algorithm_name(configs),
        settings={"iterations": iterations, "horizon": configs.pmdp.horizon},
        results={
            "bc_return": measured.get("bc_return"),
            "pmdp_return": planned["pmdp_return"],
            **promises(planned, learned.start.get("worth")),
            **(
                {"verdict": judged.to_json(), "verdict_in_words": judged.in_words()}
                if judged
                else {}
            ),
            **{name: value for name, value in measured.items() if name != "bc_return"},
            **late_returns(experiment.record, iterations),
            **promise_correlation(experiment.record),
        },
        fitted={
            "threshold": learned.calibrations["planning"].threshold,
            "policy_hidden": list(learned.policy.hidden),
        },
        in_words=in_words,
        report=panels.LAYOUT,
    )


def promises(planned: dict[str, float], worth: float | None) -> dict[str, float]:
    """What the judge says of the final policy, and of the clone; empty without one."""
    if "promise" not in planned:
        return {}
    gained: dict[str, float] = {}
    if "gain" in planned and planned["kept_iteration"]:
        gained = {"gain_over_clone": planned["gain"]}
    elif "gain" in planned:
        gained = {"gain_over_clone": 0.0, "rejected_gain": planned["gain"]}
    return {
        **gained,
        "promise": planned["promise"],
        "expected_return": planned["expected"],
        "promise_halt_share": planned["halted_share"],
        "kept_iteration": planned["kept_iteration"],
    } | ({} if worth is None else {"clone_worth": worth})


def verdict_on(experiment: Experiment[Configs], learned: algorithm.Learned) -> Verdict | None:
    """Whether the policy can be relied on; None without a judge."""
    planned = learned.planned
    if "promise" not in planned or learned.judge is None:
        return None
    data = DataReturns.of(
        good_episodes.known_returns(experiment.data, experiment.task.max_episode_steps)
    )
    is_clone = planned["kept_iteration"] == 0
    of_clone = learned.start.get("centre") if is_clone else None
    advice = {} if is_clone else _ADVICE
    # A policy is kept only where it likely gains over its clone: that is no ground.
    return verdict.of(verdict.of_judgement(planned, data, learned.judge.error, advice, of_clone))


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
    if "promise" in numbers:
        lines.append(f"  promised, mean action{numbers['promise']:10.1f} or more")
        lines.append(f"  the result {numbers['verdict_in_words']}")
    return "\n".join([*lines, f"  export: {numbers['export']}"])
