"""python -m offline_tf.doctor_environment: what this machine and this Python bring, and what is wrong.

Runs on a bare Python: it imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from offline_tf.machine import facts, verdict

USAGE = """
Prints versions (pinned and installed), devices, CPU, memory, rendering and caches, and what is wrong.
Exit code: 0 all that is needed is there, 1 something is missing or of another version.
"""


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m offline_tf.doctor_environment",
        description=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--part", choices=facts.PARTS, help="one part alone, in this process, as JSON"
    )
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(facts.one_part(options.part)))
        return 0
    report = facts.examine()
    print(json.dumps(report, indent=2) if options.json else verdict.in_words(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
