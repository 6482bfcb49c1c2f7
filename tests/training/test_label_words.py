"""Label words as a tokenizer sees them after a prompt; zero-shot and few-shot prompts."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fedapp.adapters.context.adapter import Context
from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.prompting import FewShot, ZeroShot
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Decoding, Example
from fedapp.models.base import make_base
from fedapp.training.first_token import FirstTokenEncoder, FirstTokenTrainer
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=24, max_new_tokens=4, eval_batch_size=3, answers="auto")
LABELS = ("w1", "w2", "w3")


def bytes_base(labels):
    """A random GPT-2 with a byte-level tokenizer that knows some words with a blank in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["Sentiment: positive\n", "Sentiment: negative\n", "fine"] * 20, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    return replace(make_base(model, wrapped), labels=tuple(labels))


def test_label_words_take_the_blank_that_the_tokenizer_wants():
    base = bytes_base(["positive", "negative"])
    words = FirstTokenTrainer(base, TRAIN, decayed=[]).words
    names = base.tokenizer.convert_ids_to_tokens(words.of("Review: fine\nSentiment:"))
    assert [name[0] for name in names] == ["Ġ", "Ġ"]
    bare = base.tokenizer.convert_ids_to_tokens(words.of("Review: fine\nSentiment:\n"))
    assert not any(name.startswith("Ġ") for name in bare)
    assert (
        base.tokenizer.convert_ids_to_tokens(base.tokenizer("Sentiment: positive\n")["input_ids"])[-1] == "Ċ"
    )


def test_labels_that_begin_alike_are_named():
    base = bytes_base(["positive", "positives", "negative"])
    with pytest.raises(
        ValueError, match=r"'positive' and 'positives' begin with the same token 'Ġpos.*'"
    ) as caught:
        ZeroShot().attach(base, TRAIN, seed=0)
    assert "\n" not in str(caught.value)
    ZeroShot().attach(base, replace(TRAIN, answers="text"), seed=0)
    with pytest.raises(ValueError, match=r"benchmark\.labels=\['one'\] must hold at least 2"):
        ZeroShot().attach(bytes_base(["one"]), TRAIN, seed=0)
    with pytest.raises(ValueError, match=r"benchmark\.labels=\[\] must hold at least 2"):
        ZeroShot().attach(bytes_base([]), replace(TRAIN, answers="labels"), seed=0)
    with pytest.raises(ValueError, match=r"answers='yes' must be one of: auto, labels, text"):
        TrainConfig(answers="yes")


def test_label_words_that_the_tokenizer_does_not_know_are_named():
    base = tiny_models.base("Llama")
    with pytest.raises(
        ValueError, match="does not know 'zyx', 'wvu'; choose label words that it knows"
    ) as caught:
        ZeroShot().attach(replace(base, labels=("w1", "zyx", "wvu")), TRAIN, seed=0)
    assert "\n" not in str(caught.value)
    ZeroShot().attach(replace(base, labels=LABELS), TRAIN, seed=0)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for one in tiny_models.examples(count, seed=seed, longest=5):
        label = int(rng.integers(len(LABELS)))
        made.append(Example(one.prompt, LABELS[label], label=label))
    return made


def base():
    return replace(tiny_models.base(), labels=LABELS)


