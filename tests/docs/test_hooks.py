"""What is made of a page before MkDocs reads it."""

from types import SimpleNamespace

import pytest

from fedapp.core.files import ROOT
from scripts.docs_hooks import on_page_markdown

PAGE = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(ROOT / "docs" / "x.md"), src_uri="x.md"))


def test_a_link_out_of_the_docs_becomes_its_path_and_others_stay():
    assert on_page_markdown("see [how](../CONTRIBUTING.md).", PAGE) == "see how (`CONTRIBUTING.md`)."
    for text in ("[data](data.md)", "![page](../docs/images/report.png)", "[paper](https://arxiv.org/abs/1)"):
        assert on_page_markdown(text, PAGE) == text


def test_a_link_out_of_the_docs_that_leads_nowhere_ends_the_build():
    with pytest.raises(FileNotFoundError, match=r"x\.md: \.\./gone\.md is no file"):
        on_page_markdown("[gone](../gone.md)", PAGE)


def test_what_is_folded_away_is_read_as_markdown():
    assert (
        on_page_markdown("<details><summary>a</summary>", PAGE)
        == '<details markdown="1"><summary>a</summary>'
    )
