"""Settings that save memory or padding and must not change what is learned."""

import numpy as np
import pytest
import torch
from torch.utils import checkpoint as torch_checkpoint

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.models.structure import block_list
from fedapp.training import checkpointing
from fedapp.training.batching import training_batches
from fedapp.training.tokens import Encoded
from tests import tiny_models

TRAIN = {
    "batch_size": 8,
    "max_length": 48,
    "max_new_tokens": 4,
    "learning_rate": 1e-2,
    "max_grad_norm": 0.0,
}
ADAPTERS = {"reft": Reft(rank=3, positions="f2+l2", dropout=0.2), "lora": Lora(rank=2, dropout=0.2)}
QUIET = {"reft": Reft(rank=3, positions="f2+l2"), "lora": Lora(rank=2)}
MODELS = [("Llama", ()), ("GPT2", ()), ("Roberta", ("no", "yes")), ("Llama", ("no", "yes"))]


def attach(kind, name="Llama", labels=(), adapters=ADAPTERS, dtype=torch.float32, **settings):
    base = tiny_models.base(name, labels=labels, dtype=dtype)
    return adapters[kind].attach(base, TrainConfig(**{**TRAIN, **settings}), seed=1)


def a_round(adapted, count=12, labels=0):
    """Loss and parameters after a round of two steps."""
    loss = adapted.train(tiny_models.examples(count, labels=labels), np.random.default_rng(0))
    return loss, adapted.parameters()


def gradients(adapted, examples):
    """Summed loss and the gradients that one step hands to the optimiser, before anything changes them."""
    trainer = adapted.trainer
    found = []
    trainer.apply = lambda optimizer, name="": found.extend(
        value.grad.clone() for value in trainer._decayed + trainer._fixed if value.grad is not None
    )
    loss = trainer.step(trainer.encoder.batch(trainer.encoder.examples(examples)), trainer.optimizer())
    assert found
    return loss, found


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(("name", "labels"), MODELS)
def test_checkpointing_changes_no_bit_of_a_round_and_recomputes_every_block(kind, name, labels, monkeypatch):
    calls = []

    def spy(function, *args, **kwargs):
        calls.append(1)
        return torch_checkpoint.checkpoint(function, *args, **kwargs)

    monkeypatch.setattr(checkpointing, "checkpoint", spy)
    plain = a_round(attach(kind, name, labels), labels=len(labels))
    assert not calls
    adapted = attach(kind, name, labels, gradient_checkpointing=True)
    saving = a_round(adapted, labels=len(labels))
    assert len(calls) == 2 * 3  # steps, blocks
    assert saving[0] == plain[0]
    for key, value in plain[1].items():
        np.testing.assert_array_equal(saving[1][key], value)
    blocks = block_list(adapted.base.model)[1]
    assert not any(block.training or block.gradient_checkpointing for block in blocks)
    adapted.generate([e.prompt for e in tiny_models.examples(3)])
    assert len(calls) == 6


@pytest.mark.parametrize("kind", ADAPTERS)
def test_checkpointing_keeps_less_for_the_backward_pass(kind):
    examples = tiny_models.examples(8, longest=30)

    def kept(**settings):
        sizes = []
        adapted = attach(kind, **settings)
        own = {value.data_ptr() for value in adapted.base.model.parameters()}

        def pack(value):
            if value.data_ptr() not in own:
                sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            trainer = adapted.trainer
            batch = trainer.encoder.batch(trainer.encoder.examples(examples))
            blocks = checkpointing.checkpointable_blocks(adapted.base.model)
            used = blocks if settings else ()
            with trainer._scope(batch), checkpointing.checkpointed(used):
                trainer.losses(batch)
        return sum(sizes)

    assert kept(gradient_checkpointing=True) < 0.5 * kept()


