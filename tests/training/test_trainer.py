import math

import numpy as np
import pytest
import torch

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.errors import RowError
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.training.tokens import IGNORE, Encoder
from tests import tiny_models

TRAIN = {"batch_size": 4, "max_length": 48, "max_new_tokens": 4, "learning_rate": 1e-2}
ADAPTERS = {
    "reft": Reft(rank=3, positions="f2+l2"),
    "lora": Lora(rank=2),
}
EOS = 1


def attach(kind="reft", base=None, **settings):
    return ADAPTERS[kind].attach(base or tiny_models.base(), TrainConfig(**{**TRAIN, **settings}), seed=1)


def ids(text, base):
    return base.tokenizer(text)["input_ids"]


def test_the_answer_starts_where_the_prompt_ends_and_closes_with_eos():
    base = tiny_models.base()
    (row,) = Encoder(base, 48, 4).examples([Example("w1 w2 w3", "w9 w8")])
    assert row.ids == [*ids("w1 w2 w3 w9 w8", base), EOS]
    assert row.prompt_length == 3
    batch = Encoder(base, 48, 4).batch([row])
    assert batch.targets.tolist() == [[IGNORE] * 3 + [*ids("w9 w8", base), EOS]]


def test_a_leading_special_token_survives_the_cut():
    base = tiny_models.base()
    (row,) = Encoder(base, 8, 4).prompts(["<eos> w1 w2 w3 w4 w5"])
    assert row.ids == [EOS, *ids("w3 w4 w5", base)]


def test_a_tokenizer_that_merges_across_the_boundary_gets_prompt_and_answer_apart():
    base = tiny_models.base()
    # Here a blank is no boundary: the prompt "w1" and its answer "w2" give the one unknown word "w1w2".
    (row,) = Encoder(base, 48, 4).examples([Example("w1", "w2")])
    assert row.prompt_length == 1

    class Merging:
        def __getattr__(self, name):
            return getattr(base.tokenizer, name)

        def __call__(self, text, **options):
            texts = [text] if isinstance(text, str) else text
            rows = base.tokenizer([one.replace(" ", "") for one in texts], **options)["input_ids"]
            return {"input_ids": rows[0] if isinstance(text, str) else rows}

    encoder = Encoder(base, 48, 4)
    encoder._tokenizer = Merging()
    (row,) = encoder.examples([Example("w1", "w2")])
    assert row.ids == [*ids("w1 w2", base), EOS]


def test_small_sets_are_tokenised_once_and_cannot_be_spoilt_by_the_caller(monkeypatch):
    encoder = Encoder(tiny_models.base(), 48, 4)
    counted = []
    tokenise = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda rows: counted.append(len(rows)) or tokenise(rows))
    sets = [[Example(f"w{n}", "w9")] * size for n, size in enumerate((3, 3, 3, 3, 3, 600))]
    first = encoder.examples(sets[0])
    first.clear()
    assert encoder.examples(list(sets[0])) == tokenise(sets[0])
    assert counted == [3]
    for rows in [*sets, sets[5], sets[1], sets[0]]:  # five small sets: one too many to remember
        encoder.examples(rows)
    assert counted == [3, 3, 3, 3, 3, 600, 600, 3]


def test_no_room_for_a_prompt_is_refused_at_attach():
    with pytest.raises(ValueError, match=r"train.max_new_tokens=48 leaves no room"):
        attach(max_new_tokens=48)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_objective_is_transformers_own_loss(kind):
    adapted = attach(kind)
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.examples(tiny_models.examples(5)))
    with torch.no_grad(), adapted.disabled():
        losses, count = adapted.trainer.losses(batch)
        theirs = adapted.base.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets
        ).loss
    assert float(losses.sum() / count) == pytest.approx(float(theirs), abs=1e-6)


def test_the_loss_is_per_example_whatever_the_batch_size():
    examples = tiny_models.examples(7)
    together, apart = attach(), attach(eval_batch_size=2)
    assert together.loss(examples) == pytest.approx(apart.loss(examples), abs=1e-5)
    singles = [together.loss([example]) for example in examples]
    assert together.loss(examples) == pytest.approx(sum(singles) / 7, abs=1e-5)


def test_a_batch_of_prompts_is_answered_like_each_prompt_alone():
    adapted = attach()
    adapted.train(tiny_models.examples(12), np.random.default_rng(0))
    prompts = [example.prompt for example in tiny_models.examples(9, seed=2)]
    assert len({len(prompt.split()) for prompt in prompts}) > 3
    assert adapted.generate(prompts) == [adapted.generate([prompt])[0] for prompt in prompts]
    assert adapted.generate([]) == []


