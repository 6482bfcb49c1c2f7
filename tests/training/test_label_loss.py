"""``train.loss=labels``: cross entropy over the label words alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedapp.adapters.context.adapter import Context
from fedapp.adapters.lora.adapter import Lora
from fedapp.core.errors import RowError
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from tests import tiny_models

LABELS = ("w20", "w21", "w22")
TRAIN = TrainConfig(batch_size=4, max_length=24, max_new_tokens=4, answers="labels", loss="labels")


def examples(count):
    rng = np.random.default_rng(0)
    prompts = [e.prompt for e in tiny_models.examples(count)]
    drawn = [int(k) for k in rng.integers(3, size=count)]
    return [Example(prompt, LABELS[k], label=k) for prompt, k in zip(prompts, drawn, strict=True)]


def attached(kind, train=TRAIN):
    base = tiny_models.base().with_labels(LABELS)
    rng = np.random.default_rng(1)
    adapted = (Context(noise=0.0) if kind == "context" else Lora(rank=2)).attach(base, train, seed=0)
    shapes = adapted.shapes() | (adapted.frozen_shapes() if kind == "context" else {})
    drawn = {name: rng.normal(size=shape, scale=0.2) for name, shape in shapes.items()}
    adapted.load({name: value.astype(np.float32) for name, value in drawn.items()})
    return adapted


def by_hand(adapted, rows):
    """One prompt at a time: minus the log of the label's share among the label words."""
    words = adapted.base.tokenizer.convert_tokens_to_ids(list(LABELS))
    total = 0.0
    for example in rows:
        ids = torch.tensor([adapted.base.tokenizer(example.prompt)["input_ids"]])
        batch = adapted.trainer.encoder.batch(adapted.trainer.encoder.prompts([example.prompt]))
        with adapted.trainer._scope(batch):
            logits = adapted.base.model(input_ids=ids).logits[0, -1]
        total = total - torch.log(logits[words[example.label]].exp() / logits[words].exp().sum())
    return total


@pytest.mark.parametrize("kind", ["context", "lora"])
def test_loss_and_gradient_are_those_of_a_plain_loop_over_the_label_words(kind):
    adapted, rows = attached(kind), examples(6)
    trained = adapted.trainer._decayed + adapted.trainer._fixed
    batch = adapted.trainer.encoder.batch(adapted.trainer._rows(rows))
    with adapted.trainer._scope(batch):
        losses, count = adapted.trainer.losses(batch)
        mine = torch.autograd.grad(losses.sum(), trained)
    expected = by_hand(adapted, rows)
    theirs = torch.autograd.grad(expected, trained)
    assert count == batch.num_predictions == 6
    assert float(losses.detach().sum()) == pytest.approx(float(expected.detach()), abs=1e-4)
    assert adapted.loss(rows) == pytest.approx(float(expected.detach()) / 6, abs=1e-5)
    for got, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_give_the_step_of_the_whole():
    ends = []
    for parts in (1, 3):
        adapted = attached(
            "lora", replace(TRAIN, accumulation_steps=parts, max_grad_norm=0.0, learning_rate=1e-2)
        )
        adapted.train(examples(4), np.random.default_rng(0))
        ends.append(adapted.parameters())
    for name, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][name], atol=1e-5)


def test_it_teaches_to_choose_and_leaves_the_rest_of_the_vocabulary_alone():
    adapted = attached("lora", replace(TRAIN, learning_rate=0.05, num_epochs=10))
    rows = [Example(f"w{n} w{n + 1}", LABELS[n % 3], label=n % 3) for n in range(12)]
    before = adapted.loss(rows)
    adapted.train(rows, np.random.default_rng(0))
    assert adapted.loss(rows) < before / 2


def test_an_answer_that_is_no_label_word_is_refused_by_number():
    with pytest.raises(RowError, match=r"^example 1: its target is none of the label words"):
        attached("lora").loss([Example("w1", "w20", label=0), Example("w2", "w40", label=0)])


def test_a_model_that_writes_text_is_refused():
    with pytest.raises(ValueError, match=r"train.loss='labels' needs answers that are label words.*'text'"):
        Lora(rank=2).attach(tiny_models.base(), replace(TRAIN, answers="text"), seed=0)
    with pytest.raises(ValueError, match="classification head"):
        Lora(rank=2).attach(tiny_models.base("Bert", labels=("a", "b")), TRAIN, seed=0)
    with pytest.raises(ValueError, match="loss='words' must be one of"):
        replace(TRAIN, loss="words")
