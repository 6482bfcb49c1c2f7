"""Parameter sharing: who gets what, what is mixed, what leaves the client."""

import weakref

import numpy as np
import pytest

from fedapp.aggregation import GeometricMedian, Mean
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.core.method import Moment
from fedapp.core.payload import Payload, Upload
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.methods.mixing import AdaptiveMixing, FixedMixing
from fedapp.methods.parameter_sharing import (
    AllButMe,
    Average,
    LocalOnly,
    ParameterSharing,
)
from fedapp.planning import preflight
from fedapp.toy.adapter import Toy
from tests.memory_peak import peak_bytes
from tests.server_side import TRAIN

NAMES = [f"layer.0.prefix.{role}" for role in ("rotate", "weight", "bias")]


def upload(client_id: int, w: float, num_examples: int = 1) -> Upload:
    return Upload({"w": np.array([w], np.float32)}, {}, client_id, num_examples, {})


def session(label: float = 2.0, *, val_label: float | None = None, state=None) -> ClientSession:
    model = Toy().attach(None, TrainConfig(learning_rate=0.5), seed=1)
    examples = [Example("p", str(label), "t", label)] * 2
    val = [Example("p", str(val_label), "t", val_label)] if val_label is not None else []
    return ClientSession(0, 1, model, examples, val, examples, state or {}, np.random.default_rng(0))


def vectors(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(4, value, np.float32) for name in NAMES}


def test_all_but_me_leaves_the_receiver_out():
    strategy = AllButMe(combine=Mean())
    strategy.aggregate(1, [upload(c, float(c)) for c in (0, 3, 6)], [])
    assert strategy.download(0, TRAIN).arrays["w"] == [4.5]  # (3 + 6) / 2
    assert strategy.download(3, TRAIN).arrays["w"] == [3.0]  # (0 + 6) / 2
    assert strategy.shared()["w"] == [3.0]


def test_all_but_me_holds_no_uploads_in_memory():
    strategy = AllButMe(combine=Mean())
    uploads = [upload(c, float(c)) for c in (0, 3, 6)]
    held = [weakref.ref(one.arrays["w"]) for one in uploads]
    strategy.aggregate(1, uploads, [])
    assert [strategy.latest[c].arrays["w"].tolist() for c in strategy.latest] == [[0.0], [3.0], [6.0]]
    del uploads
    assert [one() for one in held] == [None] * 3


def test_the_geometric_median_of_the_others_is_not_their_mean():
    strategy = AllButMe(combine=GeometricMedian())
    strategy.aggregate(1, [upload(c, w) for c, w in enumerate([0.0, 1.0, 2.0, 100.0])], [])
    assert strategy.download(0, TRAIN).arrays["w"] == pytest.approx([2.0], abs=1e-3)  # median of 1, 2, 100


def test_a_client_that_was_not_asked_gets_the_combination_of_all():
    strategy = AllButMe(combine=Mean())
    strategy.aggregate(1, [upload(1, 2.0), upload(2, 4.0)], [])
    assert strategy.download(0, TRAIN).arrays["w"] == [3.0]


def test_a_client_that_took_part_alone_gets_nothing():
    strategy = AllButMe(combine=Mean())
    strategy.aggregate(1, [upload(1, 2.0)], [])
    assert strategy.download(1, TRAIN).arrays == {}


def test_the_average_weighs_by_examples_where_it_says_so():
    uploads = [upload(0, 0.0, 1), upload(1, 4.0, 3)]
    by_examples, uniform = Average(Mean(weighting="examples")), Average(Mean(weighting="uniform"))
    by_examples.aggregate(1, uploads, [])
    uniform.aggregate(1, uploads, [])
    assert by_examples.download(0, TRAIN).arrays["w"] == [3.0]  # (0 * 1 + 4 * 3) / 4
    assert uniform.download(0, TRAIN).arrays["w"] == [2.0]


def test_before_anybody_uploads_there_is_nothing_to_send():
    for strategy in (Average(Mean()), AllButMe(Mean()), LocalOnly()):
        assert strategy.download(0, TRAIN).arrays == {}
        assert strategy.shared() == {}


