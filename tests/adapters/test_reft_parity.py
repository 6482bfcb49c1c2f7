import json

import numpy as np
import pyreft
import pytest
import torch

from fedapp.adapters.reft.adapter import Reft
from fedapp.adapters.reft.export import register
from fedapp.adapters.reft.hooks import _Armed, _repeated
from fedapp.adapters.reft.interventions import FORMS, Edits
from fedapp.core.train_config import TrainConfig
from tests import pyreft_side, tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=6, learning_rate=1e-2)


def attach(base, *, rounds=2, labels=0, **settings):
    adapted = Reft(**{"rank": 3, "positions": "f2+l2", **settings}).attach(base, TRAIN, seed=1)
    for index in range(rounds):
        adapted.train(tiny_models.examples(12, labels=labels), np.random.default_rng(index))
    return adapted


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_of_a_decoder_are_those_of_pyreft(tied):
    adapted = attach(tiny_models.base(), tied=tied)
    encoded = adapted.trainer.encoder.examples(tiny_models.examples(6, seed=3))
    prompts = [row.ids[: row.prompt_length] for row in encoded]
    answers = [row.ids[row.prompt_length :] for row in encoded]
    theirs = pyreft_side.pyreft_model(adapted)
    inputs, locations, labels = pyreft_side.with_sink(adapted, prompts, answers=answers)
    # Pyreft leaves rotary positions to the model; the token in front shifts all of them alike.
    _, output = theirs(inputs, unit_locations=locations, labels=labels)
    output.loss.backward()
    batch = adapted.trainer.encoder.batch(encoded)
    with adapted.armed(batch):
        losses, count = adapted.trainer.losses(batch)
        loss = losses.sum() / count
        loss.backward()
    assert float(loss.detach()) == pytest.approx(float(output.loss.detach()), abs=1e-6)
    for index, one in enumerate(theirs.interventions.values()):
        slot, group = index % len(adapted.layers), index // len(adapted.layers)
        columns = slice(3 * group, 3 * group + 3)
        source = one.learned_source
        torch.testing.assert_close(adapted.weight.grad[slot][columns], source.weight.grad, atol=1e-5, rtol=0)
        torch.testing.assert_close(adapted.bias.grad[slot][columns], source.bias.grad, atol=1e-5, rtol=0)
    assert adapted.weight.grad.abs().max() > 1e-3


def test_loss_and_gradients_of_an_encoder_are_those_of_pyreft():
    adapted = attach(tiny_models.base("Bert", labels=("no", "yes")), positions="f3", labels=2)
    theirs = pyreft_side.pyreft_model(adapted)
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.examples(tiny_models.examples(5, labels=2, longest=6)))
    places = []
    for length in batch.prompt_lengths:
        (found,) = pyreft.get_intervention_locations(
            last_position=int(length), positions="f3", num_interventions=1, pad_mode="last"
        )
        places.append(found)
    # The missing positions point behind the prompt: a padding token in every row takes them.
    extra = {
        "input_ids": torch.nn.functional.pad(batch.input_ids, (0, 1)),
        "attention_mask": torch.nn.functional.pad(batch.attention_mask, (0, 1)),
    }
    _, output = theirs(extra, unit_locations={"sources->base": (None, [places] * 3)}, labels=batch.targets)
    output.loss.backward()
    with adapted.armed(batch):
        loss = adapted.trainer.losses(batch)[0].mean()
        loss.backward()
    assert float(loss.detach()) == pytest.approx(float(output.loss.detach()), abs=1e-6)
    for slot, one in enumerate(theirs.interventions.values()):
        torch.testing.assert_close(
            adapted.weight.grad[slot], one.learned_source.weight.grad, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(adapted.bias.grad[slot], one.learned_source.bias.grad, atol=1e-5, rtol=0)


def test_generation_with_a_cache_is_that_of_pyreft():
    adapted = attach(tiny_models.base(), rounds=4)
    examples = tiny_models.examples(10, seed=4)
    ours = adapted.generate([example.prompt for example in examples])
    with adapted.disabled():
        assert adapted.generate([example.prompt for example in examples]) != ours
    theirs = pyreft_side.pyreft_model(adapted)
    encoded = adapted.trainer.encoder.prompts([example.prompt for example in examples])
    inputs, locations, _ = pyreft_side.with_sink(adapted, [row.ids for row in encoded], left=True)
    _, output = theirs.generate(
        inputs, unit_locations=locations, intervene_on_prompt=True, max_new_tokens=6, do_sample=False
    )
    new = output[:, inputs["input_ids"].shape[1] :]
    texts = adapted.base.tokenizer.batch_decode(new, skip_special_tokens=True)
    assert ours == [text.strip() for text in texts]


def test_beams_are_edited_like_the_row_they_repeat():
    edits = Edits(torch.tensor([1, 5, 7]), torch.tensor([[1.0], [2.0], [3.0]]))  # rows 0, 1, 1 of width 4
    armed = _Armed(width=4, num_rows=2, edits=edits, weights=[], dropout=0.0)
    beams = _repeated(edits, armed, 4)
    assert beams.rows.tolist() == [1, 5, 9, 13, 11, 15]
    assert beams.own.flatten().tolist() == [1, 1, 2, 2, 3, 3]


def test_beam_search_edits_every_beam():
    adapted = attach(tiny_models.base())
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.prompts([e.prompt for e in tiny_models.examples(3)]), left=True)
    settings = {"max_new_tokens": 3, "num_beams": 3, "do_sample": False, "num_return_sequences": 1}

    def search():
        return adapted.base.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **settings
        )

    with adapted.armed(batch):
        together = search()
    singles = []
    for index in range(3):
        alone = encoder.batch(encoder.prompts([tiny_models.examples(3)[index].prompt]), left=True)
        with adapted.armed(alone):
            one = adapted.base.model.generate(
                input_ids=alone.input_ids, attention_mask=alone.attention_mask, **settings
            )
        singles.append(one[0, alone.input_ids.shape[1] :].tolist())
    new = together[:, batch.input_ids.shape[1] :]
    for row, single in zip(new.tolist(), singles, strict=True):
        assert [t for t in row if t > 1] == [t for t in single if t > 1]


