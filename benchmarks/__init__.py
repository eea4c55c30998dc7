"""Speeds, tables and campaigns; see ARCHITECTURE.md."""

import offline_tf  # noqa: F401 (before numpy, see there)
