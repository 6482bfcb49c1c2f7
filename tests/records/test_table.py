"""What is printed fits a terminal of 80 columns; a pipe gets whole lines."""

import io

import pytest
from rich.cells import cell_len

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


def test_columns_that_do_not_fit_move_into_lines_below_their_row():
    columns = ["configuration", *(f"number\n{i}" for i in range(9))]
    stream = Terminal()
    words = "method=x and words that are folded over two lines"
    rows = [[words, *["1,234,567"] * 9], ["method=y", *["7"] * 9]]
    print_table(columns, rows, stream, left=columns[:1])
    lines = stream.lines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["configuration", *["number"] * 5]
    assert lines[1].split() == ["0", "1", "2", "3", "4"]
    assert set(lines[2]) == {"─"}
    assert lines[3].split() == ["method=x", "and", "words", "that", *["1,234,567"] * 5]
    assert lines[5] == "  number 5: 1,234,567 · number 6: 1,234,567 · number 7: 1,234,567 ·"
    assert lines[6:8] == ["  number 8: 1,234,567", ""]
    assert lines[8].split() == ["method=y", *["7"] * 5]
    assert lines[9] == "  number 5: 7 · number 6: 7 · number 7: 7 · number 8: 7"
    pipe = io.StringIO()
    print_table(columns, [["method=x", *["1,234,567"] * 9]], pipe, left=columns[:1])
    assert len([line for line in pipe.getvalue().splitlines() if "1,234,567" in line]) == 1


def test_wide_letters_keep_the_columns_straight():
    stream = Terminal()
    rows = [["方法", *["1"] * 9], ["ab", *["22"] * 9]]
    print_table(["name", *(f"a column {i}" for i in range(9))], rows, stream, left=["name"])
    table = [line for line in stream.lines() if line.endswith((" 1", " 22")) and ":" not in line]
    assert cell_len(table[0]) == cell_len(table[1])


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
