"""TensorBoard's dashboards for a run: charts that belong together, and the table of runs (HParams)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_session
from tensorboard.plugins.hparams import summary_v2 as hparams

from offline_tf.run_folder.record import RunRecord


class Chart(NamedTuple):
    """Scalars in one picture.

    Attributes:
      group, title: words.
      tags: regular expressions of the scalars' names.
      margins: (value, lower, upper) names of scalars with intervals; such a chart has no tags.
    """

    group: str
    title: str
    tags: tuple[str, ...] = ()
    margins: tuple[tuple[str, str, str], ...] = ()


def _message(chart: Chart) -> layout_pb2.Chart:
    if chart.margins:
        series = [
            layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
            for value, lower, upper in chart.margins
        ]
        content = layout_pb2.MarginChartContent(series=series)
        return layout_pb2.Chart(title=chart.title, margin=content)
    return layout_pb2.Chart(
        title=chart.title, multiline=layout_pb2.MultilineChartContent(tag=list(chart.tags))
    )


def show_charts(record: RunRecord, charts: Sequence[Chart]) -> None:
    """Lays out the dashboard "Custom Scalars"; charts of one group stand together, in order."""
    groups = list(dict.fromkeys(chart.group for chart in charts))
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=group, chart=[_message(chart) for chart in charts if chart.group == group]
            )
            for group in groups
        ]
    )
    with record.writer.as_default(step=0):
        tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout).SerializeToString())
    record.writer.flush()


def show_run(record: RunRecord, flags: dict[str, Any], metrics: dict[str, float]) -> None:
    """Puts a finished run into the dashboard "HParams".

    It has a folder of its own, so that the dashboard's columns are these metrics and no others,
    and runs of different algorithms share one table.

    Args:
      record: the run.
      flags: name -> value; those without one are left out.
      metrics: name -> number.
    """
    values = {
        name: value if isinstance(value, bool | int | float | str) else ",".join(map(str, value))
        for name, value in flags.items()
        if value is not None and value != ""
    }
    writer = tf.summary.create_file_writer(str(record.folder / "tensorboard" / "hparams"))
    with writer.as_default(step=0):
        hparams.hparams(values, trial_id=record.folder.name)
        for name, number in metrics.items():
            tf.summary.scalar(f"result/{name}", number)
        ended = hparams_session.session_end_pb(api_pb2.STATUS_SUCCESS)
        tf.summary.experimental.write_raw_pb(ended.SerializeToString())
    writer.close()


def as_table(flags: dict[str, Any]) -> str:
    """Flags as a Markdown table."""
    rows = [f"| --{name} | `{value}` |" for name, value in flags.items()]
    return "\n".join(["| flag | value |", "|---|---|", *rows])
