"""FLoRA, FedEx-LoRA and FlexLoRA: exact on a real model, with mixed ranks and missed rounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedapp.adapters.lora.adapter import Lora
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.core.method import MessageSpec
from fedapp.core.payload import Payload, Upload
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.engines.grid import Network
from fedapp.methods.products.client import LowRankSharing
from fedapp.methods.products.server import ExactAverage, Redistribute, Stack
from fedapp.methods.products.updates import spec_without_ranks
from fedapp.planning import preflight
from fedapp.toy.low_rank import ToyLora
from tests import lora_layers, tiny_models
from tests.federation import run_toy
from tests.server_side import TRAIN as MOMENT

STRATEGIES = [Stack, ExactAverage, Redistribute]
TRAIN = TrainConfig(batch_size=4, max_steps=2, max_length=48, learning_rate=3e-2, max_grad_norm=0.0)
COUNTS = {0: 6, 1: 10, 2: 4}
FULL = 32  # of the tiny model's value projection [16, 32] and query projection [32, 32]


class Clients:
    """Three clients on one shared base; ranks may differ, so each has an adapter of its own."""

    def __init__(self, strategy, ranks=(2, 2, 2), dtype=torch.float32, train=TRAIN):
        self.strategy, self.routine, self.train = strategy, LowRankSharing(), train
        self.base, self.ranks, self.states = tiny_models.base(dtype=dtype), ranks, {k: {} for k in COUNTS}
        self.downloads = {}

    def open(self, client, number):
        model = Lora(rank=self.ranks[client], alpha=6.0).attach(self.base, self.train, seed=1)
        examples = tiny_models.examples(COUNTS[client], seed=client)
        rng = np.random.default_rng([client, number])
        return ClientSession(client, number, model, examples, [], [], self.states[client], rng)

    def round(self, number, takes_part=(0, 1, 2), lost=()):
        """Train; return sum_k w_k W_k, W_k being the weights that client k ends with."""
        uploads, ends = [], []
        for client in takes_part:
            session = self.open(client, number)
            self.downloads[client] = self.strategy.download(client, MOMENT)
            payload, metrics = self.routine.train(self.downloads[client], session)
            if client not in lost:
                uploads.append(Upload(payload.arrays, {}, client, COUNTS[client], metrics))
                ends.append(weights(session.model))
            session.model.detach()
        self.strategy.aggregate(1, uploads, sorted(lost))
        total = sum(u.num_examples for u in uploads)
        shares = [u.num_examples / total for u in uploads]
        return {name: sum(w * end[name] for w, end in zip(shares, ends, strict=True)) for name in ends[0]}

    def after(self, client, number):
        """The weights that a client would use now; what it writes to its memory is dropped."""
        session = self.open(client, number)
        session.state = {name: value.copy() for name, value in session.state.items()}
        self.routine.evaluate(self.strategy.download(client, MOMENT), session)
        found = weights(session.model)
        session.model.detach()
        return found


def weights(model):
    """Frozen weight, merged updates and alpha / r B A together, by layer."""
    return {name: lora_layers.effective(model, name) for name in model._paths}


def assert_close(found, expected, atol=1e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol)


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [(Stack, (2, 2, 2)), (Stack, (1, 2, 4)), (ExactAverage, (2, 2, 2)), (Redistribute, (FULL, FULL, FULL))],
)
def test_after_every_round_all_have_the_weighted_mean_of_all_weights(strategy, ranks):
    clients = Clients(strategy(), ranks)
    start = clients.base.model.model.layers[0].self_attn.q_proj.weight.clone()
    for number in (1, 2):
        expected = clients.round(number)
        for client in COUNTS:
            assert_close(clients.after(client, number), expected)
    moved = expected["layer.0.self_attn.q_proj"] - start.double().numpy()
    assert np.abs(moved).max() > 1e-2
    assert (clients.base.model.model.layers[0].self_attn.q_proj.weight == start).all()


@pytest.mark.parametrize(("strategy", "rank"), [(Stack, 2), (ExactAverage, 2), (Redistribute, FULL)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_steps_over_a_16_bit_base_are_exact_to_the_rounding_of_fp32(dtype, strategy, rank):
    clients = Clients(strategy(), (rank,) * 3, dtype, replace(TRAIN, learning_rate=3e-4))
    start = clients.after(0, 0)
    for number in (1, 2, 3):
        expected = clients.round(number)
        moved = {name: value - start[name] for name, value in expected.items()}
        for client in COUNTS:
            found = clients.after(client, number)
            missed = [np.square(found[name] - value).sum() for name, value in expected.items()]
            assert (sum(missed) / sum(np.square(value).sum() for value in moved.values())) ** 0.5 < 1e-4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_client_that_misses_rounds_does_not_fall_behind(strategy):
    clients = Clients(strategy(), (FULL,) * 3 if strategy is Redistribute else (2, 2, 2))
    rounds = [((0, 1), ()), ((0, 1, 2), (1,)), ((1, 2), ()), ((0, 1, 2), (0,))]
    for number, (takes_part, lost) in enumerate(rounds, start=1):
        expected = clients.round(number, takes_part, lost)
        for client in COUNTS:
            assert_close(clients.after(client, number), expected)


@pytest.mark.parametrize("strategy", [Stack, ExactAverage])
def test_a_download_carries_what_its_client_has_not_confirmed(strategy):
    clients = Clients(strategy())
    clients.round(1, (0, 1))
    clients.round(2, (0, 1, 2), lost=(1,))
    clients.round(3)
    # Client 1 had update 1 and merged it, but its reply was lost: it is sent again and ignored.
    assert numbers(clients.downloads[0]) == {2}
    assert numbers(clients.downloads[1]) == {1, 2}
    assert numbers(clients.downloads[2]) == {2}
    assert numbers(clients.strategy.download(1, MOMENT)) == {3}
    assert numbers(clients.strategy.download(9, MOMENT)) == {1, 2, 3}


def numbers(payload):
    return {int(name.split("/")[0].split("-")[1]) for name in payload.arrays if name.startswith("update-")}


def test_a_client_that_lost_its_memory_says_so_instead_of_training_on_other_weights():
    clients = Clients(Stack())
    clients.round(1)
    clients.round(2)
    clients.states[1].clear()
    with pytest.raises(
        ClientFailure, match="client 1 has merged the updates up to 0, but update 2 came next"
    ):
        clients.round(3)


@pytest.mark.parametrize("strategy", [Stack, ExactAverage])
def test_a_client_that_lost_its_memory_gets_everything_again(strategy):
    clients = Clients(strategy())
    clients.round(1)
    clients.round(2)
    clients.states[1].clear()
    clients.round(3, (0, 2), lost=(1,))  # it was asked, too, and could only say that it cannot
    assert numbers(clients.strategy.download(1, MOMENT)) == {1, 2, 3}
    assert numbers(clients.strategy.download(0, MOMENT)) == {3}
    expected = clients.round(4)
    for client in COUNTS:
        assert_close(clients.after(client, 4), expected)


@pytest.mark.parametrize("ranks", [(1, 2, 4), (2, 2, 2)])
def test_flexlora_gives_each_client_the_best_approximation_of_its_rank(ranks):
    clients = Clients(Redistribute(), ranks)
    start = clients.after(0, 0)  # B is zero
    expected = clients.round(1)
    for client, rank in enumerate(ranks):
        found = clients.after(client, 1)
        for name, value in expected.items():
            u, s, vt = np.linalg.svd(value - start[name])
            assert_close({name: found[name] - start[name]}, {name: u[:, :rank] * s[:rank] @ vt[:rank]})
    assert clients.strategy.download(7, MOMENT).arrays["layer.0.self_attn.q_proj.lora_A"].shape == (
        max(ranks),
        32,
    )


def test_the_first_round_of_flora_trains_as_fedavg_and_later_ones_start_afresh():
    clients = Clients(Stack())
    session = clients.open(0, 1)
    clients.routine.train(Payload(), session)
    first = session.model.factors()
    session.model.reset()
    session.model.train(session.train_set, np.random.default_rng([0, 1]))
    assert all((value == first[name]).all() for name, value in session.model.factors().items())
    session.model.detach()
    clients.round(1)
    seen = []
    session = clients.open(0, 2)
    initial = session.model.factors()
    session.scorer = lambda model, moment: seen.append((model, moment, session.model.factors()))
    clients.routine.train(clients.strategy.download(0, MOMENT), session)
    session.model.detach()
    assert [s[:2] for s in seen] == [("aggregated", "before"), ("own", "after")]
    name = "layer.0.self_attn.q_proj.lora_"
    assert not seen[0][2][f"{name}B"].any()
    assert (seen[0][2][f"{name}A"] != initial[f"{name}A"]).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_specs_are_those_of_real_payloads(strategy):
    ranks = (2, 2, 2) if strategy is ExactAverage else (1, 2, 4)
    clients = Clients(strategy(), ranks)
    uploads = []
    for client in COUNTS:
        session = clients.open(client, 1)
        expected = clients.routine.upload(shapes(session.model.parameters()), MOMENT).shapes
        payload, _ = clients.routine.train(Payload(), session)
        session.model.detach()
        assert shapes(payload.arrays) == expected
        uploads.append(expected)
    clients = Clients(strategy(), ranks)
    planned = clients.strategy.downloads([MessageSpec(upload) for upload in uploads], MOMENT)
    clients.round(1)
    for client in COUNTS:
        assert shapes(clients.strategy.download(client, MOMENT).arrays) == planned[client].shapes


def shapes(arrays):
    return {name: array.shape for name, array in arrays.items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_trained_beside_is_averaged_by_examples(strategy):
    made = strategy()
    uploads = [Upload(toy_upload(k), {}, k, n, {}) for k, n in ((0, 1), (1, 3))]
    made.aggregate(1, uploads, [])
    bias = "layer.0.prefix.bias"
    mean = made.download(0, MOMENT).arrays[bias]
    expected = 0.25 * uploads[0].arrays[bias] + 0.75 * uploads[1].arrays[bias]
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    assert (made.shared()[bias] == mean).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_shared_adapter_is_what_a_newcomer_would_use(strategy):
    made = strategy()
    assert made.shared() == {}
    for number in range(2):
        made.aggregate(1, [Upload(toy_upload(10 * number + k), {}, k, 1 + k, {}) for k in (0, 1)], [])
    model = ToyLora(rank=4).attach(None, TrainConfig(), seed=1)
    session = ClientSession(5, 3, model, [], [], [], {}, np.random.default_rng(0))
    LowRankSharing().evaluate(made.download(5, MOMENT), session)
    newcomer = model.weight()
    model.reset()
    model.load(made.shared())
    np.testing.assert_allclose(model.weight(), newcomer, atol=1e-5)


def toy_upload(seed):
    model = ToyLora(rank=2).attach(None, TrainConfig(learning_rate=0.5), seed=seed)
    model.train([Example("p", "1", "t", seed)], np.random.default_rng(seed))
    return model.factors() | {"layer.0.prefix.bias": model.parameters()["layer.0.prefix.bias"]}


def test_ranks_are_free_only_where_both_factors_agree():
    def arrays(a, b):
        return {"x.lora_A": np.zeros(a, np.float32), "x.lora_B": np.zeros(b, np.float32)}

    expected = spec_without_ranks(arrays((2, 5), (6, 2)))
    assert spec_without_ranks(arrays((3, 5), (6, 3))) == expected
    for a, b in [((2, 5), (6, 3)), ((2, 4), (6, 2)), ((0, 5), (6, 0)), ((7, 5), (6, 7)), ((2, 5, 1), (6, 2))]:
        assert spec_without_ranks(arrays(a, b)) != expected


MIXED = 'by_client=["adapter.rank=1","adapter.rank=3"]'


@pytest.mark.parametrize("method", ["flora", "flexlora"])
def test_a_run_with_mixed_ranks_takes_everybody_in(method, tmp_path):
    run = run_toy(tmp_path / "run", "adapter=toy_lora", f"method={method}", MIXED, "num_rounds=3")
    assert run.warnings() == []
    trained = {(r["server-round"], r["client-id"]) for r in run.rows("metrics") if r["split"] == "train"}
    assert len(trained) == 12
    losses = [r["loss"] for r in run.rows("metrics") if r["model"] == "final"]
    assert len(losses) == 4


def test_an_upload_whose_factors_do_not_fit_each_other_is_left_out(tmp_path, monkeypatch):
    factors = Stack().alike(toy_upload(0))
    assert ("layer.0.prefix.lora_A", "float32", (-1, 4)) in factors
    train = LowRankSharing.train

    def odd(self, download, session):
        payload, metrics = train(self, download, session)
        if session.client_id == 2:
            payload.arrays["layer.0.prefix.lora_A"] = np.zeros((3, 4), np.float32)
        return payload, metrics

    monkeypatch.setattr(LowRankSharing, "train", odd)
    run = run_toy(tmp_path / "run", "adapter=toy_lora", "method=flora", "num_rounds=1", network=Network())
    assert any(
        "reply of client 2 is left out: its arrays are not those of the other clients" in warning
        for warning in run.warnings()
    )


def test_mixed_ranks_are_refused_where_entries_are_combined():
    words = ["model=toy", "benchmark=toy", "adapter=toy_lora", MIXED]
    preflight.check(load_config([*words, "method=flora"]), with_model=True)
    with pytest.raises(ConfigError) as caught:
        preflight.check(load_config([*words, "method=fedex_lora"]), with_model=False)
    text = str(caught.value)
    assert text.startswith("by_client gives adapter.rank=1, 3, but method=fedex_lora needs one rank")
    takes = text.rpartition(": ")[2].split(", ")
    assert {"flora", "flexlora", "local"} <= set(takes)
    assert not {"fedavg", "fedit", "fedex_lora"} & set(takes)


def test_an_adapter_without_factors_is_refused_and_the_base_is_left_free():
    for words, said in [
        (["adapter=loreft"], "needs an adapter of low-rank factors .adapter=lora., not ReftAdapted"),
        (["adapter=lora_b"], "low-rank factors, both of them trained .adapter=lora adapter.freeze_a=false."),
    ]:
        with pytest.raises(ConfigError, match=said):
            preflight.check(load_config(["method=flora", *words]), with_model=True)
    preflight.check(load_config(["method=flora"]), with_model=True)
