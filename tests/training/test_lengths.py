"""What is too long is cut by one rule in training and evaluation, with a count in the log."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from fedapp.adapters.context.adapter import Context
from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.prompting import FewShot, ZeroShot
from fedapp.adapters.reft.adapter import Reft
from fedapp.adapters.reft.positions import Positions
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models.base import make_base
from fedapp.training.tokens import IGNORE, Encoder
from tests import tiny_models

CONFIG = TrainConfig(max_length=12, max_new_tokens=4, batch_size=1, learning_rate=1e-3)
LONGEST = 12 - 4
PROMPTS = [" ".join(tiny_models.WORDS[:count]) for count in range(16)]
EOS = 1
LABELS = ("w50", "w51")
KINDS = {
    "lora": (Lora(rank=2), {}),
    "loreft": (Reft("loreft", rank=2, positions="f2+l2"), {}),
    "label words": (Lora(rank=2), {"labels": LABELS, "answers": "auto"}),
    "zero_shot": (ZeroShot(), {}),
    "few_shot": (FewShot(shots=2, context_length=16), {}),
    "context": (Context(), {"labels": LABELS, "answers": "auto"}),
    "encoder": (Lora(rank=2), {"head": "Bert"}),
    "decoder with a head": (Lora(rank=2), {"head": "Llama"}),
}


def words(count, first=0):
    return " ".join(tiny_models.WORDS[first : first + count])


def ids(text):
    return tiny_models.tokenizer()(text)["input_ids"]


def attached(kind):
    adapter, said = KINDS[kind]
    base = tiny_models.base(said.get("head", "Llama"), labels=LABELS if "head" in said else ())
    base = base.with_labels(said.get("labels", ()))
    adapted = adapter.attach(base, replace(CONFIG, answers=said.get("answers", "text")), seed=1)
    if kind == "few_shot":
        adapted.train([Example("w30", "w31"), Example("w32", "w33")], np.random.default_rng(0))
    return adapted


def first_tokens(model, run):
    """The tokens of the first row that passes through a model, padding left out."""
    seen = []

    def look(_model, _args, given):
        row, mask = given["input_ids"][0], given.get("attention_mask")
        seen.append(row.tolist() if mask is None else row[mask[0].bool()].tolist())

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    run()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_any_length_is_the_same_in_training_and_evaluation(kind):
    adapted = attached(kind)
    limit = 12 if "head" in KINDS[kind][1] else 12 if kind == "few_shot" else LONGEST
    for prompt in PROMPTS:
        example = Example(prompt, "w50 w51 w52", label=1)
        asked = first_tokens(adapted.base.model, lambda p=prompt: adapted.generate([p]))
        assert 1 <= len(asked) <= limit
        assert len(asked) >= min(len(ids(prompt)), limit)
        runs = [lambda e=example: adapted.loss([e])]
        if kind in ("lora", "loreft", "label words", "encoder", "decoder with a head"):
            runs.append(lambda e=example: adapted.train([e], np.random.default_rng(0)))
        for run in runs:
            learned = first_tokens(adapted.base.model, run)
            assert learned[: len(asked)] == asked
            assert learned[len(asked) :] in ([], [*ids("w50 w51 w52"), EOS])


def test_an_intervention_edits_the_same_tokens_in_training_and_evaluation():
    encoder = Encoder(tiny_models.base(), 12, 4)
    examples = [Example(prompt, words(1 + n % 3, 50)) for n, prompt in enumerate(PROMPTS)]
    found = []
    batches = encoder.batch(encoder.examples(examples)), encoder.batch(encoder.prompts(PROMPTS), left=True)
    for batch in batches:
        width = batch.input_ids.shape[1]
        edited, last = Positions(3, 2).locate(batch.prompt_lengths, batch.offsets, width)
        tokens = batch.input_ids.flatten()[torch.from_numpy(edited)].tolist()
        found.append(sorted(zip((edited // width).tolist(), last.tolist(), tokens, strict=True)))
    assert found[0] == found[1]
    assert len(found[0]) > 50


def test_the_end_of_a_long_prompt_is_what_stays():
    encoder = Encoder(tiny_models.base(), 8, 4)
    (row,) = encoder.examples([Example(words(9, 1), "w20 w21")])
    assert row.ids == [*ids("w6 w7 w8 w9 w20 w21"), EOS]
    (prompt,) = encoder.prompts([words(9, 1)])
    assert prompt.ids == ids("w6 w7 w8 w9")


@pytest.mark.parametrize("prompt", [0, 1, 7, 8, 9, 15])
def test_an_answer_that_fits_has_its_end_and_one_that_is_cut_has_none(prompt):
    encoder = Encoder(tiny_models.base(), 12, 4)
    for length in range(15):
        answer = words(length, 30)
        (row,) = encoder.examples([Example(words(prompt), answer)])
        taken = min(max(prompt, 1), LONGEST)  # an empty prompt still has a start
        room = 12 - taken
        assert row.prompt_length == taken
        targets = encoder.batch([row]).targets[0]
        assert (targets[:taken] == IGNORE).all()
        assert targets[taken:].tolist() == [*ids(answer), EOS][:room]
        assert row.answer_cut == (length + 1 > room) == (EOS not in targets.tolist())
        assert row.prompt_cut == (prompt > LONGEST)


def closing(kind):
    """A tokenizer that adds special tokens by itself, or pads with its end of sequence."""
    made = tiny_models.tokenizer()
    made.add_special_tokens({"bos_token": "<x>"})
    frames = {"bos": "<x> $A", "eos": "$A <eos>", "both": "<x> $A <eos>", "eos first": "<eos> $A"}
    if kind in frames:
        special = [("<x>", 3), ("<eos>", EOS)]
        made._tokenizer.post_processor = TemplateProcessing(single=frames[kind], special_tokens=special)
    if kind == "padding ends":
        made.pad_token = "<eos>"
    return made


@pytest.mark.parametrize(
    ("kind", "start"),
    [("plain", []), ("bos", [3]), ("eos", []), ("both", [3]), ("eos first", [EOS]), ("padding ends", [])],
)
def test_whatever_a_tokenizer_adds_there_is_one_end_behind_the_answer(kind, start):
    base = make_base(tiny_models.model("Llama"), closing(kind))
    encoder = Encoder(base, 12, 4)
    asked = [
        Example(words(3), "w30"),
        Example("", "w30 w31"),
        Example(words(2), "w30 <eos>"),
        Example("w1", ""),
    ]
    asked.append(Example("w1 <eos>", "w30"))  # the end of an earlier turn, say: it belongs to the prompt
    rows = encoder.examples(asked)
    batch = encoder.batch(rows)
    for index, (example, row) in enumerate(zip(asked, rows, strict=True)):
        (alone,) = encoder.prompts([example.prompt])
        known = [*start, *ids(example.prompt)] or [base.tokenizer.bos_token_id]
        assert row.ids[: row.prompt_length] == alone.ids == known
        learned = [token for token in batch.targets[index].tolist() if token != IGNORE]
        assert learned == [*ids(example.target.replace(" <eos>", "")), EOS]
        assert int(batch.attention_mask[index].sum()) == len(known) + len(learned)


def test_the_log_counts_what_is_cut_once_and_quotes_nothing(caplog):
    adapted = Lora(rank=2).attach(tiny_models.base(), CONFIG, seed=1)
    rows = [Example(words(p, 10), words(a, 40)) for p, a in [(3, 2), (9, 2), (8, 4), (3, 6), (9, 9), (2, 4)]]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            adapted.train(rows, np.random.default_rng(0))
            adapted.generate([words(9), words(2)])
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[0] for text in said] == [
        "2 of 6 prompts lose their start",
        "2 of 6 answers do not fit behind their prompts in 12 tokens",
        "2 of 6 answers have more than 4 tokens, at which evaluation stops",
        "1 of 2 prompts lose their start",
    ]
    assert "more than 8 tokens (12 in all" in said[0]
    assert "train.max_new_tokens=4" in said[0]
    assert not any(f"w{number}" in text for text in said for number in range(60))


def test_nothing_is_said_where_all_fits_and_a_classifier_counts_texts(caplog):
    with caplog.at_level(logging.WARNING):
        adapted = Lora(rank=2).attach(tiny_models.base(), CONFIG, seed=1)
        adapted.train([Example(words(8), words(3, 30))], np.random.default_rng(0))
        adapted.generate([words(8)])
        classifier = attached("encoder")
        classifier.loss([Example(words(12), "", label=0)])
        assert caplog.records == []
        classifier.loss([Example(words(12), "", label=0), Example(words(13), "", label=1)])
    (record,) = caplog.records
    assert record.getMessage().startswith("1 of 2 texts lose their end: they have more than 12 tokens")
