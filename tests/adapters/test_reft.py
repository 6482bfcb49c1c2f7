import numpy as np
import pytest
import torch

from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import fingerprint_of
from fedapp.models.structure import block_list
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2)


def attach(base=None, train=TRAIN, seed=1, **settings):
    return Reft(**{"rank": 3, "positions": "f2+l2", **settings}).attach(
        base or tiny_models.base(), train, seed=seed
    )


def trained(adapted, rounds=1):
    for index in range(rounds):
        adapted.train(tiny_models.examples(12), np.random.default_rng(index))
    return adapted.parameters()


def gram_error(parameters):
    rotates = [value.astype(np.float64) for name, value in parameters.items() if name.endswith(".rotate")]
    assert rotates
    return max(float(np.abs(r.T @ r - np.eye(r.shape[1])).max()) for r in rotates)


def test_parameters_have_stable_names_and_documented_shapes():
    adapted = attach(layers=[0, 2])
    shapes = {name: value.shape for name, value in adapted.parameters().items()}
    expected = {}
    for layer in (0, 2):
        for group in ("prefix", "suffix"):
            expected[f"layer.{layer}.{group}.rotate"] = (32, 3)
            expected[f"layer.{layer}.{group}.weight"] = (3, 32)
            expected[f"layer.{layer}.{group}.bias"] = (3,)
    assert shapes == expected
    adapted.detach()
    tied = attach(layers=[1], tied=True)
    assert set(tied.parameters()) == {f"layer.1.tied.{role}" for role in ("rotate", "weight", "bias")}


@pytest.mark.parametrize("name", [*tiny_models.DECODERS, *tiny_models.ENCODERS])
def test_training_lowers_the_loss_on_any_architecture(name):
    labels = ("no", "yes") if name in tiny_models.ENCODERS else ()
    adapted = attach(tiny_models.base(name, labels=labels))
    examples = tiny_models.examples(8, labels=len(labels))
    before = adapted.loss(examples)
    for step in range(5):
        adapted.train(examples, np.random.default_rng(step))
    assert adapted.loss(examples) < before
    answers = adapted.generate([e.prompt for e in examples])
    assert len(answers) == 8
    assert not labels or set(answers) <= set(labels)
    with adapted.disabled():
        assert abs(adapted.loss(examples) - before) > 1e-3  # the interventions are felt


def test_nothing_below_the_lowest_intervened_layer_is_part_of_the_backward_pass():
    base = tiny_models.base()
    adapted = attach(base, layers=[1])
    seen = {}
    for index, block in enumerate(block_list(base.model)[1]):
        block.register_forward_hook(lambda _m, _a, out, index=index: seen.update({index: out.requires_grad}))
    batch = adapted.trainer.encoder.batch(
        adapted.trainer.encoder.examples(tiny_models.examples(3, longest=9))
    )
    with adapted.armed(batch):
        adapted.trainer.losses(batch)[0].sum().backward()
    assert seen == {0: False, 1: True, 2: True}
    assert all(value.grad is None for value in base.model.parameters())
    assert adapted.weight.grad.abs().max() > 0


def test_answer_tokens_are_never_edited():
    adapted = attach(layers=[0], positions="f4+l4")
    encoder = adapted.trainer.encoder
    rows = encoder.examples(tiny_models.examples(4))
    batch = encoder.batch(rows)
    kept = []
    block_list(adapted.base.model)[1][0].register_forward_hook(lambda _m, _a, out: kept.append(out.detach()))
    with torch.no_grad():
        adapted.trainer.losses(batch)
        with adapted.armed(batch):
            adapted.trainer.losses(batch)
    changed = (kept[0] != kept[1]).any(-1)
    for row, encoded in zip(changed, rows, strict=True):
        assert not row[encoded.prompt_length :].any()
        assert int(row.sum()) == 2 * min(4, encoded.prompt_length // 2)


def test_r_stays_orthonormal_and_alive_under_weight_decay():
    train = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, weight_decay=0.5)
    adapted = attach(train=train)
    first = adapted.parameters()
    last = trained(adapted, rounds=3)
    assert gram_error(last) < 1e-5
    # Nothing reads the first tokens after a decoder's last block: that one has no gradient.
    names = [name for name in first if name.endswith(".rotate") and name != "layer.2.prefix.rotate"]
    moved = [np.abs(last[name] - first[name]).max() for name in names]
    assert min(moved) > 1e-3  # it still learns


