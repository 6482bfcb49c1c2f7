"""What ``generate`` is told: nothing is drawn where nobody asked for samples."""

from types import SimpleNamespace

import pytest
import torch

from fedapp.core.types import Decoding
from fedapp.training.decoding import generation_config, seeded


def base(**checkpoint):
    """A base whose checkpoint came with generation settings of its own."""
    own = SimpleNamespace(**{"eos_token_id": [2, 7], "do_sample": True, "temperature": 0.6, **checkpoint})
    return SimpleNamespace(
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
    with seeded(base(), decoding):
        inside = torch.rand(1)
    if decoding is None:
        assert inside == expected[0]
    else:
        assert torch.rand(1) == expected[0]
        torch.manual_seed(3)
        assert inside == torch.rand(1)
