"""A model that cannot say what it is to learn is refused, without a word of the rows."""

import pytest

from fedapp.client import serve as serving
from fedapp.client import workplace as workplaces
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.core.errors import RowError
from fedapp.planning import preflight
from fedapp.training.expression import Expression
from fedapp.wire.messages import Join
from tests import tiny_models


def accuracy(answers, targets):
    return {"accuracy": sum(a == t for a, t in zip(answers, targets, strict=True)) / len(targets)}


def expression(labels=(), answers="text", score=accuracy, head=()):
    base = tiny_models.base("Bert", labels=head) if head else tiny_models.base().with_labels(labels)
    return Expression(base, answers, str.strip, score)


def test_targets_that_are_all_unknown_are_refused_without_quoting_one():
    with pytest.raises(RowError) as caught:
        expression().require_targets(["diagnosis", "w1 secret"], "client 3")
    assert str(caught.value).startswith("client 3: this model's tokenizer can write none of its 2 training")
    assert "diagnosis" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "'diagnosis' comes back as ''" in caught.value.private


def test_targets_of_which_some_can_be_written_are_counted_and_go_on():
    some = expression()
    some.require_targets(["diagnosis", "w1 w2"], "client 0")
    assert some.lost_share(["diagnosis", "w1 w2", "w3", "w4"]) == 0.25
    assert some.lost_share([]) == 0.0


def test_a_metric_that_does_not_mind_what_is_lost_decides():
    def in_any_case(answers, targets):
        return accuracy([a.lower() for a in answers], [t.lower().replace("x ", "") for t in targets])

    expression(score=in_any_case).require_targets(["x w1"], "client 0")  # x is lost, and not looked at


def test_label_words_that_the_model_would_have_to_write():
    with pytest.raises(
        ValueError, match=r"^benchmark.labels: .* cannot write 'good' .*, 'bad' \(it comes back as ''\)"
    ):
        expression().require_labels(["good", "w1", "bad"])
    expression().require_labels(["w1", "w2"])
    # Where it chooses among them, or has a head, it writes nothing.
    expression(["good", "bad"], "auto").require_labels(["good", "bad"])
    expression(head=("good", "bad")).require_labels(["good", "bad"])


@pytest.fixture
def own_rows(tmp_path):
    """Overrides for rows whose targets the embedded model's tokenizer does not know."""
    (tmp_path / "task").mkdir()
    for split in ("train", "test"):
        rows = [
            f'{{"prompt": "the answer is", "target": "{chr(0x4E00 + i)}{chr(0x4E50 + i)}"}}'
            for i in range(16)
        ]
        (tmp_path / "task" / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return ["benchmark=own", f"benchmark.data_dir={tmp_path}", "num_clients=2", "engine=local"]


def test_preflight_and_the_client_refuse_before_training(own_rows):
    config = load_config(own_rows)
    with pytest.raises(
        ConfigError, match=r"client 0: this model's tokenizer can write none of its"
    ) as caught:
        preflight.check(config, with_model=True)
    assert any(chr(0x4E00 + i) in str(caught.value) for i in range(16))  # the rows are this user's own
    try:
        with pytest.raises(RowError, match="client 1") as caught:  # as it joins, so before any round
            serving.open_workplaces(Join(config.to_json()), (1,))
        assert not any(chr(0x4E00 + i) in str(caught.value) for i in range(16))
    finally:
        workplaces.close()
