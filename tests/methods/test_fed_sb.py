"""Fed-SB on a real model: what is agreed, sent and trained, and that the mean of R is exact."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import client_app
import server_app
from fedapp.aggregation import Mean
from fedapp.client import serve as serving
from fedapp.client import workplace as workplaces
from fedapp.core.errors import FederationError
from fedapp.core.method import MessageSpec
from fedapp.core.payload import Upload
from fedapp.engines.grid import Network, run_local
from fedapp.methods.fed_sb import SharedSubspace, SubspaceSharing
from fedapp.wire.records import Envelope, pack
from tests.server_side import TRAIN

SMALL = [
    "method=fed_sb",
    "adapter.rank=4",
    "num_clients=3",
    "num_rounds=2",
    "split.max_train=8",
    "split.max_test=4",
    "train.num_epochs=1",
    "score={splits:[test],base:false,before:false,after:false}",
    "round_timeout=20",
]
BYTES_OF_R = 4 * 28 * 4**2  # fp32, 7 linear layers in each of 4 blocks, rank 4
BYTES_OF_BASES = 4 * 4 * 4 * (4 * (160 + 160) + 3 * (160 + 416))  # fp32, rank 4, blocks, widths


class Run:
    """A run's messages and what is left of it."""

    def __init__(self, folder, monkeypatch, *words, network=None):
        self.messages, serve = [], serving.serve

        def watch(work, state, output_dir):
            done = serve(work, state, output_dir)
            self.messages.append((work.phase, work.server_round, work.client_id, work.download, done.upload))
            return done

        monkeypatch.setattr(serving, "serve", watch)
        few = [] if "adapter=lora" in words else ["adapter.init_examples=4"]
        overrides = " ".join([*SMALL, *few, "engine=local", *words, f"run_dir={folder}"])
        try:
            run_local(
                server_app.app,
                client_app.app,
                num_nodes=3,
                run_config={"overrides": overrides},
                network=network,
            )
        finally:
            workplaces.close()
        self.finals = [load_file(folder / f"adapters/client-{k}/adapter.safetensors") for k in range(3)]
        self.shared = load_file(folder / "adapters/shared/adapter.safetensors")

    def of(self, phase, server_round):
        found = [m for m in self.messages if m[0] == phase and m[1] == server_round]
        return {client: (download, payload) for _, _, client, download, payload in found}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Run(tmp_path_factory.mktemp("fed_sb") / "run", patch)


def bases(arrays):
    return {name: value for name, value in arrays.items() if name.endswith((".sb_A", ".sb_B"))}


def cores(arrays):
    return {name: value for name, value in arrays.items() if name.endswith(".sb_R")}


def test_only_r_is_sent_after_the_agreement(run):
    for server_round in (1, 2):
        for download, payload in run.of("train", server_round).values():
            assert payload.num_bytes == BYTES_OF_R
            assert set(payload.arrays) == set(cores(run.shared))
            assert download.num_bytes == BYTES_OF_R + (BYTES_OF_BASES if server_round == 1 else 0)
    assert [payload.num_bytes for _, payload in run.of("open", 0).values()] == [BYTES_OF_BASES] * 3
    assert [download.num_bytes for download, _ in run.of("open", 0).values()] == [0] * 3


def test_a_and_b_are_bit_equal_on_all_clients_and_never_change(run):
    first = bases(run.of("train", 1)[0][0].arrays)
    assert len(first) == 2 * 28
    for final in [*run.finals, run.shared]:
        assert all((final[name] == value).all() for name, value in first.items())


def test_the_agreed_subspace_is_that_of_the_mean_of_the_estimates(run):
    estimates = [payload.arrays for _, payload in run.of("open", 0).values()]
    start = run.of("train", 1)[0][0].arrays
    for name in cores(start):
        left, right = name.replace("sb_R", "sb_B"), name.replace("sb_R", "sb_A")
        mean = sum(each[left].astype(float) @ each[right] for each in estimates) / 3  # shards of one size
        u, s, v = np.linalg.svd(mean)
        joined = start[left].astype(float) * s[:4] @ start[right]
        np.testing.assert_allclose(joined, u[:, :4] * s[:4] @ v[:4], atol=1e-4)
        np.testing.assert_allclose(start[name], 1e-6 * np.diag(s[:4]), rtol=1e-4, atol=1e-9)


