"""What prompts share passes the model once, and nobody's logits change."""

import pytest
import torch
import transformers

from fedapp.adapters.prompting import FewShot
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models.base import make_base
from fedapp.training.output import shared_prefix
from fedapp.training.output.head import OutputHead
from fedapp.training.output.shared_prefix import SharedPrefixHead
from tests import tiny_models

SLIDING = {**tiny_models.SIZES["Gemma"], "head_dim": 8, "sliding_window": 8}
LEAST = 10


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(shared_prefix, "LEAST", LEAST)


def model(name, dtype=torch.float32):
    if name != "Gemma2":
        return tiny_models.model(name, dtype=dtype).eval().requires_grad_(False)
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**SLIDING, **tiny_models.SPECIAL)
    return transformers.Gemma2ForCausalLM(config).eval().requires_grad_(False)


def rows_behind(prefix, lengths, seed=0):
    """Right-padded rows, [len(lengths), width], their mask, and the flat place of each row's last token."""
    generator = torch.Generator().manual_seed(seed)
    width = len(prefix) + max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width).long()
    for row, length in enumerate(lengths):
        ids[row, : len(prefix)] = prefix
        ids[row, len(prefix)] = 5 + row  # so that no two rows share more
        ids[row, len(prefix) + 1 : len(prefix) + length] = torch.randint(
            4, 60, (length - 1,), generator=generator
        )
        mask[row, : len(prefix) + length] = 1
    return ids, mask, torch.arange(len(lengths)) * width + mask.sum(1) - 1


def prefix_of(length, seed=9):
    return torch.randint(4, 60, (length,), generator=torch.Generator().manual_seed(seed))


def counted(made):
    """How many tokens pass the model, in the calls to come."""
    seen = []
    embedding = made.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _module, args: seen.append(args[0].numel()))
    return seen


@pytest.mark.parametrize("name", [*tiny_models.DECODERS, "Gemma2"])
@pytest.mark.parametrize("words", [None, [4, 9, 17]])
def test_logits_behind_a_shared_prefix_are_those_of_whole_passes(name, words):
    made = model(name)
    ids, mask, places = rows_behind(prefix_of(30), [3, 7, 1])
    tokens = None if words is None else torch.tensor([words] * 3)
    with torch.no_grad():
        expected = OutputHead(made).logits(ids, mask, places, tokens)
        head, seen = SharedPrefixHead(made), counted(made)
        torch.testing.assert_close(head.logits(ids, mask, places, tokens), expected, rtol=1e-4, atol=1e-4)
        assert sum(seen) < ids.numel()
        again = rows_behind(prefix_of(30), [2, 5], seed=3)
        expected = OutputHead(made).logits(*again, None if tokens is None else tokens[:2])
        seen.clear()
        found = head.logits(*again, None if tokens is None else tokens[:2])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert sum(seen) == 2 * 5  # the prefix itself is not read again


def test_a_shorter_prefix_a_single_row_and_another_prefix():
    made = model("Llama")
    head, plain, seen = SharedPrefixHead(made), OutputHead(made), counted(made)
    first, other = prefix_of(30), prefix_of(20, seed=4)
    cases = [
        (rows_behind(first, [3, 4]), 30 + 2 * 4),
        (rows_behind(first[:25], [6, 2]), 2 * 6),  # cut back
        (rows_behind(first, [4]), 4 + 5),  # alone: as far as it is kept
        (rows_behind(other, [4]), 24),  # alone with one that nobody has: a whole pass
        (rows_behind(other, [4, 2]), 20 + 2 * 4),
        (rows_behind(first[: LEAST - 1], [4, 2]), 2 * (LEAST + 3)),  # too short to be worth it
    ]
    with torch.no_grad():
        for given, passed in cases:
            seen.clear()
            found = head.logits(*given)
            assert sum(seen) == passed
            torch.testing.assert_close(found, plain.logits(*given), rtol=1e-4, atol=1e-4)


def test_places_within_the_prefix_and_gradients_ask_for_whole_passes():
    made = model("Llama")
    head, seen = SharedPrefixHead(made), counted(made)
    ids, mask, places = rows_behind(prefix_of(30), [3, 4])
    with torch.no_grad():
        head.logits(ids, mask, torch.tensor([2, *places.tolist()]))
    head.logits(ids, mask, places)
    assert seen == [ids.numel()] * 2


def test_a_model_that_keeps_a_state_makes_whole_passes():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    made = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, **tiny_models.SPECIAL)).eval()
    ids, mask, places = rows_behind(prefix_of(30), [3, 4])
    with torch.no_grad():
        expected = OutputHead(made).logits(ids, mask, places)
        head, seen = SharedPrefixHead(made), counted(made)
        assert torch.equal(head.logits(ids, mask, places), expected)
    assert seen == [ids.numel()]


def test_demonstrations_pass_the_model_once_and_the_answers_are_the_same(monkeypatch):
    made = model("Llama")
    base = make_base(made, tiny_models.tokenizer(), labels=("w1", "w2", "w3"))
    train = TrainConfig(answers="labels", max_length=60, eval_batch_size=4)
    examples = [Example(f"w{4 + n} w9", f"w{1 + n % 3}", label=n % 3) for n in range(12)]
    prompts = [f"w{20 + n} w{n}" for n in range(10)]
    adapted = FewShot(shots=2, context_length=60).attach(base, train, seed=0)
    adapted.load({"demonstrations": _text(examples[:6])})
    seen = counted(made)
    found, losses = adapted.generate(prompts), adapted.loss(examples)
    passed = sum(seen)
    seen.clear()
    monkeypatch.setattr(shared_prefix, "LEAST", 1000)
    assert adapted.generate(prompts) == found
    assert adapted.loss(examples) == pytest.approx(losses, rel=1e-5)
    assert passed < 0.6 * sum(seen)


def _text(examples):
    import numpy as np

    return np.frombuffer("\0".join(f"{e.prompt} {e.target} " for e in examples).encode(), np.uint8)
