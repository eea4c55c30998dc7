"""Speeds, tables and campaigns; see ARCHITECTURE.md."""

import offline_tf  # noqa: F401 (before numpy, see there)
from offline_tf import quiet_start

quiet_start.install()
