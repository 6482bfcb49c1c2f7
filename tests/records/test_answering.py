"""By which rule a run's models answer, read from its config."""

import pytest

from fedapp.records.answering import answering_of

AUTO, TEXT = {"train": {"answers": "auto"}}, {"train": {"answers": "text"}}


@pytest.mark.parametrize(
    ("config", "labelled", "rule"),
    [
        (AUTO, True, "label words"),
        (AUTO, False, "free text"),
        (TEXT, True, "free text"),
        ({"train": {"answers": "labels", "template": "plain"}}, True, "label words"),
        ({"train": {"answers": "auto", "template": "chat"}}, True, "label words, template chat"),
        ({**AUTO, "model": {"head": "classification"}}, True, "classification head"),
        ({}, True, "free text"),
        ({**AUTO, "by_client": ["x", ""], "client_configs": {"x": TEXT}}, True, "free text / label words"),
        ({**TEXT, "benchmark": {"scoring": "loglikelihood"}}, False, "likeliest option"),
        ({**AUTO, "by_client": ["x"], "client_configs": {"x": TEXT}}, True, "free text"),
    ],
)
def test_the_rule_by_config(config, labelled, rule):
    assert answering_of(config, labelled) == rule