def test_one_step_of_weight_decay_kills_the_rotation_of_pyreft():
    # Why R is not kept in torch's parametrisation: it multiplies by the integer part of a diagonal of ones.
    import pyreft

    one = pyreft.LoreftIntervention(embed_dim=8, low_rank_dimension=2, dtype=torch.float32)
    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        one(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    assert float(one.rotate_layer.weight.detach().abs().max()) == 0.0


def average(adapted):
    """The mean of what two clients end with after training on different data."""
    ends = []
    for seed in (0, 1):
        adapted.reset()
        adapted.train(tiny_models.examples(16, seed=seed), np.random.default_rng(seed))
        ends.append(adapted.parameters())
    return {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]}


@pytest.mark.parametrize("projection", ["polar", "qr"])
def test_a_loaded_average_of_clients_is_put_back_and_stays_orthonormal(projection):
    adapted = attach(r_projection=projection)
    mean = average(adapted)
    assert gram_error(mean) > 1e-4
    adapted.load(mean)
    assert gram_error(adapted.parameters()) < 1e-5
    assert gram_error(trained(adapted)) < 1e-5


def test_without_projection_an_average_is_taken_as_it_is_and_training_keeps_its_singular_values():
    adapted = attach(r_projection="none")
    mean = average(adapted)
    adapted.load(mean)
    assert all(np.array_equal(adapted.parameters()[name], mean[name]) for name in mean)
    after = trained(adapted)
    for name in (n for n in mean if n.endswith(".rotate")):
        np.testing.assert_allclose(after[name].T @ after[name], mean[name].T @ mean[name], atol=1e-4)
    assert gram_error(after) > 1e-4


def test_pyrefts_own_loading_of_an_average_leaves_r_off_the_orthonormal_matrices():
    import pyreft

    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(
            pyreft.LoreftIntervention(embed_dim=16, low_rank_dimension=2, dtype=torch.float32).state_dict()
        )
    one = pyreft.LoreftIntervention(embed_dim=16, low_rank_dimension=2, dtype=torch.float32)
    one.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    rotate = one.rotate_layer.weight.detach()
    assert float((rotate.T @ rotate - torch.eye(2)).abs().max()) > 0.1


def test_values_in_low_precision_are_put_back():
    adapted = attach()
    rounded = {n: torch.from_numpy(v).bfloat16().float().numpy() for n, v in trained(adapted).items()}
    assert gram_error(rounded) > 1e-4
    adapted.load(rounded)
    assert gram_error(adapted.parameters()) < 1e-5
    assert gram_error(trained(adapted)) < 1e-5


def test_an_average_that_cancels_out_leaves_a_live_orthonormal_r():
    adapted = attach()
    zero = {n: np.zeros_like(v) for n, v in adapted.parameters().items() if n.endswith(".rotate")}
    adapted.load(zero)
    assert gram_error(adapted.parameters()) < 1e-5


def test_loading_what_was_read_changes_no_bit_and_reset_goes_back_to_the_start():
    adapted = attach()
    start = adapted.parameters()
    end = trained(adapted)
    adapted.load(end)
    assert all(np.array_equal(adapted.parameters()[name], end[name]) for name in end)
    adapted.reset()
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)
    assert any(not np.array_equal(end[name], start[name]) for name in start)


def test_names_that_are_not_given_keep_their_value():
    adapted = attach()
    start = adapted.parameters()
    adapted.load({"layer.1.suffix.bias": np.array([1.0, 2.0, 3.0])})
    end = adapted.parameters()
    assert end.pop("layer.1.suffix.bias").tolist() == [1.0, 2.0, 3.0]
    assert all(np.array_equal(end[name], start[name]) for name in end)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layer.9.prefix.bias": np.zeros(3)}, "unknown parameter 'layer.9.prefix.bias'"),
        (
            {"layer.0.prefix.rotate": np.zeros((3, 32))},
            r"'layer.0.prefix.rotate' has shape \(3, 32\).*needs \(32, 3\)",
        ),
        ({"layer.0.prefix.bias": np.array([1.0, np.nan, 0.0])}, "not finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_and_nothing_changes(parameters, message):
    adapted = attach()
    start = adapted.parameters()
    with pytest.raises(ValueError, match=message):
        adapted.load({"layer.1.prefix.bias": np.ones(3), **parameters})
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 33}, "adapter.rank=33 must be within 1 and the model's hidden size 32"),
        ({"rank": 0}, "rank=0"),
        ({"rank": "abc"}, "rank='abc' must be a whole number"),
        ({"rank": 2.5}, "rank=2.5 must be a whole number"),
        ({"tied": "no"}, "tied='no' must be true or false"),
        ({"layers": [0, 3]}, "from 0 to 2"),
        ({"layers": 2}, "layers=2 must be 'all' or a list"),
        ({"layers": [0.5]}, r"layers=\[0.5\] must be 'all' or a list"),
        ({"layers": ""}, "layers='' must be 'all' or a list"),
        ({"layers": []}, "layers"),
        ({"layers": "upper"}, "layers='upper'"),
        ({"positions": "first"}, "positions='first'"),
        ({"intervention": "loref"}, "intervention='loref'"),
        ({"r_projection": "svd"}, "r_projection='svd'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"act_fn": "relo"}, "adapter.act_fn='relo'"),
    ],
)
def test_bad_settings_are_refused_by_name_and_leave_the_base_free(settings, message):
    base = tiny_models.base()
    with pytest.raises(ValueError, match=message) as caught:
        attach(base, **settings)
    assert "\n" not in str(caught.value)
    attach(base)


