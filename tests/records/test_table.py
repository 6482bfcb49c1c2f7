"""What is printed fits a terminal of 80 columns; a pipe gets whole lines."""

import io

import pytest

from fedapp.cli.list import print_choices
from fedapp.records.table import name_tasks, print_notes, print_table, show_summary
from tests.federation import run_toy


class Terminal(io.StringIO):
    """A stream of 80 columns that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def _eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")


def test_tasks_are_counted_where_their_names_take_too_much_room():
    assert name_tasks(["sums"]) == "sums"
    assert name_tasks(["a", "b"]) == "a, b"
    assert name_tasks(["a-rather-long-name-of-one-task"]) == "a-rather-long-name-of-one-task"
    assert name_tasks(["arithmetic", "commonsense"]) == "2 tasks"


def test_a_table_that_fits_is_a_table_whose_numbers_are_whole():
    stream = Terminal()
    words = "a configuration with many words in it " * 3
    columns = ["configuration", *(f"number {i}" for i in range(5))]
    print_table(columns, [[words, *["123,456"] * 5]], stream, left=("configuration",))
    assert max(map(len, stream.lines())) <= 80
    assert stream.getvalue().count("123,456") == 5


def test_a_table_that_does_not_fit_becomes_lists():
    columns = ["configuration", *(f"number\n{i}" for i in range(9))]
    stream = Terminal()
    print_table(
        columns, [["method=x", *["1,234,567"] * 9], ["method=y", *["7"] * 9]], stream, left=columns[:1]
    )
    assert stream.lines()[:3] == ["method=x", "  number 0  1,234,567", "  number 1  1,234,567"]
    assert "method=y" in stream.lines()
    pipe = io.StringIO()
    print_table(columns, [["method=x", *["1,234,567"] * 9]], pipe, left=columns[:1])
    assert len([line for line in pipe.getvalue().splitlines() if "1,234,567" in line]) == 1


def test_a_run_and_a_list_fit(tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=1", "benchmark.num_tasks=8")
    stream = Terminal()
    show_summary(run.folder, stream)
    print_choices([], stream)
    lines = [line for line in stream.lines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    assert any("8 tasks" in line for line in lines)


def test_notes_break_between_words():
    stream = Terminal()
    print_notes(["word " * 40], stream)
    assert {word for line in stream.lines() for word in line.split()} == {"word"}
