"""Parts of a documentation page that a command writes, between two lines that mark them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from offline_tf.run_folder import files


def markers(name: str) -> tuple[str, str]:
    """The lines before and behind a part."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put(page: pathlib.Path, name: str, lines: Sequence[str]) -> None:
    """Writes lines between the markers of a part.

    Raises:
      SystemExit: there is no such page, or it has none.
    """
    begin, end = markers(name)
    if not page.is_file():
        raise SystemExit(f"expected a page at {page}, found none")
    text = page.read_text()
    if begin not in text or end not in text:
        raise SystemExit(f"{page}: expected the lines {begin} and {end}")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    with files.whole(page) as partial:
        partial.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))