def test_the_same_seed_gives_the_same_bits_with_dropout_too():
    ends = [trained(attach(dropout=0.3)) for _ in range(2)]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    other = attach(dropout=0.3)
    other.train(tiny_models.examples(12), np.random.default_rng(5))
    assert any(not np.array_equal(ends[0][name], value) for name, value in other.parameters().items())
    assert any(not np.array_equal(ends[0][name], value) for name, value in trained(attach()).items())


def test_interventions_that_change_nothing_leave_the_logits_as_they_are():
    adapted = attach()
    values = adapted.parameters()
    for name in [name for name in values if name.endswith(".rotate")]:
        values[name.replace("rotate", "weight")] = values[name].T.copy()
        values[name.replace("rotate", "bias")] = np.zeros(3, np.float32)
    adapted.load(values)
    examples = tiny_models.examples(6)
    with adapted.disabled():
        alone = adapted.loss(examples)
    assert adapted.loss(examples) == pytest.approx(alone, abs=1e-5)
    adapted.reset()
    assert adapted.loss(examples) != pytest.approx(alone, abs=1e-3)


def test_dropout_acts_in_training_only():
    examples = tiny_models.examples(6)
    assert attach(dropout=0.9).loss(examples) == attach(dropout=0.0).loss(examples)


def test_detach_leaves_the_base_as_it_was_and_free_for_the_next_adapter():
    base = tiny_models.base("Bert", labels=("no", "yes"))
    whole = fingerprint_of(base.model)
    adapted = attach(base)
    with pytest.raises(ValueError, match="already carries"):
        attach(base)
    adapted.train(tiny_models.examples(8, labels=2), np.random.default_rng(0))
    assert fingerprint_of(base.model) != whole  # the head was trained
    adapted.detach()
    assert fingerprint_of(base.model) == whole
    assert not any(block._forward_hooks for block in block_list(base.model)[1])
    assert not any(value.requires_grad for value in base.model.parameters())
    attach(base)


def test_disabled_answers_as_the_base_alone_and_comes_back():
    base = tiny_models.base("Bert", labels=("no", "yes"))
    examples = tiny_models.examples(8, labels=2)
    adapted = attach(base)
    trained_loss = (adapted.train(examples, np.random.default_rng(0)), adapted.loss(examples))[1]
    with adapted.disabled():
        alone = adapted.loss(examples)
    assert adapted.loss(examples) == trained_loss != alone
    adapted.detach()
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.examples(examples))
    with torch.no_grad():
        logits = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    plain = torch.nn.functional.cross_entropy(logits, batch.targets)
    assert alone == pytest.approx(float(plain), abs=1e-6)


def test_a_bf16_base_is_adapted_in_fp32():
    base = tiny_models.base(dtype=torch.bfloat16)
    adapted = attach(base)
    examples = tiny_models.examples(8)
    before = adapted.loss(examples)
    for step in range(5):
        adapted.train(examples, np.random.default_rng(step))
    parameters = adapted.parameters()
    assert {value.dtype for value in parameters.values()} == {np.dtype("float32")}
    assert gram_error(parameters) < 1e-5
    assert adapted.loss(examples) < before
    head = tiny_models.base("Bert", labels=("no", "yes"), dtype=torch.bfloat16)
    other = attach(head)
    other.train(tiny_models.examples(8, labels=2), np.random.default_rng(0))
    assert other.parameters()["head.classifier.weight"].dtype == np.float32
    assert head.model.classifier.weight.dtype == torch.float32
