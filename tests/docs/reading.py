"""What stands in the pages: links, code, and commands as one would paste them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedapp.core.files import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
SHELLS = ("", "sh", "bash")
BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>\w*)\n(?P<fenced>.*?)^(?P=indent)(?P=fence)$"
    r"|(?P<indented>(?:^ {4}[^\n]*\n(?:\n(?= {4}))*)+)",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"<!-- (not checked|not executed|executed by): (.+?) -->\n+\Z")
ASSIGNED = re.compile(r"[A-Z]\w*=")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)(?: \{#([\w-]+)\})?$", re.MULTILINE)


class Mark(NamedTuple):
    """What a page says above a block: ``<!-- KIND: text -->``.

    Attributes:
        kind: ``not checked``: nothing of it is looked at; ``not executed``: no test runs it; ``executed by``:
            a test other than the one that runs every command does.
        text: The reason, or the test's file.
    """

    kind: str = ""
    text: str = ""


NO_MARK = Mark()


@dataclass(frozen=True)
class Command:
    """A line of a page that begins with ``fedapp``.

    Attributes:
        page: The page's path from the root of the repository.
        line: The whole command on one line.
        words: Its words behind ``fedapp``, without what a reader is to fill in (``…``, ``$C``).
        mark: What stands above its block.
        given: Lines of the page before it that give a shell variable its value.
    """

    page: str
    line: str
    words: tuple[str, ...]
    mark: Mark = NO_MARK
    given: tuple[str, ...] = ()


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


def blocks(text: str) -> list[tuple[str, Mark]]:
    """Blocks of shell in a page, in order: fenced without a language or as the shell's, or indented."""
    text += "\n"
    found = []
    for block in BLOCK.finditer(text):
        mark = MARK.search(text[: block.start()])
        if block["indented"] is not None:
            body = re.sub(r"^ {4}", "", block["indented"], flags=re.MULTILINE)
        elif block["language"] in SHELLS:
            body = block["fenced"]
        else:
            continue
        found.append((body, Mark(*mark.groups()) if mark else Mark()))
    return found


def code_lines(body: str) -> list[str]:
    """Lines of a block, each with all that the shell would read as one, and one for each of ``a; b``."""
    lines: list[str] = []
    for line in re.sub(r"\\\n\s*", "", body).splitlines():
        if lines and _is_open(lines[-1]):
            lines[-1] += " " + line.strip()
        else:
            line = line.strip()
            lines += re.split(r";\s+(?=fedapp )", line) if line.startswith("fedapp ") else [line]
    return lines


def _is_open(line: str) -> bool:
    """Whether a variable's value goes on in the next line."""
    return bool(ASSIGNED.match(line)) and line.count('"') % 2 == 1


def commands(path: Path) -> list[Command]:
    """The ``fedapp`` commands of a page, but for those that are not to be looked at."""
    found, given = [], []
    page = path.relative_to(ROOT).as_posix()
    for body, mark in blocks(text_of(path)):
        for line in code_lines(body) if mark.kind != "not checked" else ():
            if ASSIGNED.match(line) and " fedapp " not in line:
                given.append(line)
            if match := re.match(r"(?:\w+=\S+ )*(?:python -m )?fedapp (.*)", line):
                words = shlex.split(match[1], comments=True)
                words = words[: next((k for k, word in enumerate(words) if word in (">", "|", "&")), None)]
                kept = tuple(word for word in words if "…" not in word and not re.fullmatch(r"\$\w+", word))
                found.append(Command(page, line, kept, mark, tuple(given)))
    return found
