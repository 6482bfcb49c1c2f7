"""Every command of the pages that no mark exempts is executed: small, in a folder with what it speaks of."""

import io
import shutil
import sys
import webbrowser

import pytest

from fedapp.cli.runs import results
from tests.docs.execution import execute
from tests.docs.reading import PAGES, commands
from tests.docs.sandbox import furnish, make_sandbox

pytestmark = pytest.mark.slow
PRINT = ("run", "tune", "budget", "list", "compare", "report", "chat")
"""Commands that show what they found or made; others write files, and may say nothing."""
WHOLE = {page: [one for one in commands(page) if not one.mark.kind] for page in PAGES}


def in_ci(page):
    """A page's case; the tables' own commands are many, and all of one kind."""
    return pytest.param(page, id=page.stem, marks=[pytest.mark.long] if page.stem == "results" else [])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.fixture
def sandbox(prepared, tmp_path, monkeypatch):
    folder = shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(results, "ROOT", folder)
    monkeypatch.setattr(results, "RESULTS", folder / "results")
    monkeypatch.setattr(webbrowser, "open", lambda address: address.startswith("file:"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\n"))
    return folder


@pytest.mark.parametrize("page", [in_ci(page) for page, found in WHOLE.items() if found])
def test_the_commands_of_a_page_do_what_they_promise(page, sandbox, capsys):
    furnish(sandbox, page.stem)
    for command in WHOLE[page]:
        execute(command, sandbox)
        assert capsys.readouterr().out.strip() or command.words[0] not in PRINT, command.line
