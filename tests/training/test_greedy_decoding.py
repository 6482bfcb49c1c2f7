"""How answers are drawn where samples are asked for, and that nothing is drawn where they are not."""

from types import SimpleNamespace

import pytest
import torch

from fedapp.core.types import Decoding
from fedapp.training.decoding import generation_config, seeded
from fedapp.training.label_words import _drawn


def base(**checkpoint):
    """A base whose checkpoint came with generation settings of its own."""
    own = SimpleNamespace(**{"eos_token_id": [2, 7], "do_sample": True, "temperature": 0.6, **checkpoint})
    return SimpleNamespace(
        generation="plain",
        tokenizer=SimpleNamespace(eos_token_id=2, pad_token_id=0),
        model=SimpleNamespace(generation_config=own),
        device=torch.device("cpu"),
    )


def test_without_a_decoding_the_likeliest_token_is_taken():
    settings = generation_config(base(), 5, None)
    assert (settings.do_sample, settings.num_beams) == (False, 1)
    assert (settings.max_new_tokens, settings.pad_token_id) == (5, 0)
    assert settings.eos_token_id == [2, 7]


def test_samples_are_drawn_as_asked_from_the_whole_vocabulary():
    settings = generation_config(base(), 5, Decoding(0.7, 0.9, seed=3))
    assert (settings.do_sample, settings.temperature, settings.top_p) == (True, 0.7, 0.9)
    assert settings.top_k == 0


@pytest.mark.parametrize("decoding", [None, Decoding(1.0, 1.0, seed=3)])
def test_samples_follow_their_seed_and_greedy_answers_seed_nothing(decoding):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(base(), decoding.seed if decoding else None):
        inside = torch.rand(1)
    if decoding is None:
        assert inside == expected[0]
    else:
        assert torch.rand(1) == expected[0]
        torch.manual_seed(3)
        assert inside == torch.rand(1)


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.2, 0.5, 0.3]),
        (1.0, 0.6, [0.0, 0.625, 0.375]),  # 0.5 falls short of the share, 0.5 + 0.3 crosses it
        (1.0, 0.5, [0.0, 1.0, 0.0]),
        (0.5, 1.0, [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]),  # squares of the shares
    ],
)
def test_label_words_are_drawn_from_the_likeliest_that_make_up_the_share(temperature, top_p, expected):
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(20_000, 3)
    torch.manual_seed(0)
    drawn = torch.bincount(_drawn(logits, Decoding(temperature, top_p, seed=0)), minlength=3) / 20_000
    torch.testing.assert_close(drawn, torch.tensor(expected), atol=0.015, rtol=0)
