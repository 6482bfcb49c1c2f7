"""What is wrong with a checkpoint is one line that names it; what is right with an odd one stays so."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fedapp.config.build import ConfigError, build
from fedapp.models.base import load_base
from fedapp.models.embedders import load_embedder
from fedapp.models.outline import open_outline, outline_base
from tests import tiny_models

LABELS = ("no", "yes")
TYPES = {"classification": LABELS, "lm": ()}


def save(folder, model, tokenizer=True):
    model.save_pretrained(folder)
    if tokenizer:
        tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Sound checkpoints by name."""
    root = tmp_path_factory.mktemp("whole")
    found = {name: save(root / name, tiny_models.model(name)) for name in ("Llama", "GPT2", "GPTNeoX")}
    found["Bert"] = save(root / "Bert", tiny_models.model("Bert", labels=2).bert)
    found["Bert3"] = save(root / "Bert3", tiny_models.model("Bert", labels=3))
    found["Roberta"] = save(root / "Roberta", tiny_models.model("Roberta", labels=2).roberta)
    return found


@pytest.fixture
def copy(whole, tmp_path):
    def made(name):
        return shutil.copytree(whole[name], tmp_path / name)

    return made


def rewrite(folder, change):
    """Save the tensors as ``change`` makes them."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def refused(folder, *said, head="lm"):
    with pytest.raises(ValueError, match=r"^path='") as caught:
        load_base(str(folder), head=head, labels=TYPES[head], device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    for part in said:
        assert part in text, text
    return text


def without(*parts):
    return lambda tensors: {n: v for n, v in tensors.items() if not any(part in n for part in parts)}


def test_a_prefix_of_all_names_is_refused_and_named(copy):
    folder = rewrite(copy("Llama"), lambda tensors: {f"module.{n}": v for n, v in tensors.items()})
    text = refused(folder, "lacks 30 tensors (lm_head.weight, ", "take the prefix 'module.' off")
    assert text.count("model.") < 9  # the first few, not all


def test_a_missing_layer_is_refused_and_counted(copy):
    refused(rewrite(copy("Llama"), without("layers.1.")), "lacks 9 tensors (model.layers.1.", "be random")


def test_a_single_missing_tensor_is_enough(copy):
    refused(rewrite(copy("Llama"), without("model.norm.weight")), "lacks 1 tensor (model.norm.weight)")


def test_layers_that_the_config_does_not_have_are_refused(copy):
    refused(
        set_config(copy("Llama"), num_hidden_layers=2), "holds 9 tensors (model.layers.2.", "does not have"
    )


def test_tensors_of_another_size_are_refused(copy):
    refused(set_config(copy("Llama"), intermediate_size=50), "tensors (model.layers.0.mlp", "of other sizes")


def test_a_tied_head_and_tables_of_old_checkpoints_are_no_trouble(copy, tmp_path):
    tied = tiny_models.model("Qwen2")
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    save(tmp_path / "tied", tied)
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    load_base(str(tmp_path / "tied"), device="cpu")
    odd = {
        "Llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        "GPT2": {
            "transformer.h.0.attn.masked_bias": torch.ones(1),
            "transformer.h.0.attn.bias": torch.ones(4),
        },
        "GPTNeoX": {"gpt_neox.layers.0.attention.bias": torch.ones(4)},
    }
    for name, tables in odd.items():
        load_base(str(rewrite(copy(name), lambda tensors, more=tables: {**tensors, **more})), device="cpu")
    bert = rewrite(copy("Bert"), lambda tensors: {**tensors, "embeddings.position_ids": torch.arange(64)})
    load_base(str(bert), head="classification", labels=LABELS, device="cpu")


def test_an_encoders_missing_layer_is_no_head(copy):
    folder = rewrite(copy("Bert"), without("layer.1.", "pooler"))
    refused(folder, "lacks 16 tensors (bert.encoder.layer.1.", head="classification")
    refused(
        set_config(copy("Roberta"), num_hidden_layers=2),
        "holds 16 tensors (encoder.layer.2.",
        head="classification",
    )


def test_a_classifier_may_lack_head_and_pooler_and_hold_another_head(copy, tmp_path):
    options = {"head": "classification", "labels": LABELS, "device": "cpu"}
    plain = load_base(str(rewrite(copy("Bert"), without("pooler"))), **options)
    assert plain.head_parameters == (
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    )
    masked = transformers.BertForMaskedLM(transformers.BertConfig(**tiny_models.SIZES["Bert"]))
    load_base(str(save(tmp_path / "masked", masked)), **options)
    load_base(str(copy("Llama")), **options)


def test_a_classifier_of_another_number_of_labels_gets_a_new_head_and_a_line_says_so(whole):
    options = {"head": "classification", "labels": LABELS}
    base = load_base(str(whole["Bert3"]), device="cpu", **options)
    assert base.model.classifier.weight.shape == (2, 32)
    assert base.head_parameters == ("classifier.bias", "classifier.weight")
    _, (note,) = open_outline(str(whole["Bert3"]), **options)
    assert (
        f"head of model.path='{whole['Bert3']}' (3 labels) is not used: a new one for the benchmark's 2"
        in note
    )
    assert open_outline(str(whole["Bert"]), **options)[1] == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a Git-LFS pointer",
        ),
        (None, "(5,000 bytes) is cut off or damaged"),
        (b"", "(0 bytes) is cut off or damaged"),
        (b"noise" * 99, "(495 bytes) is cut off or damaged"),
    ],
)
def test_a_damaged_weight_file_is_named_before_anything_is_read(content, said, copy):
    folder = copy("Llama")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    refused(folder, f"model.safetensors {said}".replace("safetensors (", "safetensors ("))
    with pytest.raises(ValueError, match="model.safetensors"):
        open_outline(str(folder))  # what is looked at before an engine starts


def test_generation_settings_that_cannot_be_read_are_not_passed_over(copy):
    folder = copy("Llama")
    (folder / "generation_config.json").write_text("{bad")
    refused(folder, "generation_config.json is no JSON")


def test_a_pointer_in_place_of_a_tokenizer_is_told_apart(copy):
    folder = copy("Llama")
    (folder / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(folder, "tokenizer.json is a Git-LFS pointer")


def test_a_missing_part_of_several_weight_files_is_named(copy):
    folder = copy("Llama")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (folder / "model.safetensors").rename(folder / parts["a"])
    refused(folder, "lacks 1 of its 2 weight files, model-00002")
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(folder, "model.safetensors.index.json is damaged")


def test_pickled_weights_stay_closed(copy):
    folder = copy("Llama")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    os.remove(folder / "model.safetensors")
    refused(folder, "has pickled weights (pytorch_model.bin)", "never opened")
    os.remove(folder / "pytorch_model.bin")
    refused(folder, "model.safetensors is missing")


def test_an_adapters_folder_is_no_model(copy):
    folder = copy("Llama")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    refused(folder, "holds an adapter of peft")


@pytest.mark.parametrize("name", ["Llama", "GPT2", "GPTNeoX", "Bert", "Roberta"])
def test_a_folder_without_tokenizer_gets_no_empty_one(name, copy):
    folder = copy(name)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(folder, "has no tokenizer", head="classification" if name in ("Bert", "Roberta") else "lm")


def test_a_damaged_tokenizer_is_named(copy):
    folder = copy("Llama")
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:200])
    refused(folder, "its tokenizer cannot be loaded")


def save_tokenizer(folder, **special):
    inner = tiny_models.tokenizer().backend_tokenizer
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_cannot_pad_is_refused(copy):
    refused(save_tokenizer(copy("Llama")), "no padding, end-of-sequence or unknown token", "set pad_token")
    assert (
        load_base(str(save_tokenizer(copy("GPT2"), unk_token="<unk>")), device="cpu").tokenizer.pad_token_id
        == 2
    )


def test_ids_outside_the_embedding_are_refused(copy):
    padded = save_tokenizer(copy("Llama"), pad_token="<new>", eos_token="<eos>")
    refused(padded, "the padding token '<new>' has id 64, outside the embedding of 64 rows")
    refused(set_config(copy("GPT2"), pad_token_id=64), "pad_token_id=64 in config.json is outside")
    grown = tiny_models.tokenizer()
    grown.add_tokens(["more", "and more"])
    folder = copy("GPTNeoX")
    grown.save_pretrained(folder)
    refused(folder, "ids up to 65 ('and more'), its embedding 64 rows")


SEQ2SEQ = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize("head", ["lm", "classification"])
@pytest.mark.parametrize("kind", ["Bart", "T5"])
def test_an_encoder_decoder_is_refused(kind, head, tmp_path):
    config = transformers.BartConfig(**SEQ2SEQ) if kind == "Bart" else transformers.T5Config(**T5)
    save(tmp_path, getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    refused(tmp_path, f"is an encoder-decoder ({kind.lower()})", head=head)
    with pytest.raises(ValueError, match="is an encoder-decoder"):
        outline_base(tmp_path, head=head, labels=TYPES[head])


def test_an_encoder_is_no_language_model(whole):
    refused(whole["Bert"], "is an encoder (bert), which sees what it is to predict")


def test_code_that_comes_with_a_model_is_never_run_nor_asked_about(copy, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    code = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    own = copy("Llama")
    (own / "theirs.py").write_text("raise SystemExit('ran')")
    load_base(str(set_config(own, auto_map=code)), device="cpu")
    assert "auto_map), which is never run: transformers' own llama is used" in open_outline(str(own))[1][0]
    refused(
        set_config(copy("GPT2"), auto_map=code, model_type="theirs"),
        "needs code of its own (auto_map)",
        "never run",
    )


def test_every_call_says_that_no_code_is_trusted(whole, monkeypatch):
    seen = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModel"):
        kind = getattr(transformers, name)
        real = kind.from_pretrained

        def spy(*args, real=real, name=name, **given):
            seen.append((name, given.get("trust_remote_code"), given.get("use_safetensors")))
            return real(*args, **given)

        monkeypatch.setattr(kind, "from_pretrained", spy)
    load_base(str(whole["Llama"]), device="cpu", revision="main")
    load_embedder(str(whole["Bert"]), device="cpu").encode(["w1"])
    outline_base(whole["Llama"])
    assert {name for name, *_ in seen} == {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModel"}
    assert {trusts for _, trusts, _ in seen} == {False}
    assert all(safe for name, _, safe in seen if name.startswith("AutoModel"))


def test_an_embedder_with_a_missing_layer_is_refused(copy):
    load_embedder(str(rewrite(copy("Bert"), without("pooler"))), device="cpu").encode(["w1"])
    folder = rewrite(copy("Roberta"), without("layer.1."))
    with pytest.raises(ValueError, match=r"lacks 16 tensors \(encoder.layer.1"):
        load_embedder(str(folder), device="cpu").encode(["w1"])


def test_a_fault_is_told_with_its_setting_as_one_types_it(copy):
    folder = set_config(copy("Llama"), pad_token_id=64)
    node = {"_target_": "fedapp.models.base.load_base", "path": str(folder), "device": "cpu"}
    with pytest.raises(ConfigError, match=rf"^model\.path='{folder}': pad_token_id=64"):
        build(node, "model")
