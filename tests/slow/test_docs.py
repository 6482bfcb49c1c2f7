"""The site is built without a warning, and the commands of the pages compose."""

import re
import subprocess
import sys

import pytest

from fedapp.config.compose import load_config
from fedapp.config.sweep import combinations
from fedapp.core.files import ROOT
from tests.docs.reading import PAGES, commands

pytestmark = pytest.mark.slow
OF_A_SWEEP = ("sweep", "hydra/", "hydra.", "resume=")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="pip install 'fedapp[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_built_without_a_warning_and_holds_the_reference(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES) - 2
    assert "leave_one_out" in pages["api/aggregation.html"]
    assert "Raises" in pages["api/fedapp.html"]


def test_a_page_of_the_site_loads_nothing_from_another_host(site):
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text()) == [], page


def test_the_settings_of_every_command_compose():
    whole = [
        one for page in PAGES for one in commands(page) if not set("…$(") & set(one.line.partition(" #")[0])
    ]
    found = {
        tuple(word for word in one.words[1:] if "=" in word and not word.startswith(("-", *OF_A_SWEEP)))
        for one in whole
        if one.words[0] in ("run", "budget", "tune")
        and "._target_=" not in one.line  # a class of one's own, which only its owner admits
    }
    assert len(found) > 30
    for words in found:
        load_config(combinations(list(words))[0])