def logits_of_both(adapted, folder, labels=0):
    """Our logits and those of pyreft after loading the exported folder, on the same rows."""
    base = adapted.base
    encoder = adapted.trainer.encoder
    rows = encoder.prompts(["w1 w2 w3 w4 w5 w6", "w9 w8 w7 w6 w5 w4"])
    batch = encoder.batch(rows)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad(), adapted.armed(batch):
        ours = base.model(**inputs).logits
    adapted.export(folder)
    plain = tiny_models.model(
        type(base.model).__name__.split("For")[0].replace("LMHeadModel", ""), labels=labels
    )
    plain = plain.to(next(base.model.parameters()).dtype).eval()
    register(plain)
    loaded = pyreft.ReftModel.load(str(folder), plain, include_model=bool(labels))
    length = len(rows[0].ids)
    layers = len(adapted.layers)
    found = pyreft.get_intervention_locations(
        last_position=length,
        positions=adapted.adapter.positions,
        num_interventions=layers * len(adapted.groups),
        share_weights=adapted.adapter.tied,
    )
    places = [[place] * 2 for place in found]
    with torch.no_grad():
        _, output = loaded(inputs, unit_locations={"sources->base": (None, places)})
        alone = plain(**inputs).logits
    return ours, output.logits, alone


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_pyreft_opens_the_exported_folder_with_equal_logits(name, tied, tmp_path):
    adapted = attach(tiny_models.base(), intervention=name, tied=tied)
    ours, theirs, alone = logits_of_both(adapted, tmp_path / "adapter")
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    assert (ours - alone).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["Bert", "Llama", "GPT2"])
def test_pyreft_opens_an_exported_classifier_with_its_head(name, tmp_path):
    adapted = attach(tiny_models.base(name, labels=("no", "yes")), positions="f2", labels=2)
    ours, theirs, _ = logits_of_both(adapted, tmp_path / "adapter", labels=2)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_fp32_survives_pyrefts_loader_only_with_the_mark_in_the_state(tmp_path):
    adapted = attach(tiny_models.base(), layers=[1])
    adapted.export(tmp_path)
    weight = torch.from_numpy(adapted.parameters()["layer.1.prefix.weight"])

    def loaded():
        model = pyreft.ReftModel.load(str(tmp_path), tiny_models.model("Llama"))
        return next(iter(model.interventions.values())).learned_source.weight.detach()

    assert torch.equal(loaded(), weight)
    path = next(tmp_path.glob("intkey_layer_1*#0.bin"))
    state = torch.load(path)
    del state._metadata
    torch.save(state, path)
    assert torch.equal(loaded(), weight.bfloat16())  # what pyreft does by itself


def test_the_folder_also_holds_the_named_arrays(tmp_path):
    from safetensors.numpy import load_file

    adapted = attach(tiny_models.base())
    adapted.export(tmp_path)
    kept = load_file(tmp_path / "adapter.safetensors")
    assert all(np.array_equal(kept[name], value) for name, value in adapted.parameters().items())
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(config["representations"]) == 6


def test_an_activation_cannot_be_exported_and_the_message_says_so(tmp_path):
    adapted = attach(tiny_models.base(), act_fn="relu")
    with pytest.raises(ValueError, match=r"adapter\.act_fn=.relu. cannot be exported"):
        adapted.export(tmp_path / "x")
