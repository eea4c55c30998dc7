"""A hook of mkdocs: the pages under docs/results/ in the navigation, flags in one piece."""

from __future__ import annotations

import pathlib
import re
from typing import Any

_FOLDER = "results"
# Code within text; blocks of code have an empty span before it.
_INLINE = re.compile(r"(?<!<span></span>)<code>([^<]+)</code>")
_LONGEST = 36  # characters that go onto the line of a telephone


def on_config(config: Any) -> Any:
    """Puts the folder's pages after its index, in the order of its links."""
    folder = pathlib.Path(config.docs_dir, _FOLDER)
    index = f"{_FOLDER}/index.md"
    pages = sorted(path.relative_to(config.docs_dir).as_posix() for path in folder.rglob("*.md"))
    links = (folder / "index.md").read_text()
    others = [page for page in pages if page != index]
    others.sort(key=lambda page: links.find(f"({pathlib.PurePath(page).name}"))
    for entry in config.nav if others else ():
        if entry == {"Results": index}:
            entry["Results"] = [index, *others]
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Keeps browsers from breaking a line within a flag or a name."""

    def whole(match: re.Match[str]) -> str:
        words = [
            f'<span class="whole">{word}</span>'
            if re.search("[-_]", word) and len(word) <= _LONGEST
            else word
            for word in match[1].split(" ")
        ]
        return f"<code>{' '.join(words)}</code>"

    return _INLINE.sub(whole, html)