@pytest.mark.parametrize("kind", ADAPTERS)
def test_training_repeats_bit_for_bit_and_depends_on_the_rng(kind):
    ends = []
    for seed in (3, 3, 4):
        adapted = attach(kind)
        loss = adapted.train(tiny_models.examples(10), np.random.default_rng(seed))
        ends.append((loss, adapted.parameters()))
    assert ends[0][0] == ends[1][0]
    assert all(np.array_equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
    assert any(not np.array_equal(ends[0][1][name], ends[2][1][name]) for name in ends[0][1])


def test_training_leaves_the_global_random_numbers_alone():
    adapted = attach()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    adapted.train(tiny_models.examples(4), np.random.default_rng(0))
    assert torch.equal(torch.rand(3), expected)


def test_max_steps_caps_a_round(monkeypatch):
    adapted = attach(num_epochs=5, max_steps=3)
    steps = []
    original = adapted.trainer.step
    monkeypatch.setattr(adapted.trainer, "step", lambda *a: steps.append(a[0]) or original(*a))
    adapted.train(tiny_models.examples(10), np.random.default_rng(0))
    assert [len(batch.input_ids) for batch in steps] == [4, 4, 2]


def test_the_step_size_warms_up_and_falls_to_zero_after_the_last_step():
    linear = TrainConfig(warmup_ratio=0.2, schedule="linear")
    assert [linear.step_size(step, 10) for step in range(10)] == pytest.approx(
        [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert [TrainConfig().step_size(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_loss_that_is_not_finite_fails_the_client_and_steps_nothing(kind, monkeypatch):
    adapted = attach(kind)
    start = adapted.parameters()
    original = adapted.trainer.losses
    monkeypatch.setattr(adapted.trainer, "losses", lambda batch: (original(batch)[0] * math.nan, 1))
    said = r"diverged at step 1 of 2 \(the loss is nan\): lower train.learning_rate \(now 0.01\)"
    with pytest.raises(ClientFailure, match=said) as caught:
        adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)


def test_a_gradient_that_is_not_finite_fails_the_client_and_steps_nothing():
    adapted = attach()
    start = adapted.parameters()
    adapted.weight.register_hook(lambda grad: grad * math.inf)
    said = r"at step 1 of 1 \(the gradient is not finite\): lower train.learning_rate \(now 0.01\)"
    with pytest.raises(ClientFailure, match=said):
        adapted.train(tiny_models.examples(4), np.random.default_rng(0))
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("num_examples", [4, 12])
def test_a_step_size_beyond_reason_is_named(kind, num_examples):
    adapted = attach(kind, learning_rate=1e30)
    said = r"training diverged at step \d of \d .*: lower train.learning_rate \(now 1e\+30\)"
    with pytest.raises(ClientFailure, match=said) as caught:
        adapted.train(tiny_models.examples(num_examples), np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_a_client_without_examples_fails_by_name():
    with pytest.raises(ClientFailure, match="no training examples"):
        attach().train([], np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one example"):
        attach().loss([])


def test_the_gradient_norm_is_clipped(monkeypatch):
    norms = []

    def spy(optimizer, *args, **kwargs):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    for limit in (0.0, 0.25):
        attach(max_grad_norm=limit).train(tiny_models.examples(4), np.random.default_rng(0))
    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(0.25, rel=1e-3)


def test_only_trainable_tensors_get_gradients_and_the_base_keeps_its_bits():
    base = tiny_models.base()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    adapted = attach(base=base)
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    assert all(value.grad is None for value in base.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", ["Bert", "Roberta", "Llama"])
def test_a_classifier_learns_its_head_and_answers_with_labels(kind, name):
    base = tiny_models.base(name, labels=("no", "yes"))
    adapted = attach(kind, base, num_epochs=30, learning_rate=3e-2)
    examples = [Example(f"w{i} w{20 + i} w5", "", label=i % 2) for i in range(8)]
    assert any(n.startswith("head.") for n in adapted.parameters())
    adapted.train(examples, np.random.default_rng(0))
    assert adapted.generate([e.prompt for e in examples]) == ["no", "yes"] * 4
    end = adapted.parameters()
    adapted.reset()
    adapted.load(end)
    assert adapted.generate([e.prompt for e in examples]) == ["no", "yes"] * 4


@pytest.mark.parametrize("label", [None, 2, -1])
def test_an_example_without_a_label_is_refused_by_a_classifier_and_its_words_stay(label):
    adapted = attach(base=tiny_models.base("Bert", labels=("no", "yes")))
    with pytest.raises(RowError, match="^example 1: its label is no index below 2, which a cl") as caught:
        adapted.loss([Example("w1", "yes", label=1), Example("w7", "w8", label=label)])
    assert "w7" not in str(caught.value)
    assert f"its label is {label!r}, its prompt 'w7'" in caught.value.private


def test_an_empty_answer_still_has_its_end_and_an_empty_prompt_a_start():
    adapted = attach()
    assert adapted.loss([Example("", "w1"), Example("w3", "")]) > 0
    assert len(adapted.generate(["", "w1"])) == 2


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_proximal_term_pulls_towards_the_start_of_the_round(kind):
    def moved(mu):
        adapted = attach(kind, proximal=mu, num_epochs=10)
        start = adapted.parameters()
        adapted.train(tiny_models.examples(8), np.random.default_rng(0))
        return sum(
            float(np.square(value - start[name]).sum()) for name, value in adapted.parameters().items()
        )

    assert moved(1000.0) < 0.5 * moved(0.0)


def test_the_proximal_gradient_by_hand():
    adapted = attach("lora", proximal=0.5, max_grad_norm=0.0)
    trainer = adapted.trainer
    parameters = trainer._decayed
    trainer._starts = [value.detach().clone() - 2.0 for value in parameters]
    for value in parameters:
        value.grad = torch.zeros_like(value)
    seen = []
    optimizer = trainer.optimizer()
    optimizer.step = lambda: seen.extend(value.grad.clone() for value in parameters)
    trainer.apply(optimizer)
    assert seen
    assert all(torch.allclose(grad, torch.ones_like(grad), atol=1e-6) for grad in seen)  # 0.5 * (w - (w - 2))
