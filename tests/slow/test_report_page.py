"""The report page in a real browser: every chart is drawn, by light and by dark, and nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedapp.cli.main import main
from tests.reporting.made_runs import named
from tests.reporting.test_page import full_run

pytestmark = pytest.mark.slow
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    root = tmp_path_factory.mktemp("page")
    full_run(root / "runs" / "a")
    full_run(root / "runs" / "b", config=named(method="ifed_icl"))
    assert main(["report", str(root / "runs"), "--out", str(root / "report.html")]) == 0
    return root


def browse(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    flags = [*FLAGS, f"--user-data-dir={root / 'profile'}", *words, (root / "report.html").as_uri()]
    return subprocess.run([str(BROWSER), *flags], capture_output=True, text=True, timeout=240, check=False)


def test_every_chart_is_drawn(pages):
    done = browse(pages, "--dump-dom")
    states = re.findall(r'<div class="chart[^>]*data-state="(\w+)"', done.stdout)
    assert len(states) == done.stdout.count("data-chart=") > 15
    assert set(states) == {"drawn"}, done.stderr
    widths = re.findall(r'<svg[^>]*class="marks" width="([\d.]+)"', done.stdout)
    assert len(widths) == len(states)
    assert min(map(float, widths)) > 50  # what is drawn without an error may still be nothing
    # Text of charts has the page's own colour, whichever that is.
    assert 'fill="currentColor"' in done.stdout
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []


def test_the_page_can_be_printed(pages):
    browse(pages, f"--print-to-pdf={pages / 'report.pdf'}")
    printed = (pages / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
    # Two figures side by side and a wide table: upright paper would cut off the table's last columns.
    width, height = map(float, re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", printed).groups())
    assert width > height
