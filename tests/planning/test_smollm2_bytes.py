"""Bytes of LoRA on SmolLM2 as public tables print them: fp32 values and 128 bytes a tensor."""

import pytest

from fedapp.config.compose import load_config
from fedapp.planning.budget import budget_of

OF_A_TENSOR = 128  # what the container of the printed figures adds; ours has another (wire-bytes)


@pytest.mark.parametrize(
    ("model", "num_layers", "printed"), [("135M", 30, 1_858_560), ("360M", 32, 3_293_184)]
)
def test_lora_of_rank_8_on_query_and_value_sends_what_is_printed(model, num_layers, printed):
    path = f"HuggingFaceTB/SmolLM2-{model}"
    found = budget_of(load_config(["method=fedit", "model=local", f"model.path={path}", "adapter.rank=8"]))
    num_tensors = len(found.trained[0].shapes)
    assert num_tensors == num_layers * 2 * 2  # query and value, A and B
    for values in (found.up_values[0], found.down_values[0]):
        assert 4 * values + OF_A_TENSOR * num_tensors == printed
