"""The pages hold together: links, the site's contents, paths and commands that are named."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from fedapp.cli.main import _make_parser
from fedapp.config.search import RESUME
from fedapp.core.files import CONF, ROOT
from tests.docs.execution import unfit, words_of
from tests.docs.reading import PAGES, Command, Mark, anchors, blocks, commands, links, prose, text_of

DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
COMMANDS = [command for page in PAGES for command in commands(page)]
NAMED = re.compile(r"`(?:python )?((?:fedapp|conf|perf|scripts|tests|docs|results)/[\w./-]+?)(?::{1,2}\w+)?`")


def leaves(node) -> list[str]:
    """The pages of a part of the site's contents."""
    if isinstance(node, str):
        return [node]
    return [leaf for part in (node.values() if isinstance(node, dict) else node) for leaf in leaves(part)]


def test_every_page_stands_once_in_the_contents_of_the_site():
    pages = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    assert sorted(leaves(SITE["nav"])) == pages


@pytest.mark.parametrize(
    "page", [*PAGES, DOCS / "first-run.ipynb"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_link_and_image_leads_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_file_that_a_page_names_is_there():
    gone = {
        (page.name, name)
        for page in PAGES
        for name in NAMED.findall(prose(text_of(page)))
        if not (ROOT / name).exists()
    }
    made_there = {
        name for _, name in re.findall(r"(`)((?:fedapp|conf)/[\w./-]+)`:\n", text_of(DOCS / "own-method.md"))
    }
    assert {name for _, name in gone} <= made_there | {"results/NAME.jsonl", "results/tuning/NAME.json"}


def test_the_reference_names_what_there_is():
    named = [
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert len(named) > 20
    for name in named:
        module, _, symbol = name.rpartition(".")
        path = ROOT / (name.replace(".", "/") + ".py")
        if not path.exists():
            tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
            made = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            assert symbol in made, name


def settings() -> set[str]:
    """Every place of ``conf/``, as it is written in an override."""

    def places(node, where: str) -> set[str]:
        below = node.items() if isinstance(node, dict) else ()
        return {where}.union(*(places(value, f"{where}.{key}".lstrip(".")) for key, value in below))

    found = places(yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8")), "")
    for path in CONF.glob("*/*.yaml"):
        found |= places(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent.name)
    return found


PLACES = settings() | {RESUME}
GROUPS = {path.name: {file.stem for file in path.glob("*.yaml")} for path in CONF.iterdir() if path.is_dir()}


def unknown(word: str) -> str:
    """What of an override is in no file of ``conf/``; empty if all is."""
    key, _, value = word.lstrip("+~").partition("=")
    if key in GROUPS:
        values = value.split(",")
        return next((f"{key}={one}" for one in values if one not in GROUPS[key] and "$" not in one), "")
    return "" if key in PLACES or word.startswith("+") or key.startswith("hydra") else key


def test_a_planted_command_of_each_wrong_kind_is_found():
    assert unknown("method=fedrft") == "method=fedrft"
    assert unknown("method=fedreft,fedavgg") == "method=fedavgg"
    assert unknown("num_round=3") == "num_round"
    assert unknown("adapter.rnk=3") == "adapter.rnk"
    assert [unknown(word) for word in ("method=fedreft,fedavg", "adapter.rank=3", "train.loss=labels")] == [
        ""
    ] * 3


@pytest.fixture(scope="module")
def parser():
    return _make_parser()


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_every_command_of_a_page_is_one_that_fedapp_takes(page, parser):
    for command in COMMANDS:
        if command.page == page:
            understood(command, parser)


def understood(command: Command, parser) -> None:
    """Fail unless the command line has this command, its options and its settings."""
    try:
        known, rest = parser.parse_known_args(command.words)
    except SystemExit:
        pytest.fail(command.line)
    given = vars(known)
    assert not [word for word in rest if word.startswith("-") or "overrides" not in given], command.line
    of_a_place = command.words[0] == "doctor" and command.words[1] in ("server", "party")
    for word in [*given.get("overrides", []), *rest][2 if of_a_place else 0 :]:
        assert unknown(word) == "", command.line


def test_every_command_is_executed_by_a_test_or_marked_why_not():
    """Those without a mark are what ``tests/slow/test_docs_commands.py`` executes."""
    left = {one.line: unfit(one) for one in COMMANDS if not one.mark.kind}
    assert {line: why for line, why in left.items() if why} == {}
    assert len(left) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_mark_stands_above_commands_and_is_true(page):
    marked = [(mark, body) for body, mark in blocks(text_of(page)) if mark.kind]
    assert len(marked) == len(re.findall(r"^<!-- (?:not|executed)\b", text_of(page), re.MULTILINE))
    for mark, body in marked:
        assert re.search(r"^fedapp ", body, re.MULTILINE), mark
        if mark.kind == "executed by":
            assert page.name in (ROOT / mark.text).read_text(encoding="utf-8"), mark
        else:
            assert len(mark.text.split()) > 3, f"{mark} is no reason"


def planted(text: str, tmp_path) -> list[Command]:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.docs.reading.ROOT", tmp_path)
        return commands(page)


def test_what_nobody_can_execute_is_refused_unless_it_is_marked(tmp_path):
    for line in (
        "site status",
        "run $C",
        "export <run>/a out",
        "site stop [RUN]",
        "compare WHERE",
        "run method=…",
    ):
        (one,) = planted(f"    fedapp {line}\n", tmp_path)
        assert unfit(one), line
    (one,) = planted("<!-- not executed: there is no server -->\n\n    fedapp site status\n", tmp_path)
    assert one.mark == Mark("not executed", "there is no server")
    assert planted("<!-- not checked: of another program -->\n```sh\nfedapp nothing\n```\n", tmp_path) == []


def test_a_mark_is_that_of_the_next_block_alone(tmp_path):
    text = "<!-- not executed: for want of time -->\n\n    fedapp list\n\nthen\n\n    fedapp list methods\n"
    assert [bool(one.mark.kind) for one in planted(text, tmp_path)] == [True, False]


def test_words_are_those_of_the_shell_with_the_variables_of_the_page(tmp_path):
    text = """
    C="seed=1,2,3
       num_rounds=2"
    H='by_client=["model=embedded adapter=lora"]'
    fedapp run --multirun $C "$H" 'benchmark.tasks=[piqa]' \\
      method=fedit   # why
    fedapp compare runs --format latex > table.tex
    fedapp compare RUN/x; fedapp list
    fedapp: error: there is no such thing; fedapp list shows what is
"""
    first, *others = planted(text, tmp_path)
    assert words_of(first) == [
        *("run", "--multirun", "seed=1,2,3", "num_rounds=2", 'by_client=["model=embedded adapter=lora"]'),
        *("benchmark.tasks=[piqa]", "method=fedit"),
    ]
    assert [words_of(one) for one in others] == [
        ["compare", "runs", "--format", "latex"],
        ["compare", "runs/20261126-101500/x"],
        ["list"],
    ]


def test_commands_are_found_in_all_their_forms():
    assert len(COMMANDS) > 80
    assert {"run", "budget", "compare", "report", "site", "export", "results"} <= {
        one.words[0] for one in COMMANDS
    }
    joined = next(one for one in COMMANDS if "model.path=/models/roberta-large" in one.line)
    assert joined.words[-1] == "num_clients=3"


def test_every_make_target_that_a_page_names_is_one():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text_of(page), re.M)) <= targets, page
