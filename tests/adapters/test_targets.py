import pytest

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.lora.targets import linear_targets
from fedapp.core.train_config import TrainConfig
from tests import tiny_models

TRAIN = TrainConfig(max_length=48, max_new_tokens=4)


@pytest.mark.parametrize("names", [None, "all-linear"])
@pytest.mark.parametrize("labels", [(), ("no", "yes")])
@pytest.mark.parametrize("model", ["Llama", "GPT2", "GPTNeoX", "Bert", "Roberta"])
def test_the_layers_are_those_that_pefts_lora_takes(model, labels, names):
    if not labels and model in tiny_models.ENCODERS:
        pytest.skip("encoders are classifiers here")
    base = tiny_models.base(model, labels=labels)
    found = linear_targets(base, names)
    adapted = Lora(rank=2, target_modules=names).attach(base, TRAIN, seed=1)
    theirs = {n.removesuffix(".lora_A"): v.shape for n, v in adapted.parameters().items() if "lora_A" in n}
    assert {name: (2, target.size_in) for name, target in found.items()} == theirs
    widths = {n.removesuffix(".lora_B"): v.shape for n, v in adapted.parameters().items() if "lora_B" in n}
    assert {name: (target.size_out, 2) for name, target in found.items()} == widths


def test_a_list_names_layers_by_their_last_part():
    found = linear_targets(tiny_models.base(), ["mlp.up_proj", "o_proj"])
    assert set(found) == {
        f"layer.{n}.{part}" for n in range(3) for part in ("mlp.up_proj", "self_attn.o_proj")
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["q_porj"], r"adapter.target_modules=\['q_porj'\]: none of these layers is found"),
        (["embed_tokens"], "embed_tokens is a Embedding, must be a linear layer"),
    ],
)
def test_names_that_are_no_linear_layers_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        linear_targets(tiny_models.base(), names)
