"""Hostile clients: what they send instead, and that nobody takes their scores for real ones."""

import io

import numpy as np
import pytest

from fedapp.cli.runs.compare import compare
from fedapp.client.hostile import HostileRoutine, Hostility, Noise, Sent, SignFlip, Stale
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.methods.parameter_sharing import ParameterSharing
from fedapp.planning.preflight import check
from fedapp.records.table import summary_notes, table_rows
from fedapp.toy.adapter import Toy
from tests.federation import TOY, run_toy

NAMES = [f"layer.0.prefix.{role}" for role in ("rotate", "weight", "bias")]


def session(server_round=1, state=None):
    model = Toy().attach(None, TrainConfig(learning_rate=0.5), seed=1)
    rows = [Example("p", "2", "t", 2)]
    rng = np.random.default_rng(server_round)
    return ClientSession(0, server_round, model, rows, rows, rows, {} if state is None else state, rng)


def train(corruption=None, server_round=1, state=None, received=None):
    routine = ParameterSharing()
    if corruption is not None:
        routine = HostileRoutine(routine, corruption, seed=7)
    arrays = {name: np.full(4, received, np.float32) for name in NAMES} if received is not None else {}
    return routine.train(Payload(arrays=arrays), session(server_round, state))[0].arrays


def equal(left, right):
    return all(np.array_equal(left[name], right[name]) for name in NAMES)


def test_noise_has_the_size_of_the_array_times_its_scale():
    honest, noisy = train(), train(Noise(100.0))
    for name in NAMES:
        added = (noisy[name] - honest[name]) / (100 * np.sqrt(np.mean(honest[name] ** 2)))
        assert noisy[name].dtype == np.float32
        assert 0.2 < np.sqrt(np.mean(added**2)) < 3  # four standard normal numbers
    assert equal(honest, train(Noise(0.0)))


def test_the_share_of_the_noise_is_exact_on_a_long_array():
    rng = np.random.default_rng(0)
    trained = {"small": 0.01 * rng.standard_normal(40_000), "large": 7 + rng.standard_normal(40_000)}
    sent = Sent(trained, trained, trained)
    for scale in (0.5, 100.0):
        noisy = Noise(scale).corrupt(sent, {}, np.random.default_rng(1))
        for name, values in trained.items():
            size = scale * np.sqrt(np.mean(values**2))
            assert np.std(noisy[name] - values) == pytest.approx(size, rel=0.02)
            assert abs(np.mean(noisy[name] - values)) < 0.02 * size


def test_noise_is_drawn_from_seed_client_and_round():
    def drawn(server_round, seed=7, client_id=0):
        opened = session(server_round)
        opened.client_id = client_id
        honest = train(None, server_round)[NAMES[0]]
        routine = HostileRoutine(ParameterSharing(), Noise(), seed)
        added = routine.train(Payload(), opened)[0].arrays[NAMES[0]] - honest
        return added / np.sqrt(np.mean(honest**2))

    np.testing.assert_array_equal(drawn(1), drawn(1))
    for other in (drawn(2), drawn(1, seed=8), drawn(1, client_id=1)):
        assert np.abs(drawn(1) - other).max() > 1  # of numbers around 100


