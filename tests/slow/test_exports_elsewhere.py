"""Exports opened by their own libraries in a fresh process, by their cards' own code; the harness."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedapp.cli.adapters.export import export
from fedapp.cli.adapters.harness import evaluate
from fedapp.cli.adapters.kept import attached
from tests.cli.adapters.kept_adapters import IA3, LORA, PROMPTS, REFT, keep, save_model

pytestmark = pytest.mark.slow
LABELS = ("no", "yes")
IA3_LAYERS = {**IA3, "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
OPENS = """
import json, os, re, sys, numpy as np, torch
found = {}
for folder in sys.argv[2:]:
    os.chdir(folder)
    told = open("README.md").read()
    scope = {}
    exec(re.search(r"```python\\n(.*?)```", told, re.DOTALL)[1], scope)
    model, batch = scope["model"], scope["tokenizer"](PROMPTS, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        if "pyreft" in told:
            length = batch["input_ids"].shape[1]
            places = scope["pyreft"].get_intervention_locations(
                last_position=length, positions="f1+l1", num_interventions=len(model.interventions),
            )
            given = {"sources->base": (None, [[place] * len(PROMPTS) for place in places])}
            logits = model(batch, unit_locations=given)[1].logits
        else:
            logits = model(**batch).logits
    found[os.path.basename(folder)] = logits.float().numpy()
np.savez(sys.argv[1], **found)
""".replace("PROMPTS", repr(PROMPTS))


def tied(model):
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


CASES = {
    "llama-lora": ("Llama", LORA, (), None),
    "llama-tied-lora": ("Llama", LORA, (), tied),
    "llama-ia3": ("Llama", IA3_LAYERS, (), None),
    "llama-reft": ("Llama", REFT, (), None),
    "llama-head-lora": ("Llama", LORA, LABELS, None),
    "gpt2-lora": ("GPT2", LORA, (), None),
    "gpt2-reft": ("GPT2", REFT, (), None),
    "neox-lora": ("GPTNeoX", LORA, (), None),
    "bert-lora": ("Bert", LORA, LABELS, None),
    "bert-no-head-lora": ("Bert", LORA, LABELS, lambda model: model.bert),
    "bert-reft": ("Bert", REFT, LABELS, None),
    "roberta-lora": ("Roberta", LORA, LABELS, None),
    "roberta-no-head-lora": ("Roberta", LORA, LABELS, lambda model: model.roberta),
}


def test_every_export_is_opened_in_a_fresh_process_by_the_code_on_its_card(tmp_path):
    ours, folders = {}, []
    for case, (name, adapter, labels, change) in CASES.items():
        model = save_model(tmp_path / "models" / case, name, labels, change or (lambda model: model))
        kept = keep(tmp_path / "kept" / case, model, adapter, labels)
        export(kept, tmp_path / case)
        card = tmp_path / case / "README.md"
        card.write_text(card.read_text().replace('"some/model"', repr(str(model))))  # no hub here
        with attached(kept) as found, torch.no_grad():
            trainer = found.model.trainer
            batch = trainer.encoder.batch(trainer.encoder.prompts(PROMPTS))
            with trainer._scope(batch):
                logits = found.base.model(batch.input_ids, attention_mask=batch.attention_mask).logits
        ours[case] = logits.float().numpy()
        folders.append(str(tmp_path / case))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENS, str(tmp_path / "theirs.npz"), *folders],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = np.load(tmp_path / "theirs.npz")
    for case, logits in ours.items():
        np.testing.assert_allclose(theirs[case], logits, atol=1e-4, rtol=1e-4, err_msg=case)


@pytest.mark.long
def test_the_harness_counts_as_many_right_as_we_do(tmp_path):
    pytest.importorskip("lm_eval")
    model = save_model(tmp_path / "model", "Llama")
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": " ".join(rng.choice([f"w{i}" for i in range(60)], 5)),
            "options": [" ".join(rng.choice([f"w{i}" for i in range(60)], size)) for size in (1, 2, 3)],
            "answer": int(rng.integers(3)),
        }
        for _ in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{test: {tmp_path / 'rows.jsonl'}}}\n  cache_dir: {tmp_path / 'cache'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{prompt}}'\n"
        "doc_to_choice: '{{options}}'\ndoc_to_target: answer\n"
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    for adapter in (LORA, REFT):
        kept = keep(tmp_path / adapter["about"]["name"], model, adapter)
        for base in (False, True):
            out = io.StringIO()
            evaluate(kept, ["mine"], out, include_path=tmp_path, to=tmp_path / "r.json", base=base)
            told = json.loads((tmp_path / "r.json").read_text())["results"]["mine"]
            assert (told["acc,none"], told["acc_norm,none"]) == pytest.approx(own_accuracy(kept, rows, base))
            assert re.search(r"^mine  acc 0\.\d+ ± 0\.\d+  \(40 rows\)$", out.getvalue(), re.MULTILINE)
    with pytest.raises(ValueError, match="knows no 'nothing'"):
        evaluate(kept, ["nothing"], io.StringIO())


def own_accuracy(kept, rows, base):
    """By the likelihoods of this project's own trainer: as sums, and per character."""
    from contextlib import nullcontext

    from fedapp.core.types import Example

    examples = [Example(row["prompt"], "", options=tuple(row["options"])) for row in rows]
    with attached(kept) as found, found.model.disabled() if base else nullcontext():
        rated = found.model.rate_options(examples)
    lengths = [[len(option) for option in row["options"]] for row in rows]
    plain = [int(np.argmax(values)) for values in rated]
    normed = [int(np.argmax(np.divide(v, n))) for v, n in zip(rated, lengths, strict=True)]
    right = [row["answer"] for row in rows]
    return np.mean(np.equal(plain, right)), np.mean(np.equal(normed, right))