def first_token_logits(model, text):
    ids = torch.tensor([tiny_models.tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        return model(ids).logits[0, -1]


def test_zero_shot_chooses_the_likeliest_label_after_the_bare_prompt():
    where = base()
    adapted = ZeroShot().attach(where, TRAIN, seed=0)
    demos = examples(7)
    calls = []
    handle = where.model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert np.isnan(adapted.train(demos, np.random.default_rng(0)))
    assert calls == []  # nothing is trained, so nothing is scored
    handle.remove()
    assert adapted.parameters() == {}
    ids = [tiny_models.tokenizer()(label)["input_ids"][0] for label in LABELS]
    expected = [LABELS[int(first_token_logits(where.model, demo.prompt)[ids].argmax())] for demo in demos]
    assert adapted.generate([demo.prompt for demo in demos]) == expected
    injected = Context().attach
    adapted.detach()
    with_context = injected(where, TRAIN, seed=0)
    assert with_context.generate([demo.prompt for demo in demos]) == expected
    assert with_context.loss(demos) == pytest.approx(adapted.loss(demos), abs=1e-6)


@pytest.mark.parametrize("adapter", [Lora(rank=2), Reft("loreft", rank=2)], ids=["lora", "loreft"])
def test_what_is_trained_may_choose_among_label_words_too(adapter):
    where, demos = base(), examples(24)
    ids = [tiny_models.tokenizer()(label)["input_ids"][0] for label in LABELS]
    adapted = adapter.attach(where, replace(TRAIN, learning_rate=0.05, max_steps=4), seed=0)
    adapted.train(demos, np.random.default_rng(0))
    before = adapted.loss(demos)
    expected = []
    for demo in demos:
        encoded = [adapted.trainer.encoder.prompts([demo.prompt])[0]]
        batch = adapted.trainer.encoder.batch(encoded)
        with torch.no_grad(), adapted.trainer._scope(batch):
            logits = where.model(batch.input_ids).logits[0, -1]
        expected.append(LABELS[int(logits[ids].argmax())])
    assert adapted.generate([demo.prompt for demo in demos]) == expected
    assert len(set(expected)) > 1
    assert set(expected) <= set(LABELS)
    adapted.detach()
    plain = adapter.attach(where, replace(TRAIN, answers="text", learning_rate=0.05, max_steps=4), seed=0)
    plain.train(demos, np.random.default_rng(0))
    # How it answers changes nothing of what it learns.
    assert plain.loss(demos) == before
    texts = plain.generate([demo.prompt for demo in demos])
    assert texts != expected
    assert not set(texts) <= set(LABELS)


def test_label_words_are_drawn_as_often_as_their_shares_say():
    adapted = ZeroShot().attach(base(), replace(TRAIN, eval_batch_size=500), seed=0)
    prompt, words = "w5 w9", [tiny_models.tokenizer()(label)["input_ids"][0] for label in LABELS]
    logits = first_token_logits(adapted.base.model, prompt)[words]

    def drawn(temperature, top_p, seed=1):
        answers = adapted.generate([prompt] * 3000, Decoding(temperature, top_p, seed))
        return np.array([answers.count(label) for label in LABELS]) / 3000

    for temperature in (3.0, 20.0):
        expected = (logits / temperature).softmax(-1).numpy()
        np.testing.assert_allclose(drawn(temperature, 1.0), expected, atol=0.04)
    np.testing.assert_array_equal(drawn(20.0, 1.0), drawn(20.0, 1.0))
    assert (drawn(20.0, 1.0) != drawn(20.0, 1.0, seed=2)).any()
    # The likeliest word alone holds more than a hundredth.
    assert drawn(20.0, 0.01).max() == 1.0
    least = (logits / 20).softmax(-1).numpy()
    kept = drawn(20.0, 1 - least.min() - 0.01)
    assert (kept > 0).sum() == 2
    assert kept[least.argmin()] == 0


def test_the_ending_of_a_prompt_is_found_in_no_time():
    words = FirstTokenTrainer(base(), TRAIN, decayed=[]).words
    asked = []
    words._encoder.examples = lambda examples: (
        asked.extend(examples) or FirstTokenEncoder.examples(words._encoder, examples)
    )
    for prompt in ("w1 w2", "w7 w2", "w1 w2\n", "w2", " " * 5, ""):
        words.of(prompt)
    assert len(asked) == 4 * len(LABELS)  # "w2", "w2\n", blanks, nothing
    started = time.perf_counter()
    words.of("漢" * 60_000 + " x")
    words.of(" " * 60_000 + "x")
    assert time.perf_counter() - started < 5  # quadratic work takes half a minute


def test_few_shot_puts_its_demonstrations_in_front():
    where = base()
    adapted = FewShot(shots=1).attach(where, TRAIN, seed=0)
    demos = examples(9)
    assert np.isnan(adapted.train(demos, np.random.default_rng(0)))
    text = bytes(adapted.parameters()["demonstrations"]).decode()
    shown = text.split("\0")
    assert len(shown) == len({demo.label for demo in demos})
    assert {one.split()[-1] for one in shown} == {demo.target for demo in demos}
    rest = [demo for demo in demos if f"{demo.prompt} {demo.target}\n" not in shown]
    prompt = "w5 w9"
    logits = first_token_logits(where.model, "".join(shown) + prompt)
    ids = [tiny_models.tokenizer()(label)["input_ids"][0] for label in LABELS]
    assert adapted.generate([prompt]) == [LABELS[int(logits[ids].argmax())]]
    by_hand = [
        -float(first_token_logits(where.model, "".join(shown) + demo.prompt).log_softmax(-1)[ids[demo.label]])
        for demo in rest
    ]
    assert adapted.loss(rest) == pytest.approx(np.mean(by_hand), abs=1e-4)
    with adapted.disabled():
        assert adapted._behind_demonstrations([prompt]) == [prompt]


def test_few_shot_keeps_to_the_context_by_whole_demonstrations():
    adapted = FewShot(shots=50, context_length=40).attach(base(), TRAIN, seed=0)
    adapted.train(examples(60), np.random.default_rng(0))
    count = len(adapted._chosen)
    for prompt in ("w1", "w1 w2 w3 w4 w5 w6 w7 w8 w9"):
        (text,) = adapted._behind_demonstrations([prompt])
        tokens = len(tiny_models.tokenizer()(text)["input_ids"])
        kept = text.count("\n")
        assert 0 < kept < count
        assert tokens <= 36 < tokens + max(len(d.split()) for d in adapted._chosen) + kept + 2
        assert text == "".join(adapted._chosen[count - kept :]) + prompt
    long = " ".join(["w1"] * 80)
    assert adapted._behind_demonstrations([long]) == [long]


def test_demonstrations_survive_a_client_s_memory():
    adapted = FewShot(shots=2).attach(base(), TRAIN, seed=0)
    adapted.train(examples(12), np.random.default_rng(1))
    state, answers = adapted.parameters(), adapted.generate(["w4 w5", "w7"])
    adapted.reset()
    assert adapted.parameters() == {}
    adapted.load(state)
    assert adapted.generate(["w4 w5", "w7"]) == answers
    assert list(adapted.parameters()) == ["demonstrations"]
    with pytest.raises(ValueError, match="unknown parameter 'weight'"):
        adapted.load({"weight": np.zeros(2, np.float32)})
    with pytest.raises(ClientFailure, match="no training examples"):
        adapted.train([], np.random.default_rng(0))


def test_encoders_are_refused_and_told_what_fits():
    encoder = tiny_models.base("Bert", labels=("no", "yes"))
    for adapter in (ZeroShot(), FewShot()):
        with pytest.raises(ValueError, match=r"needs a causal language model.*loreft and lora fit"):
            adapter.attach(encoder, TRAIN, seed=0)
