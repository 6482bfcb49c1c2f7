"""Options rated by likelihood: the option's own tokens behind the prompt, and nothing else."""

import numpy as np
import pytest
import torch

from fedapp.adapters.prompting import FewShot, ZeroShot
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.errors import RowError
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from tests import tiny_models

OPTIONS = ("w4", "w5 w6 w7", "w4 w4")
EXAMPLES = [Example("w1 w2 w3", "w4", options=OPTIONS), Example("w9", "w8", options=("w8", "w1 w2"))]


def by_hand(model, prompt, option):
    """Sum of log-probabilities, token by token, by the model's own forward pass."""
    encode = tiny_models.tokenizer()
    ids = encode(f"{prompt} {option}")["input_ids"]
    start = len(encode(prompt)["input_ids"])
    with torch.no_grad():
        shares = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(shares[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.mark.parametrize("adapter", [ZeroShot(), Reft(rank=2, positions="f1+l1")])
def test_ratings_are_sums_over_the_options_tokens_without_the_end(adapter):
    base = tiny_models.base()
    model = adapter.attach(base, TrainConfig(max_length=32, max_new_tokens=4), seed=1)
    with model.disabled():
        rated = model.rate_options(EXAMPLES)
    for example, ratings in zip(EXAMPLES, rated, strict=True):
        assert len(ratings) == len(example.options)
        wanted = [by_hand(base.model, example.prompt, option) for option in example.options]
        assert ratings == pytest.approx(wanted, abs=1e-4)
    model.detach()


def test_an_adapter_acts_on_the_prompts_of_options():
    base = tiny_models.base()
    model = Reft(rank=2, positions="l1").attach(base, TrainConfig(max_length=32, max_new_tokens=4), seed=1)
    model.load({n: v + 0.5 for n, v in model.parameters().items() if n.endswith("bias")})
    own = model.rate_options(EXAMPLES)
    with model.disabled():
        assert np.abs(np.array(model.rate_options(EXAMPLES)[0]) - np.array(own[0])).max() > 1e-2


def test_demonstrations_stand_before_the_prompts_of_options():
    base = tiny_models.base()
    model = FewShot(shots=1).attach(base, TrainConfig(max_length=32, max_new_tokens=4), seed=1)
    model.train([Example("w7", "w8")], np.random.default_rng(0))
    wanted = [by_hand(base.model, "w7 w8 w9", option) for option in EXAMPLES[1].options]
    assert model.rate_options(EXAMPLES[1:])[0] == pytest.approx(wanted, abs=1e-4)


def test_what_greedy_would_write_is_known():
    model = ZeroShot().attach(tiny_models.base(), TrainConfig(max_length=32, max_new_tokens=2), seed=1)
    (written,) = model.generate(["w1 w2"])
    encode = model.trainer.encoder
    for text, greedy in ((written, True), ("w1 w1", False)):
        (row,) = encode.__class__.examples(encode, [Example("w1 w2", text)])
        full = tiny_models.tokenizer()(f"w1 w2 {text}")["input_ids"]
        (rated,) = model.rate_rows([type(row)(full, row.prompt_length)])
        assert rated[1] is greedy


def test_an_option_that_does_not_fit_is_no_option():
    model = ZeroShot().attach(tiny_models.base(), TrainConfig(max_length=8, max_new_tokens=4), seed=1)
    long = Example("w1 w2 w3 w4", "w5", options=("w5", "w5 w5 w5 w5 w5"))
    with pytest.raises(RowError, match=r"an option of 5 tokens does not fit .* raise train\.max_length=8"):
        model.rate_options([long])