def test_a_block_that_drops_elements_itself_stays_quiet_under_checkpointing():
    adapted = attach("reft", adapters=QUIET, gradient_checkpointing=True)
    seen = []
    for block in block_list(adapted.base.model)[1]:
        mlp = block.mlp
        block.mlp.register_forward_pre_hook(
            lambda _m, _a, block=block, mlp=mlp: seen.append((block.training, mlp.training))
        )
    a_round(adapted)
    assert len(seen) >= 2 * 3
    assert set(seen) == {(False, False)}


def test_blocks_that_transformers_cannot_checkpoint_are_named_and_leave_the_base_free():
    base = tiny_models.base()
    base.model.model.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)])
    said = "train.gradient_checkpointing=true: .* LlamaForCausalLM; set it to false"
    for adapter in QUIET.values():
        with pytest.raises(ValueError, match=said) as caught:
            adapter.attach(base, TrainConfig(**TRAIN, gradient_checkpointing=True), seed=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", QUIET)
@pytest.mark.parametrize(("name", "labels"), MODELS)
@pytest.mark.parametrize("steps", [2, 3, 7, 8])
def test_the_gradient_of_the_parts_is_that_of_the_whole_batch(kind, name, labels, steps):
    examples = tiny_models.examples(7, labels=len(labels))  # answers of one and of two words
    loss, whole = gradients(attach(kind, name, labels, QUIET), examples)
    adapted = attach(kind, name, labels, QUIET, accumulation_steps=steps)
    widths = []
    original = adapted.trainer.losses
    adapted.trainer.losses = lambda batch: widths.append(batch.input_ids.shape) or original(batch)
    summed, parts = gradients(adapted, examples)
    assert len(widths) == min(steps, 7)
    assert sum(rows for rows, _ in widths) == 7
    assert len({width for _, width in widths}) > 1  # no part is padded to the whole batch's width
    assert summed == pytest.approx(loss, rel=1e-6)
    for one, other in zip(parts, whole, strict=True):
        # Sums in another order: processors differ by 1.05e-6 where gradients are above 1e-3.
        torch.testing.assert_close(one, other, atol=3e-6, rtol=1e-5)
    assert max(float(value.abs().max()) for value in whole) > 1e-3


def test_a_loss_that_is_not_finite_in_the_second_part_steps_nothing_and_leaves_no_gradient():
    adapted = attach("reft", accumulation_steps=2)
    start = adapted.parameters()
    original, turns = adapted.trainer.losses, []

    def second_is_nan(batch):
        turns.append(1)
        losses, count = original(batch)
        return (losses * float("nan") if len(turns) == 2 else losses), count

    adapted.trainer.losses = second_is_nan
    with pytest.raises(ClientFailure, match="the loss is nan"):
        a_round(adapted)
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)
    assert adapted.weight.grad is None


@pytest.mark.parametrize("steps", [1, 2])
def test_prompts_without_a_token_to_edit_are_no_reason_to_stop(steps):
    adapted = attach("reft", accumulation_steps=steps)
    start = adapted.parameters()
    loss = adapted.train([Example("w1", "w2"), Example("w3", "w4")], np.random.default_rng(0))
    assert loss == pytest.approx(adapted.loss([Example("w1", "w2"), Example("w3", "w4")]), abs=1e-6)
    for name, value in adapted.parameters().items():
        np.testing.assert_allclose(value, start[name], atol=1e-6)


def rows_of(lengths):
    return [Encoded([index] * length, 1) for index, length in enumerate(lengths)]


def padding(batches):
    return sum(
        max(len(r.ids) for r in batch) * len(batch) - sum(len(r.ids) for r in batch) for batch in batches
    )


def test_grouping_by_length_gives_every_row_once_per_pass_in_an_order_that_the_seed_decides():
    rows = rows_of(np.random.default_rng(0).integers(5, 60, size=43))
    given = {}
    for seed in (1, 1, 2):
        batches = list(training_batches(rows, 4, 22, np.random.default_rng(seed), grouped=True))
        assert len(batches) == 22
        for one_pass in (batches[:11], batches[11:]):
            assert sorted(row.ids[0] for batch in one_pass for row in batch) == list(range(43))
            assert sorted(len(batch) for batch in one_pass) == [3] + [4] * 10
        order = [[row.ids[0] for row in batch] for batch in batches]
        assert given.setdefault(seed, order) == order
        lengths = [max(len(row.ids) for row in batch) for batch in batches[:11]]
        assert lengths != sorted(lengths, reverse=True)
    assert given[1] != given[2]


