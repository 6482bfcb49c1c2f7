"""What stands in the pages: links, code, and commands as one would paste them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from fedapp.core.files import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
SHELLS = ("", "sh", "bash")
NOT_CHECKED = re.compile(r"<!-- not checked: .+? -->\n")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)(?: \{#([\w-]+)\})?$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A line of a page that begins with ``fedapp``.

    Attributes:
        page: The page's name.
        line: The whole command on one line.
        words: Its words behind ``fedapp``, without what a reader is to fill in (``…``, ``$C``).
    """

    page: str
    line: str
    words: tuple[str, ...]


def text_of(path: Path) -> str:
    """A page's Markdown; of a notebook that of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def prose(text: str) -> str:
    """A page without its fenced code."""
    return FENCE.sub("", text)


def links(path: Path) -> list[str]:
    """Targets of a page's links and images that lead to no other site."""
    found = LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text_of(path))))
    return [target for target in found if not re.match(r"\w+:", target)]


def anchors(path: Path) -> set[str]:
    """Names of a page's headings, as code hosts and MkDocs make them."""
    plain = [
        re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        for heading, _ in HEADING.findall(path.read_text())
    ]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


def code_lines(text: str) -> list[str]:
    """Lines of shell in a page: fenced without a language or as one of the shell's, or indented."""
    text = NOT_CHECKED.split(text)[0] + "".join(
        re.sub(r"\A\n*(?: {4}.*\n)+", "", part) for part in NOT_CHECKED.split(text)[1:]
    )
    fenced = [body for _, _, language, body in FENCE.findall(text) if language in SHELLS]
    indented = [line[4:] for line in prose(text).splitlines() if line.startswith("    ")]
    return re.sub(r"\\\n\s*", "", "\n".join([*fenced, *indented])).splitlines()


def commands(path: Path) -> list[Command]:
    """The ``fedapp`` commands of a page."""
    found = []
    for line in code_lines(text_of(path)):
        if match := re.match(r"(?:\w+=\S+ )*(?:python -m )?fedapp (.*)", line.strip()):
            words = shlex.split(match[1], comments=True)
            words = words[: next((k for k, word in enumerate(words) if word in (">", "|", "&")), None)]
            kept = tuple(word for word in words if "…" not in word and not re.fullmatch(r"\$\w+", word))
            found.append(Command(path.name, line.strip(), kept))
    return found
