"""Test rows among a client's own training rows are counted and named, without what stands in them."""

import json
import logging

import pytest

from fedapp.client.repeats import Repeats, describe_repeats, warn_of_repeats
from fedapp.client.rows import ClientData
from fedapp.config.compose import load_config
from fedapp.core.types import Example
from fedapp.planning.preflight import check


def rows(*pairs):
    return tuple(Example(prompt, target, "a") for prompt, target in pairs)


DATA = ClientData(
    train=rows(("p1", "t1"), ("p2", "t2")),
    val=rows(("p3", "t3")),
    test=rows(("p1", "t1"), ("p1", "t1"), ("p2", "else"), ("p3", "t3"), ("new", "t1")),
)


def test_rows_and_prompts_of_train_and_validation_are_counted():
    assert Repeats.of(DATA) == Repeats(rows=3, prompts=1, test=5)
    assert Repeats.of(ClientData(DATA.train, DATA.val, rows(("new", "t1")))) == Repeats(0, 0, 1)


def test_one_line_names_clients_and_counts():
    found = {client: Repeats(client % 2, 0, 4) for client in range(20)}
    (text,) = describe_repeats(found)
    assert "(client 1: 1 of 4 in full, 0 by their prompt alone; client 3: " in text
    assert "and 5 clients more" in text
    assert describe_repeats({0: Repeats(0, 0, 4)}) == []
    assert "client 7: 0 of 4 in full, 2 by their prompt alone" in describe_repeats({7: Repeats(0, 2, 4)})[0]


def test_the_clients_own_log_has_it(caplog):
    with caplog.at_level(logging.WARNING, logger="fedapp.client"):
        warn_of_repeats(2, DATA)
        warn_of_repeats(3, ClientData(DATA.train, DATA.val, ()))
    assert len(caplog.records) == 1
    assert "client 2: 3 of 5" in caplog.text
    assert "p1" not in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_a_run_says_so_before_it_starts(tmp_path, known):
    (tmp_path / "a").mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"prompt": f"{n if known else (split, n)}", "target": "t"}) for n in range(8)]
        (tmp_path / "a" / f"{split}.jsonl").write_text("\n".join(lines))
    toy = ["model=toy", "adapter=toy", "benchmark=own", f"benchmark.data_dir={tmp_path}", "num_clients=1"]
    remarks = check(load_config(toy), with_model=False)
    assert [remark.count("client 0: 8 of 8 in full") for remark in remarks] == ([1] if known else [])