def test_grouping_by_length_saves_most_of_the_padding():
    rows = rows_of(np.random.default_rng(0).integers(5, 60, size=200))
    grouped, plain = (
        list(training_batches(rows, 8, 25, np.random.default_rng(3), grouped=grouped))
        for grouped in (True, False)
    )
    assert padding(grouped) < 0.2 * padding(plain)


def test_a_round_uses_the_grouping_that_its_settings_ask_for():
    def wasted(**settings):
        adapted = attach("reft", batch_size=4, **settings)
        batches = []
        original = adapted.trainer.step
        adapted.trainer.step = lambda *a: batches.append(a[0].attention_mask) or original(*a)
        a_round(adapted, count=40)
        return sum(int((mask == 0).sum()) for mask in batches)

    assert wasted(length_grouped=True) < 0.5 * wasted()


@pytest.mark.parametrize("kind", QUIET)
@pytest.mark.parametrize(("name", "labels"), [("Llama", ()), ("Roberta", ("no", "yes"))])
def test_over_a_bf16_base_parameters_and_gradients_are_fp32_and_scores_repeat(kind, name, labels):
    adapted = attach(kind, name, labels, QUIET, dtype=torch.bfloat16)
    frozen = [value for value in adapted.base.model.parameters() if not value.requires_grad]
    assert torch.bfloat16 in {value.dtype for value in frozen}
    examples = tiny_models.examples(8, labels=len(labels))
    trainer = adapted.trainer
    before = adapted.loss(examples)
    loss, found = gradients(adapted, examples)
    assert {value.dtype for value in found} == {torch.float32}
    assert np.isfinite(loss)
    assert max(float(value.abs().max()) for value in found) > 0
    # The training pass and the scoring pass see one and the same model.
    batch = trainer.encoder.batch(sorted(trainer.encoder.examples(examples), key=lambda row: -len(row.ids)))
    with trainer._scope(batch):
        assert float(trainer.losses(batch)[0].detach().double().sum()) / 8 == before == adapted.loss(examples)
    del trainer.apply
    parameters = a_round(adapted, labels=len(labels))[1]
    assert {value.dtype for value in parameters.values()} == {np.dtype("float32")}
    assert all(np.isfinite(value).all() for value in parameters.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps=0 must be a whole number of at least 1"),
        ({"accumulation_steps": 9}, "accumulation_steps=9 must not exceed train.batch_size=8"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing=1 must be true or false"),
        ({"length_grouped": "yes"}, "length_grouped='yes' must be true or false"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**{**TRAIN, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize(("name", "labels"), [("Llama", ()), ("Roberta", ("no", "yes"))])
def test_the_backward_pass_ends_at_the_lowest_intervened_layer(name, labels, checkpoints):
    base = tiny_models.base(name, labels=labels)
    train = TrainConfig(**TRAIN, gradient_checkpointing=checkpoints)
    adapted = Reft(rank=3, positions="f2+l2", layers=[1, 2]).attach(base, train, seed=1)
    runs, differentiated = [0, 0, 0], {}
    for index, block in enumerate(block_list(base.model)[1]):
        inner = next(block.children())
        inner.register_forward_hook(lambda *_a, index=index: runs.__setitem__(index, runs[index] + 1))
        block.register_forward_hook(
            lambda _m, _a, out, index=index: differentiated.__setitem__(
                index, (out[0] if isinstance(out, tuple) else out).requires_grad
            )
        )
    gradients(adapted, tiny_models.examples(6, labels=len(labels)))
    assert differentiated == {0: False, 1: True, 2: True}
    # A checkpointed block runs again only if a gradient passes through it: the third one alone.
    assert runs == [1, 1, 2 if checkpoints else 1]