def test_training_starts_from_the_mix_of_own_and_received():
    own = vectors(4.0)
    routine = ParameterSharing(mixing=FixedMixing(0.25))
    opened = session(state=dict(own))
    started = []
    opened.scorer = lambda model, moment: started.append(
        (model, moment, opened.model.parameters()[NAMES[0]][0])
    )
    _, metrics = routine.train(Payload(arrays=vectors(8.0)), opened)
    assert [(m, t, float(v)) for m, t, v in started[:2]] == [
        ("aggregated", "before", 8.0),
        ("mixed", "before", 7.0),
    ]
    assert metrics["local-weight"] == 0.25


def test_the_client_remembers_what_it_trained():
    opened = session()
    routine = ParameterSharing()
    payload, _ = routine.train(Payload(), opened)
    for name in NAMES:
        np.testing.assert_array_equal(payload.arrays[name], opened.state[name])
    again = session(state=dict(opened.state))
    assert routine._start(Payload(), again) == {}
    np.testing.assert_array_equal(again.model.parameters()[NAMES[0]], opened.state[NAMES[0]])


@pytest.mark.parametrize(
    ("share", "roles"),
    [
        ("RWb", {"rotate", "weight", "bias"}),
        ("R", {"rotate"}),
        ("Wb", {"weight", "bias"}),
        ("W", {"weight"}),
        ("b", {"bias"}),
        ("all", {"rotate", "weight", "bias"}),
        ("none", set()),
        (r"prefix\.rot", {"rotate"}),
    ],
)
def test_only_what_is_shared_leaves_the_client(share, roles):
    payload, _ = ParameterSharing(share=share).train(Payload(), session())
    assert {name.rsplit(".", 1)[1] for name in payload.arrays} == roles


def test_what_is_not_shared_stays_the_clients_own():
    opened = session(state=vectors(4.0))
    received = {NAMES[0]: np.full(4, 8.0, np.float32)}
    ParameterSharing(share="R")._start(Payload(arrays=received), opened)
    values = opened.model.parameters()
    assert values[NAMES[0]][0] == 8.0
    assert values[NAMES[1]][0] == 4.0


def test_a_share_that_matches_nothing_is_an_error():
    with pytest.raises(ClientFailure, match="method.routine.share='lora_A' matches no parameter"):
        ParameterSharing(share="lora_A").upload(session().model.shapes(), TRAIN)
    # It is known before the time for training is spent, indeed before the run begins.
    toy = ["model=toy", "adapter=toy", "benchmark=toy", "engine=local"]
    with pytest.raises(ConfigError, match="method.routine.share='lora_A' matches no parameter"):
        preflight.check(load_config([*toy, "method.routine.share=lora_A"]), with_model=True)


@pytest.mark.parametrize("head", [{}, {"head.classifier.weight": np.zeros(2, np.float32)}])
def test_a_role_that_an_adapter_does_not_have_is_an_error_that_says_what_works(head):
    lora = {f"layer.0.self_attn.q_proj.lora_{part}": np.zeros(2, np.float32) for part in "AB"}
    with pytest.raises(ClientFailure) as caught:
        ParameterSharing(share="RWb")._shared(head | lora)
    text = str(caught.value)
    assert "method.routine.share='RWb'" in text
    assert "set method.routine.share=all, or a pattern like lora_A" in text
    assert len(text) < 200
    assert ParameterSharing(share="all")._shared(head | lora) == [*head, *lora]
    assert ParameterSharing(share="lora_A")._shared(head | lora) == [next(iter(lora))]


def test_a_download_of_other_arrays_is_refused():
    with pytest.raises(ClientFailure, match="layer.0.prefix.bias"):
        ParameterSharing(share="RWb").train(Payload(arrays={NAMES[0]: np.zeros(4, np.float32)}), session())


def test_adaptive_mixing_takes_the_weight_with_the_least_validation_loss():
    # Own 4, received 0; the loss is least at the validation label 1, which weight 0.25 hits exactly.
    opened = session(val_label=1.0)
    mixed, weight = AdaptiveMixing((0.0, 0.25, 0.5, 1.0)).mix(vectors(4.0), vectors(0.0), opened)
    assert weight == 0.25
    assert mixed[NAMES[0]][0] == 1.0


