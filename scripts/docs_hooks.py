"""What the pages of docs/ need beside Markdown to become a site; mkdocs.yml names this file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Out of docs/: such a link leads to the file in a checkout, and nowhere on the site.
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+([^)#\s]+))(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite a page's Markdown before MkDocs reads it.

    Args:
        markdown: The page as it stands in docs/.
        page: MkDocs' page; its file says where it lies.

    Returns:
        The page with links to files outside docs/ as their paths, and with what ``<details>`` folds
        away read as Markdown, as code hosts do.

    Raises:
        FileNotFoundError: If a link outside docs/ leads to no file.
    """
    folder = Path(page.file.abs_src_path).parent

    def path_of(link: re.Match[str]) -> str:
        if not (folder / link[2]).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {link[2]} is no file")
        return f"{link[1]} (`{link[3]}`)"

    return OUTSIDE.sub(path_of, markdown).replace("<details>", '<details markdown="1">')
