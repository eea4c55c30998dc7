"""Frozen dataclasses to absl flags and back; the only place that touches absl.flags."""
