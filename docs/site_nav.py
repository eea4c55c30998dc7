"""A hook of mkdocs: every page under docs/results/ stands in the navigation, index.md first."""

from __future__ import annotations

import pathlib
from typing import Any

_FOLDER = "results"


def on_config(config: Any) -> Any:
    """Puts the folder's pages in place of its index; a page's title is its first heading."""
    folder = pathlib.Path(config.docs_dir, _FOLDER)
    index = f"{_FOLDER}/index.md"
    pages = sorted(path.relative_to(config.docs_dir).as_posix() for path in folder.rglob("*.md"))
    others = [page for page in pages if page != index]
    for entry in config.nav if others else ():
        if entry == {"Results": index}:
            entry["Results"] = [index, *others]
    return config