def test_the_mean_of_r_is_the_mean_of_the_dense_updates(run):
    uploads = [payload.arrays for _, payload in run.of("train", 2).values()]
    assert any((uploads[0][name] != uploads[1][name]).any() for name in uploads[0])
    for name, mean in cores(run.shared).items():
        left = run.shared[name.replace("sb_R", "sb_B")].astype(float)
        right = run.shared[name.replace("sb_R", "sb_A")].astype(float)
        dense = sum(left @ upload[name] @ right for upload in uploads) / 3
        np.testing.assert_allclose(left @ mean @ right, dense, atol=1e-7)
        assert np.abs(dense).max() > 1e-4
        assert all((final[name] == mean).all() for final in run.finals)


def test_who_missed_the_first_rounds_still_gets_the_subspace(tmp_path, monkeypatch):
    lost = []

    def tamper(client, reply):
        if client == 1 and reply.metadata.message_type == "train" and len(lost) < 2:
            lost.append(reply)
            reply.content = pack(Envelope({"failure": "out of memory"}))
        return reply

    words = ["min_replies=2"]
    run = Run(tmp_path / "run", monkeypatch, *words, network=Network(tamper=tamper))
    assert len(lost) == 2
    downloads = {client: download.num_bytes for client, (download, _) in run.of("train", 2).items()}
    assert downloads == {0: BYTES_OF_R, 1: BYTES_OF_R + BYTES_OF_BASES, 2: BYTES_OF_R}
    first = bases(run.shared)
    assert all((final[name] == value).all() for final in run.finals for name, value in first.items())


def test_a_client_that_failed_gets_the_subspace_again():
    strategy = SharedSubspace(Mean())
    factor = {"x.sb_B": np.ones((3, 1), np.float32), "x.sb_A": np.ones((1, 2), np.float32)}
    strategy.open([Upload(factor, client_id=k, num_examples=1) for k in (0, 1)])

    trained = {"x.sb_R": np.ones((1, 1), np.float32)}
    strategy.aggregate(1, [Upload(trained, client_id=k, num_examples=1) for k in (0, 1)], [])
    assert set(strategy.download(1, TRAIN).arrays) == {"x.sb_R"}
    strategy.aggregate(2, [Upload(trained, client_id=0, num_examples=1)], [1])
    assert set(strategy.download(0, TRAIN).arrays) == {"x.sb_R"}
    assert set(strategy.download(1, TRAIN).arrays) == {"x.sb_R", "x.sb_A", "x.sb_B"}


def test_inits_that_need_no_data_skip_the_agreements_bytes(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, "adapter.init=svd_weight", "num_rounds=1")
    assert [payload.num_bytes for _, payload in run.of("open", 0).values()] == [0] * 3
    assert [download.num_bytes for download, _ in run.of("train", 1).values()] == [0] * 3
    assert all(payload.num_bytes == BYTES_OF_R for _, payload in run.of("train", 1).values())


def test_an_adapter_without_a_subspace_is_refused_in_one_line(tmp_path, monkeypatch):
    words = ["method=fed_sb", "adapter=lora"]
    with pytest.raises(FederationError, match=r"trains a matrix between two frozen ones \(adapter=lora_sb\)"):
        Run(tmp_path / "run", monkeypatch, *words)


def test_the_specs_are_those_of_the_real_payloads(run):
    parameters = {name: value.shape for name, value in run.finals[0].items()}
    sent = SubspaceSharing().upload(parameters, TRAIN).shapes
    download, payload = run.of("train", 2)[0]
    assert sent == {name: value.shape for name, value in payload.arrays.items()}
    (received,) = SharedSubspace(Mean()).downloads([MessageSpec(sent)], TRAIN)
    assert received.shapes == {name: value.shape for name, value in download.arrays.items()}


@pytest.mark.parametrize("value", [-1.0, "x"])
def test_a_bad_first_step_is_refused(value):
    with pytest.raises(ValueError, match="init_step=.* must be a number of at least 0"):
        SharedSubspace(Mean(), init_step=value)
