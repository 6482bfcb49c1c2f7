"""The output head sees only what counts, and says there what the whole forward pass says."""

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import make_base
from fedapp.training.output import head as output_head
from fedapp.training.output.head import OutputHead, token_losses
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4)
CAPPED = {**tiny_models.SIZES["Gemma"], "head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 16}
MORE = {
    "Gemma2": CAPPED,  # a cap behind the head
    "Cohere": {**tiny_models.SIZES["Qwen2"], "logit_scale": 0.5},  # a scale behind it
    "GPTJ": {**tiny_models.SIZES["GPT2"], "rotary_dim": 4},  # a bias in it
}
NAMES = ["Llama", "GPT2", "GPTNeoX", *MORE]


def model(name, dtype=torch.float32):
    if name not in MORE:
        return tiny_models.model(name, dtype=dtype).eval()
    torch.manual_seed(0)
    special = {**tiny_models.SPECIAL, "bos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**MORE[name], **special)
    return getattr(transformers, f"{name}ForCausalLM")(config).to(dtype).eval().requires_grad_(False)


def base(name):
    return make_base(model(name), tiny_models.tokenizer())


def batch_of(trainer, count=5):
    return trainer.encoder.batch(trainer.encoder.examples(tiny_models.examples(count)))


def watched(head):
    """The shapes of what the head is shown."""
    shapes = []
    head.register_forward_hook(
        lambda _module, args, _out: shapes.append((args[0].shape, args[0].is_contiguous()))
    )
    return shapes


@pytest.mark.parametrize("name", NAMES)
def test_chosen_logits_are_those_of_the_whole_forward_pass(name):
    made = model(name)
    ids = torch.randint(4, 60, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    places = torch.tensor([2, 3, 10, 11 + 6, 22 + 10])
    whole = made(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[places]
    torch.testing.assert_close(OutputHead(made).logits(ids, mask, places), whole, rtol=1e-5, atol=1e-6)
    tokens = torch.tensor([[5, 9], [7, 9], [5, 6], [9, 5], [59, 4]])
    head = OutputHead(made)
    for _ in range(2):  # the second time by the words' own columns alone
        chosen = head.logits(ids, mask, places, tokens)
        torch.testing.assert_close(chosen, whole.gather(1, tokens), rtol=1e-5, atol=1e-6)
    assert head._narrows is True
    assert "forward" not in vars(made.get_output_embeddings())
    assert not made.get_output_embeddings()._forward_pre_hooks


def test_a_model_that_treats_words_differently_behind_its_head_shows_its_whole_head():
    class Masking(transformers.LlamaForCausalLM):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits[..., 9] = -100.0
            return output

    made = tiny_models.model("Llama")
    made.__class__ = Masking
    ids, places, tokens = torch.tensor([[5, 6, 7]]), torch.tensor([2]), torch.tensor([[5, 9]])
    head = OutputHead(made)
    for _ in range(2):
        assert head.logits(ids, torch.ones_like(ids), places, tokens)[0, 1] == -100.0
    assert head._narrows is False


@pytest.mark.parametrize(
    "adapter", [Lora(rank=2, target_modules="all-linear"), Reft(rank=2)], ids=["lora", "reft"]
)
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Gemma2"])
def test_losses_and_gradients_are_those_of_the_whole_forward_pass(name, adapter):
    adapted = adapter.attach(base(name), TRAIN, seed=1)
    trainer = adapted.trainer
    rng = np.random.default_rng(0)
    adapted.load({n: rng.normal(size=s, scale=0.2).astype(np.float32) for n, s in adapted.shapes().items()})
    batch = batch_of(trainer)
    trained = trainer._decayed + trainer._fixed
    with trainer._scope(batch):
        losses, count = trainer.losses(batch)
        mine = torch.autograd.grad(losses.sum(), trained)
    with trainer._scope(batch):
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        logits = adapted.base.model(**given).logits
        logits, wanted = logits[:, :-1].transpose(1, 2), batch.targets[:, 1:]
        each = functional.cross_entropy(logits, wanted, reduction="none")
        theirs = torch.autograd.grad(each.sum(), trained)
    assert count == int((batch.targets != -100).sum())
    torch.testing.assert_close(losses, each.sum(1), rtol=1e-5, atol=1e-5)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in theirs)
    for got, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-6)


def test_the_head_sees_the_answers_positions_alone_and_contiguous():
    adapted = Lora(rank=2).attach(base("Llama"), TRAIN, seed=1)
    batch = batch_of(adapted.trainer)
    seen = watched(adapted.base.model.get_output_embeddings())
    with torch.no_grad():
        adapted.trainer.losses(batch)
        lengths = torch.from_numpy(batch.prompt_lengths)
        adapted.trainer.last_logits(batch.input_ids, batch.attention_mask, lengths)
    answers = int((batch.targets != -100).sum())
    assert [shape[-2] for shape, _ in seen] == [answers, len(lengths)]
    adapted.generate(["w1 w2", "w3 w4 w5"])
    assert all(flat for _, flat in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cross_entropy_in_chunks_is_torchs_with_its_gradient(dtype, monkeypatch):
    monkeypatch.setattr(output_head, "_CHUNK", 90)  # two rows at a time
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 40, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, 40, (7,), generator=generator)
    weights = torch.rand(7, generator=generator)
    mine = token_losses(logits, targets)
    theirs = functional.cross_entropy(logits.float(), targets, reduction="none")
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    got, wanted = (torch.autograd.grad((each * weights).sum(), logits)[0] for each in (mine, theirs))
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_a_pass_without_gradients_has_a_limit_of_rows_and_one_of_tokens():
    adapted = Reft(rank=2).attach(base("Llama"), TrainConfig(max_length=48, max_new_tokens=4), seed=1)
    examples = tiny_models.examples(20)
    rows = adapted.trainer.encoder.examples(examples)
    prompts = [example.prompt for example in examples]
    whole = adapted.loss(examples), adapted.log_likelihoods(examples), adapted.generate(prompts)
    for limits in ({"eval_batch_tokens": 40}, {"eval_batch_size": 3}, {"eval_batch_tokens": 1}):
        adapted.trainer.config = TrainConfig(max_length=48, max_new_tokens=4, **limits)
        batches = [batch for _, batch in adapted.trainer.batches(rows)]
        sizes = [(len(batch), len(batch) * max(len(row.ids) for row in batch)) for batch in batches]
        assert sum(count for count, _ in sizes) == 20
        limit = limits.get("eval_batch_tokens", 10**9)
        most = limits.get("eval_batch_size", 20)
        assert all(count <= most and (tokens <= limit or count == 1) for count, tokens in sizes)
        assert len(batches) < 20 or limit == 1
        assert adapted.loss(examples) == pytest.approx(whole[0], abs=1e-5)
        assert adapted.log_likelihoods(examples) == pytest.approx(whole[1], abs=1e-5)
        assert adapted.generate(prompts) == whole[2]
