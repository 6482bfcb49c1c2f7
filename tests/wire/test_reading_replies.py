"""What a message may say: names from a list, numbers in their range, lengths and counts with an end."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedapp.core.payload import Payload
from fedapp.wire.limits import DEFAULT, WireError
from fedapp.wire.messages import Done, Failed, Join, Joined, Row, Work
from fedapp.wire.ranges import score_range
from fedapp.wire.reading import peek_done, read_done, read_join, read_joined, read_work
from fedapp.wire.records import Envelope, pack
from tests.server_side import ROW, body, done_facts, raw_records


def read(facts, phase="train", texts=None, limits=DEFAULT):
    records = raw_records(body(facts, texts=texts))
    found = read_done(records, 1, 1, phase, limits)
    assert peek_done(records, 1, 1, phase, limits) == found or texts
    return found


def row(**changed):
    return {**ROW, **{name.replace("_", "-"): value for name, value in changed.items()}}


def without(name):
    return {key: value for key, value in ROW.items() if key != name}


LABELLED = {**ROW, "model": "final", "accuracy": 0.5, "label-counts": [[6, 2, 2], [3, 4, 3]]}


def test_counts_and_the_digest_of_a_final_model_are_read_as_they_were_written():
    row = {**LABELLED, "model-digest": "0123456789abcdef"}
    (found,) = read(done_facts(rows=[row]), phase="evaluate").rows
    assert found.counts == ((6, 2, 2), (3, 4, 3))
    assert found.digest == "0123456789abcdef"
    assert found.facts() == row


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([[6, 2, 2]], "must be a list for each of 2 to 64 labels"),
        ([[1, 0]] * 65, "must be a list for each of 2 to 64 labels"),
        ({"a": 1}, "must be a list for each of 2 to 64 labels"),
        ([[6, 2, 2], [3, 7]], "must be lists of 3 numbers each"),
        ([[6, 2, 2], "3 4 3"], "must be lists of 3 numbers each"),
        ([[6, 2, 2], [3, 4.0, 3]], "must be whole numbers from 0 to num-examples=20"),
        ([[6, 2, 2], [3, 4, True]], "must be whole numbers from 0 to num-examples=20"),
        ([[26, 2, 2], [3, 4, -17]], "must be whole numbers from 0 to num-examples=20"),
        ([[6, 2, 2], [3, 4, 2]], "count 19 rows, and num-examples=20"),
        ([[7, 1, 2], [3, 4, 3]], "have 11 of 20 right, and accuracy=0.5"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, said):
    with pytest.raises(WireError, match=f"malformed scores: label-counts {said}"):
        read(done_facts(rows=[{**LABELLED, "label-counts": counts}]), phase="evaluate")


@pytest.mark.parametrize("digest", ["0123", "0123456789ABCDEF", "\x1b[2J", 7, None, ["0123456789abcdef"]])
def test_a_digest_that_is_none_is_refused(digest):
    with pytest.raises(WireError, match="malformed scores: model-digest"):
        read(done_facts(rows=[{**LABELLED, "model-digest": digest}]), phase="evaluate")


def test_an_honest_reply_is_read_as_it_was_written():
    done = read(done_facts())
    assert isinstance(done, Done)
    assert done.rows == (Row("test", "own", "after", 20, {"loss": 1.5, "accuracy": 0.5}),)
    assert (done.num_examples, done.sizes.tasks, done.seconds) == (60, ("t",), 0.5)
    assert read(json.loads(json.dumps(done_facts()))) == done


WRONG = {
    "no split": done_facts(rows=[without("split")]),
    "unknown split": done_facts(rows=[row(split="train")]),
    "split as list": done_facts(rows=[row(split=["test"])]),
    "unknown model": done_facts(rows=[row(model="\x1b[2J")]),
    "final while training": done_facts(rows=[row(model="final")]),
    "unknown moment": done_facts(rows=[row(moment="later")]),
    "cpu seconds negative": done_facts(**{"cpu-seconds": -1.0}),
    "score as text": done_facts(rows=[row(accuracy="high")]),
    "score as flag": done_facts(rows=[row(accuracy=True)]),
    "score as list": done_facts(rows=[row(accuracy=[0.5])]),
    "score above 1": done_facts(rows=[row(accuracy=9.0)]),
    "score below 0": done_facts(rows=[row(accuracy=-0.5)]),
    "score nan": done_facts(rows=[row(accuracy=float("nan"))]),
    "score inf": done_facts(rows=[row(accuracy=float("inf"))]),
    "coefficient below -1": done_facts(rows=[row(**{"matthews-correlation": -1.5})]),
    "loss nan": done_facts(rows=[row(loss=float("nan"))]),
    "loss inf": done_facts(rows=[row(loss=float("inf"))]),
    "loss negative": done_facts(rows=[row(loss=-1.0)]),
    "loss 1e308": done_facts(rows=[row(loss=1e308)]),
    "own client": done_facts(rows=[row(client_id=0)]),
    "own round": done_facts(rows=[row(server_round=3)]),
    "rows of nothing": done_facts(rows=[row(num_examples=-1)]),
    "rows of too many": done_facts(rows=[row(num_examples=2**39)]),
    "too many rows": done_facts(rows=[ROW] * 65),
    "rows of lists": done_facts(rows=[[]]),
    "long name": done_facts(rows=[row(**{"a" * 10_000_000: 0.5})]),
    "name with escapes": done_facts(rows=[row(**{"acc\x1b[2J": 0.5})]),
    "no name": done_facts(rows=[row(**{"": 0.5})]),
    "too many scores": done_facts(rows=[row(**{f"s{n}": 0.5 for n in range(100)})]),
    "metric 10**400": done_facts(metrics={"train-loss": 10**400}),
    "metric -10**400": done_facts(metrics={"x": -(10**400)}),
    "metric 1e308": done_facts(metrics={"x": 1e308}),
    "metric nan": done_facts(metrics={"x": float("nan")}),
    "loss of training negative": done_facts(metrics={"train-loss": -1.0}),
    "metric null": done_facts(metrics={"x": None}),
    "metrics as list": done_facts(metrics=[1.0]),
    "name of metric": done_facts(metrics={"x\u202e": 1.0}),
    "tasks as number": done_facts(about={"tasks": 5}),
    "tasks of numbers": done_facts(about={"tasks": [5]}),
    "long task": done_facts(about={"tasks": ["a" * 10_000]}),
    "many tasks": done_facts(about={"tasks": ["a"] * 10_001}),
    "rows as text": done_facts(about={"train": "60"}),
    "rows below 0": done_facts(about={"train": -1}),
    "parameters 10**300": done_facts(about={"parameters": 10**300}),
    "unknown about": done_facts(about={"colour": 1}),
    "about as list": done_facts(about=[]),
    "seconds nan": done_facts(seconds=float("nan")),
    "seconds negative": done_facts(seconds=-1),
    "seconds as text": done_facts(seconds="1"),
    "examples 2**39": done_facts(num_examples=2**39),
    "examples 0": done_facts(num_examples=0),
    "examples 10**4000": done_facts(num_examples=10**4000),
    "examples 60.0": done_facts(num_examples=60.0),
    "another client": done_facts(2),
    "client as flag": done_facts(True),
    "another round": done_facts(server_round=2),
    "round as list": done_facts(server_round=[1]),
    "failure as list": done_facts(failure=["x"] * 1000),
    "failure null": done_facts(failure=None),
}


@pytest.mark.parametrize("facts", WRONG.values(), ids=WRONG)
def test_a_reply_that_says_something_wrong_is_refused_in_a_short_printable_line(facts):
    with pytest.raises(WireError) as caught:
        read(facts)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_what_is_wrong_is_named():
    for name, said in {
        "score above 1": "malformed scores: accuracy=9.0 must be a number from 0 to 1",
        "examples 2**39": "num-examples=549755813888, more than max_examples=1000000",
        "unknown split": "split 'train' is none of validation, test",
        "long name": "one is called 'aaaa",
    }.items():
        with pytest.raises(WireError, match=said):
            read(WRONG[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [("accuracy", 1.0000001), ("accuracy", 0), ("matthews-correlation", -1.0), ("loss", 0.0), ("loss", 1e30)],
)
def test_numbers_at_the_ends_of_their_range_are_taken(name, value):
    done = read(done_facts(rows=[row(**{name: value})], metrics={"upload-bytes-saved": -12.0}))
    assert done.rows[0].scores[name] == value


def test_an_evaluation_scores_what_is_evaluated_and_an_opening_nothing():
    assert read(done_facts(rows=[row(model="final")]), "evaluate").rows[0].model == "final"
    with pytest.raises(WireError, match="model 'own' is none of current, final"):
        read(done_facts(), "evaluate")
    with pytest.raises(WireError, match="malformed scores"):
        read(done_facts(), "open")


def test_every_metric_of_the_benchmarks_lies_in_its_range():
    from fedapp.benchmarks.metrics import METRICS

    rng = np.random.default_rng(1)
    for name, metric in METRICS.items():
        low, high = score_range(name)
        values = [
            metric(rng.choice(list("12"), 6).tolist(), rng.choice(list("12"), 6).tolist()) for _ in range(9)
        ]
        ends = [metric(["1", "2"], ["2", "1"]), metric(["1", "2"], ["1", "2"])]
        assert all(low <= value <= high for value in values), name
        assert ends == pytest.approx([low, high]), name


def test_records_must_be_those_of_the_format():
    records = raw_records(body(done_facts()))
    records["more"] = ConfigRecord({"x": b"1" * 100})
    with pytest.raises(WireError, match="record 'more' that is not of the format"):
        read_done(records, 1, 1, "train")


def test_a_failure_is_one_printable_line_of_limited_length():
    failed = read(done_facts(failure="no\x1b[2J\n\u202edata" + "x" * 5_000_000))
    assert isinstance(failed, Failed)
    assert failed.reason.startswith(r"no\x1b[2J \u202edataxxx")
    assert len(failed.reason) == 600


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"clients": "0"}, "which clients it holds"),
        ({"clients": [True]}, "which clients it holds"),
        ({"clients": [10**30]}, "which clients it holds"),
        ({"clients": [0, 0]}, "more than once"),
        ({"clients": [0]}, "which base model"),
        ({"clients": [0], "fingerprints": ["x" * 1000], "examples": [1]}, "which base model"),
        ({"clients": [0], "fingerprints": ["x"]}, "how many training rows"),
        ({"clients": [0], "fingerprints": ["x"], "examples": [-1]}, "how many training rows"),
        ({"clients": [0, 1], "fingerprints": ["x"], "examples": [1]}, "of each client"),
        (
            {"clients": [3], "fingerprints": ["x"], "examples": [2**39]},
            "client 3 says .* max_examples=1000000",
        ),
        ({"clients": [0], "failure": 5}, "no text"),
    ],
)
def test_a_node_that_joins_in_a_wrong_way_is_refused(facts, said):
    with pytest.raises(WireError, match=said):
        read_joined(raw_records(body(facts)))


def test_a_node_that_joins_says_clients_base_models_and_rows():
    joined = Joined((0, 4), ("a", "b"), (60, 7))
    assert read_joined(joined.pack()) == joined
    assert read_joined(Failed("no data", (2,)).pack()) == Failed("no data", (2,))


CONFIG = '{"a": 1}'


def work_facts(**changed):
    facts = {"config": CONFIG, "client-id": 1, "server-round": 2, "phase": "train"}
    facts |= {"fingerprint": "f", "final": False}
    return {**facts, **{name.replace("_", "-"): value for name, value in changed.items()}}


@pytest.mark.parametrize(
    "facts",
    [
        work_facts(config=None),
        work_facts(config="{"),
        work_facts(config="[" * 3000 + "]" * 3000),
        work_facts(config="[" + "1," * 200_000 + "1]"),
        work_facts(fingerprint="f" * 10_000_000),
        work_facts(fingerprint=5),
        work_facts(final="x" * 10_000_000),
        work_facts(phase="x" * 10_000_000),
        work_facts(phase=["train"]),
        work_facts(client_id="x" * 10_000_000),
        work_facts(client_id=10**4000),
        work_facts(server_round=-1),
    ],
)
def test_a_client_checks_the_servers_message_and_does_not_repeat_it_at_length(facts):
    with pytest.raises(WireError) as caught:
        read_work(raw_records(body(facts)))
    assert len(str(caught.value)) < 200


def test_a_client_refuses_a_download_that_is_not_finite_and_a_config_it_cannot_parse():
    work = Work(CONFIG, 1, 2, "train", None, False, Payload({"w": np.ones(2, np.float32)}))
    assert read_work(work.pack()).download.arrays["w"].tolist() == [1, 1]
    content = pack(Envelope(work_facts(), Payload({"w": np.array([1, np.nan], np.float32)})))
    with pytest.raises(WireError, match="its values in 'w' are not finite"):
        read_work(content)
    assert read_join(Join(CONFIG).pack()) == Join(CONFIG)
    with pytest.raises(WireError, match="nests deeper"):
        read_join(Join("[" * 100 + "]" * 100).pack())