def test_a_flipped_update_goes_as_far_the_other_way():
    honest, flipped = train(received=4.0), train(SignFlip(factor=2.0), received=4.0)
    start = session().model.parameters()
    for name in NAMES:
        np.testing.assert_allclose(flipped[name] - 4.0, -2 * (honest[name] - 4.0), rtol=1e-5)
        # Nothing has arrived in the first round: training starts from the run's initial values.
        first = train(SignFlip())[name] - start[name]
        np.testing.assert_allclose(first, start[name] - train()[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(train(SignFlip(of="parameters"))[name], -train()[name])


@pytest.mark.parametrize("upload", ["first", "initial"])
def test_a_stale_client_sends_the_same_for_ever_and_trains_on(upload):
    state = {}
    first = train(Stale(upload), 1, state)
    trained = {name: state[name] for name in NAMES}
    again = train(Stale(upload), 2, state, received=4.0)
    assert equal(first, again)
    assert equal(first, train() if upload == "first" else session().model.parameters())
    assert not equal(trained, {name: state[name] for name in NAMES})
    session_ = session(3, dict(state))
    HostileRoutine(ParameterSharing(), Stale(upload), 7).evaluate(Payload(), session_)  # memory is no adapter
    assert equal(session_.model.parameters(), state)


def test_a_method_that_sends_texts_is_refused():
    class Texts:
        def train(self, download, session):
            return Payload(texts={"answers": ["a"]}), {}

    with pytest.raises(ClientFailure, match=r"hostile\.clients can only be set for methods that send arrays"):
        HostileRoutine(Texts(), Noise(), 1).train(Payload(), session())


def test_arrays_that_are_no_parameters_are_refused():
    class Other:
        def train(self, download, session):
            return Payload(arrays={"vectors": np.zeros(2, np.float32)}), {}

    with pytest.raises(ClientFailure, match=r"'vectors' is no parameter of the model"):
        HostileRoutine(Other(), SignFlip(), 1).train(Payload(), session())


def test_only_the_named_clients_are_hostile():
    honest = ParameterSharing()
    hostility = Hostility.of({"clients": [2]}, Noise(), 4)
    assert hostility.routine(honest, 0, 1) is honest
    assert isinstance(hostility.routine(honest, 2, 1), HostileRoutine)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hostile=noise", "hostile.clients=[4]"], r"^hostile.clients=\[4\] must be a list .* 0 to 3"),
        (["hostile=noise", "hostile.clients=2"], "^hostile.clients=2 must be a list of client ids"),
        (["hostile=noise", "hostile.clients=[true]"], r"^hostile.clients=\[True\] must be a list"),
        (["hostile.clients=[0]"], r"^hostile.clients=\[0\] needs hostile._target_"),
        (["hostile=noise", "hostile.scale=-1"], "^hostile.scale=-1 must be a number of"),
        (["hostile=sign_flip", "hostile.of=x"], "^hostile.of='x' must be one of: update,"),
        (["hostile=stale", "hostile.upload=x"], "^hostile.upload='x' must be one of: first,"),
        (["hostile=noise", "hostile._target_=fedapp.aggregation.Mean", "~hostile.scale"],
         "^hostile._target_='fedapp.aggregation.Mean' is no class for hostile"),
        (["~hostile.clients", "hostile=noise"], "^hostile.clients=null must be a list"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_before_a_run_starts(overrides, said):
    with pytest.raises((ConfigError, ClientFailure), match=said) as caught:
        check(load_config([*TOY, *overrides]), with_model=False)
    assert "\n" not in str(caught.value)


def test_hostile_clients_are_announced_and_in_no_mean(tmp_path):
    # Its upload is left as it is, so that its score differs from the others'.
    run = run_toy(tmp_path / "run", "method=fedavg", "hostile=honest", "hostile.clients=[1]", "num_rounds=2")
    (warning,) = [text for text in run.warnings() if "hostile" in text]
    assert warning.startswith("client 1 made hostile (hostile=honest")
    assert warning in run.json("run")["warnings"]
    summary = run.json("summary")
    assert summary["hostile-clients"] == [1]
    assert "made hostile, and in no mean: client 1" in summary_notes(summary)
    final = [row for row in run.rows("metrics") if row["model"] == "final" and row["split"] == "test"]
    finals = {row["client-id"]: 100 * row["accuracy"] for row in final}
    honest = [finals[client] for client in (0, 2, 3)]
    assert abs(np.mean(honest) - np.mean(list(finals.values()))) > 1
    assert table_rows(summary)[-1][6] == f"{np.mean(honest):.1f}"
    assert f"worst client {min(honest):.1f}" in summary_notes(summary)[0]
    stream = io.StringIO()
    compare([tmp_path], stream, pytest.fail)
    assert "without client 1 in 1 of 1 configurations, made hostile there" in stream.getvalue()
    assert f" {np.mean(honest):.1f} " in stream.getvalue()


def test_without_hostile_clients_nothing_is_said(tmp_path):
    run = run_toy(tmp_path / "run", "method=fedavg", "num_rounds=1")
    assert not run.warnings()
    assert "hostile" not in "".join(summary_notes(run.json("summary")))
    stream = io.StringIO()
    compare([tmp_path], stream, pytest.fail)
    assert "hostile" not in stream.getvalue()


def test_the_norm_limit_names_whom_it_leaves_out_and_keeps_the_others(tmp_path):
    hostile = ["method=fedavg", "hostile=noise", "num_rounds=2"]
    limited = run_toy(tmp_path / "a", *hostile, "max_norm_ratio=3")
    said = [text for text in limited.warnings() if "max_norm_ratio=3" in text]
    assert len(said) == 2
    assert said[0].startswith("round 1: a reply of client 0 is left out: its norm")
    assert max(np.abs(array).max() for array in adapters(limited).values()) < 10
    # Without the limit the noise arrives.
    assert max(np.abs(a).max() for a in adapters(run_toy(tmp_path / "b", *hostile)).values()) > 10


def test_the_norm_limit_spares_honest_uploads(tmp_path):
    plain = run_toy(tmp_path / "a", "method=fedavg", "num_rounds=2")
    limited = run_toy(tmp_path / "b", "method=fedavg", "num_rounds=2", "max_norm_ratio=3")
    assert plain.adapters() == limited.adapters()


@pytest.mark.parametrize("value", ["0.5", "-1", "abc", "null"])
def test_a_norm_limit_below_the_median_is_refused(value):
    with pytest.raises(ConfigError, match=r"^max_norm_ratio=.* must be a ratio \(or 0: none\) of at least 1"):
        load_config([f"max_norm_ratio={value}"])


def adapters(run):
    from safetensors.numpy import load

    return load(run.adapters()["shared"])
