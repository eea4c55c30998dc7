"""What TensorBoard and reports show of a MOPP or MBOP run: curves, numbers, words for them."""

from __future__ import annotations

from offline_tf.reports.report_layout import Layout, Line, Number, Panel
from offline_tf.reports.tensorboard import Chart

CHARTS = (
    Chart("MOPP", "Share of candidates kept", (r"^evaluation/kept_share$",)),
    Chart("MOPP", "Share of decisions where too few were kept", (r"^evaluation/fallback$",)),
    Chart("MOPP", "Entropy of the weights (nats)", (r"^evaluation/weight_entropy$",)),
    Chart("MOPP", "Effective sample size", (r"^evaluation/effective_sample_size$",)),
    Chart("MOPP", "A decision for all episodes (ms)", (r"^evaluation/decision_ms$",)),
    Chart("MOPP", "Reward, and share of episodes alive", (r"^evaluation/(reward|alive)$",)),
    *(
        Chart("Models", title, (f"^{stage}/(loss|held_out|training_rows)$",))
        for title, stage in (
            ("Dynamics: loss and held-out loss", "dynamics_fit"),
            ("Behaviour: loss and held-out loss", "behavior_fit"),
            ("Q: loss and held-out error", "q_fit"),
        )
    ),
    Chart("Models", "Q: mean, and gap between the twins", (r"^q_fit/(mean|gap)$",)),
)

LAYOUT = Layout(
    panels=(
        Panel(
            "Candidates kept, fallback",
            "step of the episode",
            "share",
            (Line("kept", "evaluation", "kept_share"), Line("fallback", "evaluation", "fallback")),
        ),
        Panel(
            "Weights of the candidates",
            "step of the episode",
            "nats",
            (Line("entropy", "evaluation", "weight_entropy"),),
        ),
        Panel(
            "Reward per step",
            "step of the episode",
            "reward",
            (Line("reward", "evaluation", "reward"),),
        ),
        Panel(
            "A decision for all episodes",
            "step of the episode",
            "ms",
            (Line("decision", "evaluation", "decision_ms"),),
        ),
        Panel(
            "Dynamics: loss",
            "step",
            "loss",
            (
                Line("training", "dynamics_fit", "loss"),
                Line("held out", "dynamics_fit", "held_out"),
            ),
        ),
        Panel(
            "Behaviour model: loss",
            "step",
            "loss",
            (
                Line("training", "behavior_fit", "loss"),
                Line("held out", "behavior_fit", "held_out"),
            ),
        ),
        Panel(
            "Q: mean",
            "step",
            "value",
            (Line("mean", "q_fit", "mean"), Line("gap", "q_fit", "gap")),
        ),
    ),
    numbers=(
        Number("true_return_mean", "Return, final controller"),
        Number("normalized_score", "D4RL score"),
        Number("bc_return", "Return, behaviour cloning"),
        Number("behavior_return", "Return in the data"),
        Number("promise", "Promised by the judge, or more"),
        Number("kept_share", "Candidates kept (share)"),
        Number("fallback", "Fallback (share of decisions)"),
        Number("effective_sample_size", "Effective sample size"),
        Number("decision_ms_median", "A decision for all episodes (ms)"),
        Number("fqe_value", "Fitted Q evaluation"),
        Number("wall_seconds", "Seconds in all"),
    ),
)