def test_adaptive_mixing_does_not_look_at_the_test_split():
    opened = session(val_label=1.0)
    opened.test_set = [Example("p", "4", "t", 4)]
    assert AdaptiveMixing((0.0, 0.25, 0.5, 1.0)).mix(vectors(4.0), vectors(0.0), opened)[1] == 0.25


def test_ties_go_to_the_larger_share_of_the_own_part():
    assert (
        AdaptiveMixing((0.25, 0.5, 0.75)).mix(vectors(1.0), vectors(1.0), session(val_label=0.0))[1] == 0.75
    )


def test_adaptive_mixing_can_go_by_the_benchmarks_metric():
    opened = session(val_label=1.0)
    opened.metric = lambda examples: float(opened.model.parameters()[NAMES[0]][0])
    assert (
        AdaptiveMixing((0.0, 0.5, 1.0), criterion="score").mix(vectors(4.0), vectors(0.0), opened)[1] == 1.0
    )


def test_adaptive_mixing_without_validation_examples_says_so():
    with pytest.raises(ClientFailure, match=r"split\.val_share"):
        AdaptiveMixing().mix(vectors(1.0), vectors(0.0), session())


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_is_refused(weight):
    with pytest.raises(ValueError, match="local_weight"):
        FixedMixing(weight)
    with pytest.raises(ValueError, match="candidates"):
        AdaptiveMixing((0.5, weight))


def test_values_may_travel_in_half_precision():
    payload, _ = ParameterSharing(dtype="bfloat16").train(Payload(), session())
    assert payload.num_bytes == 3 * 4 * 2
    with pytest.raises(ValueError, match="dtype='int8' must be one of: float32"):
        ParameterSharing(dtype="int8")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FixedMixing("abc"), r"^local_weight='abc' must be a number within \[0, 1\]$"),
        (lambda: FixedMixing(None), "^local_weight=null must be a number"),
        (lambda: AdaptiveMixing("abc"), "^candidates='abc' must be a list of one or more fractions"),
        (lambda: AdaptiveMixing(0.5), "^candidates=0.5 must be a list"),
        (lambda: AdaptiveMixing(["abc"]), r"^candidates=\['abc'\] must be a list"),
        (lambda: AdaptiveMixing([]), r"^candidates=\[\] must be a list"),
        (lambda: AdaptiveMixing(criterion=["loss"]), r"^criterion=\['loss'\] must be one of: loss, score"),
        (lambda: ParameterSharing(share=None), "^share=null is neither of RWb"),
        (lambda: ParameterSharing(share="("), r"^share='\(' is neither of RWb"),
        (
            lambda: ParameterSharing(mixing=None),
            "^mixing=null must be a mapping with _target_",
        ),
        (lambda: Average(None), "^combine=null must be a mapping with _target_"),
        (lambda: AllButMe({}), "^combine={} must be a mapping with _target_"),
    ],
)
def test_settings_of_the_wrong_kind_are_named_in_one_line(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_where_nothing_is_trained_no_loss_is_reported():
    asked = session()
    asked.model.train = lambda examples, rng: float("nan")
    assert ParameterSharing().train(Payload(), asked)[1] == {}
    assert "train-loss" in ParameterSharing().train(Payload(), session())[1]


@pytest.mark.parametrize(("rule", "sums"), [(Mean(), 18), (GeometricMedian(), 0)])
def test_a_server_never_has_what_it_sends_to_everybody_in_memory(rule, sums):
    count, size = 64, 20_000
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(size).astype(np.float32) for _ in range(count)]
    uploads = [Upload({"w": one}, {}, client, 1, {}) for client, one in enumerate(values)]
    server = AllButMe(rule)
    peak = peak_bytes(lambda: server.aggregate(1, uploads, []))
    blocks = 2 * 8 * 8000 * (count + 1)
    assert peak - blocks < 1.1 * 4 * size * (count / 4 + sums)  # two eighths, and a mean's sums
    assert server.download(3, Moment(2, "train")).arrays["w"].shape == (size,)
