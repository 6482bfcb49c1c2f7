"""Prompts as turns of a chat, against the tokenizer's own ``apply_chat_template``."""

import numpy as np
import pytest

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.prompting import ZeroShot
from fedapp.adapters.reft.positions import Positions
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.training.decoding import newest_turns
from fedapp.training.tokens import IGNORE, Encoder
from tests import tiny_models

# As SmolLM2's, in the words of the tiny tokenizer: a system text, turns, an end of turn, a newline's like.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<x> w50 w51 <eos> w59 ' }}{% endif %}"
    "{% for message in messages %}{{ '<x> ' + {'user': 'w52', 'assistant': 'w53'}[message['role']] + ' ' "
    "+ message['content'] + ' <eos> w59 ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<x> w53 ' }}{% endif %}"
)
BEFORE = 7  # <x> w50 w51 <eos> w59 <x> w52


def base(template=TEMPLATE):
    made = tiny_models.base()
    made.tokenizer.chat_template = template
    return made


def chat(made, prompt, answer=None):
    turns = [{"role": "user", "content": prompt}]
    turns += [{"role": "assistant", "content": answer}] if answer else []
    ids = made.tokenizer.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=True)
    return list(ids["input_ids"] if not isinstance(ids, list) else ids)


@pytest.mark.parametrize("template", ["chat", "auto"])
def test_rows_are_those_of_the_template_token_by_token(template):
    made = base()
    encoder = Encoder(made, 48, 4, template)
    (row,) = encoder.examples([Example("w1 w2 w3", "w9 w8")])
    (asked,) = encoder.prompts(["w1 w2 w3"])
    assert asked.ids == chat(made, "w1 w2 w3") == row.ids[: row.prompt_length]
    whole = chat(made, "w1 w2 w3", "w9 w8")
    assert row.ids == whole[:-1]  # what follows the end of the turn is not learnt
    targets = encoder.batch([row]).targets[0].tolist()
    w9, w8 = made.tokenizer.convert_tokens_to_ids(["w9", "w8"])
    assert [token for token in targets if token != IGNORE] == [w9, w8, made.tokenizer.eos_token_id]
    assert row.answer_length == 2


def test_without_a_template_auto_is_plain_and_chat_is_refused():
    made = base(None)
    rows = [Encoder(made, 48, 4, name).examples([Example("w1 w2", "w9")]) for name in ("auto", "plain")]
    assert rows[0] == rows[1]
    with pytest.raises(ValueError, match=r"^train.template='chat': the tokenizer of this model has no chat"):
        Lora(rank=2).attach(made, TrainConfig(max_length=48, max_new_tokens=4, template="chat"), seed=0)
    with pytest.raises(ValueError, match="needs model.head=lm"):
        Encoder(tiny_models.base("Bert", labels=("a", "b")), 48, 4, "chat")
    with pytest.raises(ValueError, match=r"train.max_length=12 leaves no room.*template takes 11 tokens"):
        Encoder(base(), 12, 4, "chat")


def test_a_long_prompt_loses_the_start_of_the_users_words_and_nothing_of_the_template():
    made = base()
    words = " ".join(f"w{n}" for n in range(30))
    (row,) = Encoder(made, 24, 4, "chat").prompts([words])
    whole = chat(made, words)
    assert len(row.ids) == 20
    assert row.prompt_cut
    assert row.ids == whole[:BEFORE] + whole[-(20 - BEFORE) :]


def test_first_positions_are_the_users_words_and_last_ones_the_prompts_end():
    made = base()
    encoder = Encoder(made, 48, 4, "chat")
    for left in (False, True):
        batch = encoder.batch(encoder.prompts(["w1 w2 w3 w4", "w5 w6 w7 w8 w9 w10"]), left=left)
        lengths, starts = batch.prompt_lengths - batch.num_before, batch.offsets + batch.num_before
        places, is_last = Positions(2, 1).locate(lengths, starts, batch.input_ids.shape[1])
        tokens = made.tokenizer.convert_ids_to_tokens(batch.input_ids.flatten()[places].tolist())
        assert [t for t, last in zip(tokens, is_last, strict=True) if not last] == ["w1", "w2", "w5", "w6"]
        assert [t for t, last in zip(tokens, is_last, strict=True) if last] == ["w53", "w53"]


def test_a_conversation_is_the_templates_token_by_token_and_begins_with_the_users_last_words():
    made = base()
    encoder = Encoder(made, 48, 4, "chat")
    turns = ["w1 w2", "w8 w9", "w3 w4 w5"]
    row, left_out = newest_turns(encoder, turns)
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": said} for role, said in zip(roles, turns, strict=True)]
    whole = made.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert (row.ids, left_out) == (list(whole["input_ids"]), 0)
    assert made.tokenizer.convert_ids_to_tokens(row.ids[row.num_before :])[:3] == ["w3", "w4", "w5"]
    assert newest_turns(encoder, turns[-1:])[0] == encoder.prompts(turns[-1:])[0]


def test_turns_that_the_models_window_has_no_room_for_are_left_out_from_the_start():
    made = base()
    made.tokenizer.model_max_length = 40
    encoder = Encoder(made, 24, 4, "chat")  # the window counts, not what a row of the training may have
    turns = [f"w{n} w{n}" for n in range(7)]
    row, left_out = newest_turns(encoder, turns)
    assert left_out == 4
    assert row.ids == encoder.chat.conversation(turns[4:])[0]
    assert encoder.max_prompt < len(row.ids) <= 36 < len(encoder.chat.conversation(turns[2:])[0])
    words = " ".join(f"w{n}" for n in range(40))
    row, left_out = newest_turns(encoder, [*turns[:2], words])
    assert (row, left_out) == (encoder.prompts([words])[0], 2)


def test_label_words_are_chosen_behind_the_assistants_opening():
    import torch

    labels = ("w20", "w21", "w22")
    made = base().with_labels(labels)
    train = TrainConfig(max_length=48, max_new_tokens=4, answers="labels", template="chat")
    adapted = ZeroShot().attach(made, train, seed=0)
    prompts = [example.prompt for example in tiny_models.examples(6)]
    words = made.tokenizer.convert_tokens_to_ids(list(labels))
    with torch.no_grad():
        logits = [made.model(torch.tensor([chat(made, prompt)])).logits[0, -1] for prompt in prompts]
    assert adapted.generate(prompts) == [labels[int(one[words].argmax())] for one in logits]
    assert np.isfinite(adapted.loss([Example("w1", "w20")]))
