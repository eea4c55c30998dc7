"""The summary of a MOPP or MBOP run, in numbers and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

from mopp_tf import config
from mopp_tf.experiment import panels
from mopp_tf.experiment.configs import Configs
from mopp_tf.planning import choice
from offline_tf.judging import good_episodes, verdict
from offline_tf.judging.verdict import DataReturns, Ground
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
    ("planner_reward", "models_missed", "reward_missed_by_models"),
    ("planner_reward", "task_missed", "reward_missed_by_task"),
    ("q", "mse", "value_mse"),
)


def summarize(
    experiment: Experiment[Configs], measured: dict[str, Any], judge_error: float | None = None
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened.

    Args:
      experiment: the run.
      measured: by the evaluation.
      judge_error: held-out error of the judge's models; None: there is no judge.
    """
    configs = experiment.configs
    return summary.write(
        experiment,
        algorithm=configs.run.algorithm,
        settings={
            "variant": variant(configs),
            "horizon": configs.knobs.planner.horizon,
            "planner_reward": _whose_reward(experiment),
        },
        results=measured | promises(experiment, judge_error),
        fitted=_fit_numbers(experiment.record.results()),
        in_words=in_words,
        report=panels.LAYOUT,
    )


def _whose_reward(experiment: Experiment[Configs]) -> str:
    """What the planner is paid by: a flag's, or the rule's; MBOP knows the models' alone."""
    configs = experiment.configs
    if configs.run.algorithm == "mbop":
        return "models"
    stage = experiment.record.stage("planner_reward")
    given = configs.planner.planner_reward
    return stage.result["chosen"] if given == "auto" else given


def promises(experiment: Experiment[Configs], judge_error: float | None) -> dict[str, Any]:
    """What the judge says of what was chosen, and a verdict on it; empty without a judge."""
    stage = experiment.record.stage(choice.STAGE)
    if not stage.complete or judge_error is None:
        return {}
    candidates, chosen = stage.result["candidates"], stage.result["chosen"]
    judged = experiment.record.stage(choice.PROMISE).result
    returns = DataReturns.of(
        good_episodes.known_returns(experiment.data, experiment.task.max_episode_steps)
    )
    # Candidates are compared over few steps; the data's returns are of whole episodes.
    limit = experiment.task.max_episode_steps
    compared = min(experiment.configs.choice.judge_plan_steps, limit)
    behind = -candidates[chosen]["gain"] * limit / compared
    found = verdict.of(grounds(chosen, judged, returns, behind, judge_error))
    return {
        "chosen": chosen,
        "promise": judged["promise"],
        "promise_expected": judged["expected"],
        "promise_halt_share": judged["halted_share"],
        **({"clone_worth": judged["worth"]} if "worth" in judged else {}),
        "gains": {name: numbers["gain"] for name, numbers in candidates.items()},
        "verdict": found.to_json(),
        "verdict_in_words": found.in_words(),
    }


def grounds(
    chosen: str,
    judged: dict[str, float],
    data: DataReturns,
    behind: float,
    judge_error: float,
) -> list[Ground]:
    """What the judge's roll-outs say of the chosen candidate.

    Args:
      chosen: its name.
      judged: the judge's numbers, see `choice.judged_by`.
      data: what its episodes earned.
      behind: how much less than the clone it may earn in an episode; negative where it surely earns
        more.
      judge_error: of the judge's models, held out.
    """
    found = [
        *verdict.of_judgement(judged, data, judge_error, {}, judged.get("worth_centre")),
        verdict.below_clone(behind, data.spread, "leave --plan=always out"),
    ]
    if chosen == choice.CLONE or "kept_share" not in judged:
        return found
    return [
        *found,
        verdict.ground(
            "pruned_share",
            1.0 - judged["kept_share"],
            doubtful=0.5,
            bad=0.8,
            words="share of the candidates that are pruned",
            advice="lower --sigma_max",
        ),
        verdict.ground(
            "fallback",
            judged["fallback"],
            doubtful=0.3,
            bad=0.7,
            words="share of the decisions where too few candidates are kept",
            advice="lower --sigma_max",
        ),
    ]


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


def _of_candidates(numbers: dict[str, Any]) -> str:
    """What became of the candidates; the clone's own path is the only one."""
    if numbers.get("chosen") == choice.CLONE:
        return (
            f"  nothing is planned, the clone acts; its next steps are unknown to the models in "
            f"{100 * numbers['fallback']:.0f} % of the decisions"
        )
    return (
        f"  kept {100 * numbers['kept_share']:.0f} % of the candidates, effective sample size "
        f"{numbers['effective_sample_size']:.0f}, fallback in {100 * numbers['fallback']:.0f} % "
        f"of the decisions"
    )


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
            _of_candidates(numbers),
            f"  a decision for all episodes at once took {numbers['decision_ms_median']:.0f} ms",
        ]
    if "promise" in numbers:
        lines += [
            f"  promised             {numbers['promise']:10.1f} or more, by {numbers['chosen']}",
            f"  the result {numbers['verdict_in_words']}",
        ]
    lines.append(f"  export: {numbers['export']}")
    return "\n".join(lines)
