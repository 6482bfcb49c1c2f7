"""Greedy is the likeliest token each time, whatever a checkpoint would like."""

import pytest
import torch
from transformers import GenerationConfig

from fedapp.adapters.lora.adapter import Lora
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Decoding
from tests import tiny_models

CONFIG = TrainConfig(max_length=48, max_new_tokens=8, eval_batch_size=4)
PROMPTS = [" ".join(tiny_models.WORDS[i : i + 2 + i % 5]) for i in range(12)]
SAMPLING = {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5}
WISHES = [
    SAMPLING,
    {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
    {"min_new_tokens": 8, "suppress_tokens": list(range(4, 40)), "max_length": 3},
    {"num_beams": 4, "length_penalty": 3.0, "do_sample": False, "bad_words_ids": [[5], [6]]},
]


def by_hand(model, text):
    ids, tokenizer = tiny_models.tokenizer()(text)["input_ids"], tiny_models.tokenizer()
    new = []
    with torch.no_grad():
        for _ in range(8):
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
            if new[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(new, skip_special_tokens=True).strip()


def adapted():
    return Lora(rank=2).attach(tiny_models.base(), CONFIG, seed=1)


def test_a_greedy_answer_is_the_likeliest_token_each_time():
    model = adapted()
    answers = model.generate(PROMPTS)
    assert answers == [by_hand(model.base.model, prompt) for prompt in PROMPTS]
    assert len(set(answers)) > 6


@pytest.mark.parametrize("wishes", WISHES, ids=["sampling", "repetition", "length", "beams"])
def test_a_checkpoints_own_generation_settings_change_no_answer(wishes):
    model = adapted()
    drawn = Decoding(1.0, 1.0, seed=3)
    expected, expected_drawn = model.generate(PROMPTS), model.generate(PROMPTS, drawn)
    own = GenerationConfig(eos_token_id=1, **wishes)
    model.base.model.generation_config = own
    assert model.generate(PROMPTS) == expected
    assert model.generate(PROMPTS, drawn) == expected_drawn
    assert model.base.model.generation_config is own


def test_a_checkpoint_may_name_more_ends_of_a_sequence():
    model = adapted()
    longest = max(model.generate(PROMPTS), key=lambda text: len(set(text.split())))
    first, second = list(dict.fromkeys(longest.split()))[:2]
    end = tiny_models.tokenizer().convert_tokens_to_ids(second)
    prompt = PROMPTS[model.generate(PROMPTS).index(longest)]
    model.base.model.generation_config = GenerationConfig(eos_token_id=[end, 1])
    (answer,) = model.generate([prompt])
    assert answer.split()[0] == first
    assert len(answer.split()) < len(longest.split())
