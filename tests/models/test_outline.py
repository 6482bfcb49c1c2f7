"""Models without weights: what adapters find on them is what they find on real ones."""

import pytest
import yaml

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.files import CONF
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import load_base
from fedapp.models.outline import ARCHITECTURES, find_config, outline_base
from tests import tiny_models

ADAPTERS = [
    *(Reft(intervention=name, rank=2) for name in ("loreft", "direft", "consreft", "lobireft")),
    Reft(rank=3, tied=True),
    Reft(rank=2, layers=[0, 2]),
    Reft(rank=2, positions="f3"),
    Reft(rank=2, positions="l2", layers=[1]),
    Lora(rank=2),
    Lora(rank=2, freeze_a=True),
    Lora(rank=3, target_modules="all-linear"),
    Lora(rank=3, target_modules="all-linear", freeze_a=True),
]
# As the model cards on the hub say (safetensors' totals); RoBERTa without pooler and LM head:
# 124,645,632 - 768 * 769 and 355,359,744 - 1024 * 1025 of the bare encoders.
PUBLISHED_SIZES = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "llama-2-7b": 6_738_415_616,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-3.1-405b": 405_853_388_800,
    "roberta-base": 124_055_040,
    "roberta-large": 354_310_144,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "gemma-2-2b": 2_614_341_888,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
}


def outlined(base, folder):
    base.model.config.save_pretrained(folder)
    return outline_base(folder, head=base.head, labels=base.labels)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        *((name, ()) for name in ("Llama", "Qwen2", "GPT2")),
        *((name, ("no", "yes", "maybe")) for name in ("Llama", "Qwen2", "GPT2", "Roberta")),
    ],
)
def test_an_adapter_on_the_meta_device_has_the_names_and_shapes_of_the_real_one(name, labels, tmp_path):
    base = tiny_models.base(name, labels=labels)
    meta = outlined(base, tmp_path)
    assert meta.num_frozen() == base.num_frozen()
    for adapter in ADAPTERS:
        real = adapter.attach(base, TrainConfig(max_length=32), seed=1)
        arrays = {name: array.shape for name, array in real.parameters().items()}
        assert real.shapes() == arrays
        real.detach()
        counted = adapter.attach(meta, TrainConfig(max_length=32), seed=1)
        assert counted.shapes() == arrays, adapter
        assert {value.device.type for value in meta.model.parameters()} == {"meta"}
        counted.detach()
        assert any(name.startswith("head.") for name in arrays) == bool(labels)


@pytest.mark.parametrize("path", ["asset:embedded"])
def test_the_outline_of_a_shipped_model_is_that_of_its_own_files(path):
    base = load_base(path)
    folder, warning = find_config(path, "llama-3.2-1b")
    assert warning is None
    assert outline_base(folder).num_frozen() == sum(p.numel() for p in base.model.parameters())


def test_every_architecture_in_the_repository_has_its_published_size():
    found = {}
    for folder in sorted(ARCHITECTURES.iterdir()):
        head = folder.name.startswith("roberta")
        labels = ("a", "b") if head else ()
        base = outline_base(folder, head="classification" if head else "lm", labels=labels)
        found[folder.name] = base.num_frozen()
    assert found == PUBLISHED_SIZES


def test_every_model_of_the_hub_names_an_architecture_that_describes_it():
    named = 0
    for path in sorted((CONF / "model").glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "architecture" in config["about"]:
            named += 1
            assert find_config(config["path"], config["about"]["architecture"])[1] is None
        else:
            named_elsewhere = ":" in (config.get("path") or ":")
            assert named_elsewhere, f"{path.name}: a hub id and no architecture"
    assert named >= len(PUBLISHED_SIZES)
