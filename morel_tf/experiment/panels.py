"""What TensorBoard and reports show of a MOReL run: curves, numbers, and the words for them."""

from __future__ import annotations

from offline_tf.reports.report_layout import Layout, Line, Number, Panel
from offline_tf.reports.tensorboard import Chart

CHARTS = (
    Chart(
        "MOReL",
        "What the P-MDP promises (over the horizon, one update earlier) beside the truth (whole "
        "episodes); 95 % of the mean",
        margins=tuple(
            (f"{name}", f"{name}_low", f"{name}_high")
            for name in (
                "planning/evaluation/pmdp_return",
                "planning/evaluation/true_return_mean",
                "planning/evaluation/true_return_stochastic",
            )
        ),
    ),
    Chart("MOReL", "What the judge promises at least", (r"^planning/judge/(promise|expected)$",)),
    Chart("MOReL", "Share of paths that meet HALT", (r"^planning/halt_share$",)),
    Chart(
        "MOReL", "Steps until HALT, and length of paths", (r"^planning/(halt_step|path_length)$",)
    ),
    Chart("Update", "KL per update (nats)", (r"^planning/kl(_target)?$",)),
    Chart("Update", "Share of the natural step taken", (r"^planning/step_share$",)),
    Chart("Update", "Explained variance of the baseline", (r"^planning/explained_variance$",)),
    Chart("Update", "Log of the policy's noise", (r"^planning/log_std$",)),
    Chart(
        "Models",
        "Dynamics: loss and held-out error",
        (r"^dynamics(_fit)?/(loss|held_out_mse|training_rows_mse)$",),
    ),
    Chart("Models", "Disagreement along paths", (r"^planning/disagreement_(mean|max)$",)),
)

LAYOUT = Layout(
    panels=(
        Panel(
            "Return while planning (95 % of the mean)",
            "iteration",
            "return",
            (
                Line("P-MDP promises", "planning.evaluation", "pmdp_return"),
                Line("judge promises at least", "planning.judge", "promise"),
                Line("true, mean action", "planning.evaluation", "true_return_mean"),
                Line("true, stochastic", "planning.evaluation", "true_return_stochastic"),
            ),
        ),
        Panel(
            "Paths that meet HALT",
            "iteration",
            "share",
            (Line("HALT share", "planning", "halt_share"),),
        ),
        Panel(
            "Length of paths",
            "iteration",
            "steps",
            (Line("path", "planning", "path_length"), Line("until HALT", "planning", "halt_step")),
        ),
        Panel(
            "KL per update",
            "iteration",
            "nats",
            (Line("KL", "planning", "kl"), Line("target", "planning", "kl_target")),
        ),
        Panel(
            "Value baseline, share of the step",
            "iteration",
            "share",
            (
                Line("baseline: explained variance", "planning", "explained_variance"),
                Line("natural step taken", "planning", "step_share"),
            ),
        ),
        Panel(
            "Disagreement along paths",
            "iteration",
            "disagreement",
            (
                Line("mean", "planning", "disagreement_mean"),
                Line("largest", "planning", "disagreement_max"),
            ),
        ),
        Panel(
            "Dynamics: loss",
            "epoch",
            "loss",
            (
                Line("training", "dynamics", "loss"),  # of older runs
                Line("training", "dynamics_fit", "loss"),
            ),
        ),
        Panel(
            "Dynamics: error",
            "epoch",
            "standardised MSE",
            (
                Line("held out", "dynamics", "held_out_mse"),  # of older runs
                Line("held out", "dynamics_fit", "held_out_mse"),
                Line("training rows", "dynamics_fit", "training_rows_mse"),
            ),
        ),
    ),
    numbers=(
        Number("true_return_mean", "Return, final controller"),
        Number("true_return_stochastic", "Return, stochastic actions"),
        Number("normalized_score", "D4RL score"),
        Number("bc_return", "Return, behaviour cloning"),
        Number("behavior_return", "Return in the data"),
        Number("promise", "Judge promises at least"),
        Number("true_return_as_promised", "True, on the judge's terms"),
        Number("pmdp_return", "P-MDP promises"),
        Number("true_return_at_horizon", "True, same terms"),
        Number("known_share", "Actions known (share)"),
        Number("fqe_value", "Fitted Q evaluation"),
        Number("wall_seconds", "Seconds in all"),
    ),
)
