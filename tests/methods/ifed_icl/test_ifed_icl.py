"""IFed-ICL on toy federations: what travels when, exact bytes, lost and late clients."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load

from fedapp.aggregation import Mean
from fedapp.client import serve as serving
from fedapp.config.compose import load_config
from fedapp.core.errors import FederationError
from fedapp.core.payload import Payload, Upload
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.engines.grid import Network
from fedapp.methods.ifed_icl.client import ContextSharing
from fedapp.methods.ifed_icl.server import ContextAggregation
from fedapp.toy.adapter import ToyBase
from fedapp.toy.context import ToyContext
from tests import federation
from tests.federation import run_toy
from tests.server_side import TRAIN, begin

METHOD = ["method=ifed_icl", "adapter=toy_context", "adapter.num_layers=3"]
VECTORS, COEFFICIENTS = 3 * 2 * 4 * 2, 3 * 2 * 2 * 4  # bytes: fp16, fp32


def run(folder, *overrides, **options):
    # A round ends when all replies are there; only one that waits for a lost reply takes its time.
    return run_toy(folder, *METHOD, "round_timeout=30", *overrides, **options)


def sent(toy, direction, phase="train"):
    """Payload bytes by round and client."""
    rows = [r for r in toy.rows("traffic") if r["direction"] == direction and r["phase"] == phase]
    return {(r["server-round"], r["client-id"]): r["payload-bytes"] for r in rows}


def upload(client_id, num_examples=1, **values):
    names = {"vectors": "context-vectors", "coefficients": "coefficients"}
    shapes = {"vectors": (3, 2, 4), "coefficients": (3, 2, 2)}
    arrays = {names[k]: np.full(shapes[k], v, np.float32) for k, v in values.items()}
    return Upload(arrays, {}, client_id, num_examples, {})


def session(state=None, client_id=0, labels=(1, 3)):
    model = ToyContext(num_layers=3).attach(ToyBase(), TrainConfig(learning_rate=0.5), seed=1)
    rows = [Example("p", str(label), "t", label) for label in labels]
    return ClientSession(
        client_id, 1, model, rows, [], rows, {} if state is None else state, np.random.default_rng(0)
    )


def test_vectors_travel_once_then_coefficients(tmp_path):
    toy = run(tmp_path / "run", "num_rounds=3")
    up, down = sent(toy, "up"), sent(toy, "down")
    for client in range(4):
        assert [up[r, client] for r in (1, 2, 3)] == [VECTORS, COEFFICIENTS, COEFFICIENTS]
        assert [down[r, client] for r in (1, 2, 3)] == [0, VECTORS, COEFFICIENTS]
    assert set(sent(toy, "down", "evaluate").values()) == {COEFFICIENTS}


def test_a_rounds_coefficients_are_put_down(tmp_path):
    toy = run(tmp_path / "run", "num_rounds=3")
    rows = toy.rows("coefficients")
    assert [row["server-round"] for row in rows] == [2, 3]  # round 1 brings vectors alone
    kept = load((toy.folder / "adapters" / "shared" / "adapter.safetensors").read_bytes())["coefficients"]
    np.testing.assert_allclose(rows[-1]["values"], kept, atol=1e-6)
    assert rows[0]["values"] != rows[1]["values"]


def test_vectors_and_coefficients_are_plain_means_unless_weighed_by_examples():
    uniform, weighed = ContextAggregation(Mean()), ContextAggregation(Mean(weighting="examples"))
    for strategy in (uniform, weighed):
        begin(strategy)
        assert strategy.download(0, TRAIN) == Payload()
        strategy.aggregate(1, [upload(0, 1, vectors=2.0), upload(1, 3, vectors=6.0)], [])
        strategy.aggregate(1, [upload(0, 1, coefficients=1.0), upload(1, 3, coefficients=3.0)], [])
    assert np.unique(uniform.vectors) == [4.0]  # (2 + 6) / 2
    assert np.unique(uniform.coefficients) == [2.0]
    assert np.unique(weighed.vectors) == [5.0]  # (2 * 1 + 6 * 3) / 4
    assert np.unique(weighed.coefficients) == [2.5]
    assert set(uniform.shared()) == {"context-vectors", "coefficients"}
    assert uniform.download(0, TRAIN).arrays["coefficients"].dtype == np.float32


def test_a_client_does_what_its_download_allows():
    routine = ContextSharing()
    first = session()
    payload, metrics = routine.train(Payload(), first)
    assert payload.arrays["context-vectors"].dtype == np.float16
    assert np.unique(payload.arrays["context-vectors"]) == [2.0]  # labels 1 and 3
    assert metrics["num-demonstrations"] == 2
    everyone = {"context-vectors": np.full((3, 2, 4), 7.0, np.float16)}
    payload, metrics = routine.train(Payload(arrays=everyone), first)
    assert list(payload.arrays) == ["coefficients"]
    assert "train-loss" in metrics
    later = session(state=first.state)
    start = {"coefficients": np.full((3, 2, 2), 0.5, np.float32)}
    routine.evaluate(Payload(arrays=start), later)
    values = later.model.parameters()
    assert np.unique(values["coefficients"]) == [0.5]
    assert np.unique(values["context-vectors"]) == [7.0]


def test_before_anybody_has_sent_vectors_the_base_answers():
    bare = session()
    ContextSharing().evaluate(Payload(), bare)
    assert set(bare.model.parameters()) == {"coefficients"}


def test_a_client_without_memory_says_so():
    start = {"coefficients": np.full((3, 2, 2), 0.5, np.float32)}
    with pytest.raises(ClientFailure, match="client 4 no longer has the context vectors"):
        ContextSharing().train(Payload(arrays=start), session(client_id=4))


def test_vectors_beyond_fp16_are_refused_and_fit_bf16():
    loud = session(labels=(100_000,))
    with pytest.raises(ClientFailure, match=r"reach 100000.*vectors_dtype=float16.*bfloat16 or float32"):
        ContextSharing().train(Payload(), loud)
    payload, _ = ContextSharing(vectors_dtype="bfloat16").train(Payload(), loud)
    assert payload.arrays["context-vectors"].nbytes == VECTORS


def test_an_adapter_that_reads_no_demonstrations_is_refused(tmp_path):
    with pytest.raises(
        FederationError, match=r"needs an adapter that reads demonstrations \(adapter=context\)"
    ):
        run_toy(tmp_path / "run", "method=ifed_icl", "num_rounds=1")


def test_kept_moments_stay_with_the_client():
    routine, state = ContextSharing(keep_optimiser=True), {}
    everyone = {"context-vectors": np.full((3, 2, 4), 7.0, np.float16)}
    for expected in (1, 2):
        payload, _ = routine.train(Payload(arrays=everyone), session(state=state))
        assert state["moments/0.step"] == [expected]
        assert list(payload.arrays) == ["coefficients"]
    routine, state = ContextSharing(), {}
    routine.train(Payload(arrays=everyone), session(state=state))
    assert list(state) == ["context-vectors"]


def test_who_joins_late_gets_vectors_and_coefficients_at_once(tmp_path):
    toy = run(tmp_path / "run", "num_rounds=6", "clients_per_round=2", "seed=3")
    up, down = sent(toy, "up"), sent(toy, "down")
    seen: dict[int, int] = {}
    late = 0
    for server_round, client in sorted(up):
        if server_round == 1:
            expected = (0, VECTORS)
        elif seen.get(client, 1) == 1:  # not yet calibrated with the vectors
            expected = (VECTORS + (COEFFICIENTS if server_round > 2 else 0), COEFFICIENTS)
            late += client not in seen
        else:
            expected = (COEFFICIENTS, COEFFICIENTS)
        assert (down[server_round, client], up[server_round, client]) == expected
        seen[client] = server_round
    assert late > 0
    assert {c: b for (_, c), b in sent(toy, "down", "evaluate").items()} == {
        client: COEFFICIENTS + (VECTORS if seen.get(client, 1) == 1 else 0) for client in range(4)
    }
    assert all(row["client-id"] in range(4) for row in toy.rows("metrics") if row["model"] == "final")


def test_late_vectors_join_the_mean_and_reach_everybody():
    strategy = ContextAggregation(Mean(), late_vectors=True)
    begin(strategy)
    strategy.aggregate(1, [upload(0, vectors=2.0), upload(1, vectors=4.0)], [])
    assert strategy.download(0, TRAIN).texts == {}
    assert strategy.download(2, TRAIN).texts == {"wanted": ["context-vectors"]}
    payload, _ = ContextSharing(vectors_dtype="float32").train(strategy.download(2, TRAIN), session())
    assert set(payload.arrays) == {"coefficients", "context-vectors"}
    strategy.aggregate(1, [upload(0, coefficients=1.0), upload(2, vectors=9.0, coefficients=3.0)], [])
    assert np.unique(strategy.vectors) == [5.0]  # (2 + 4 + 9) / 3
    assert "context-vectors" in strategy.download(0, TRAIN).arrays  # it holds the old ones
    assert strategy.download(2, TRAIN).texts == {}
    strict = ContextAggregation(Mean())
    begin(strict)
    strict.aggregate(1, [upload(0, vectors=2.0), upload(1, vectors=4.0)], [])
    assert strict.download(2, TRAIN).texts == {}
    strict.aggregate(1, [upload(2, vectors=9.0, coefficients=3.0)], [])
    assert np.unique(strict.vectors) == [3.0]


def test_a_client_whose_reply_was_lost_gets_the_vectors_again(tmp_path):
    rounds = []

    def drop(client, request):
        is_train = request.metadata.message_type == "train"
        if client == 2 and is_train:
            rounds.append(int(request.metadata.group_id))
        return client == 2 and is_train and rounds[-1] in (1, 3)

    toy = run(tmp_path / "run", "num_rounds=5", "round_timeout=1", network=Network(drop=drop))
    down = sent(toy, "down")
    both = VECTORS + COEFFICIENTS
    assert [down[r, 2] for r in range(1, 6)] == [0, VECTORS, COEFFICIENTS, both, COEFFICIENTS]
    assert [down[r, 0] for r in range(1, 6)] == [0, VECTORS, COEFFICIENTS, COEFFICIENTS, COEFFICIENTS]


def test_a_reply_that_is_neither_is_left_out_by_name(tmp_path):
    class Hostile:
        """Client 1 sends vectors of another size, client 3 something else."""

        def __call__(self, work, state, output_dir):
            done = serve(work, state, output_dir)
            if work.phase == "train" and work.client_id == 1:
                arrays = {name: array[:1].copy() for name, array in done.upload.arrays.items()}
                done = replace(done, upload=Payload(arrays))
            if work.phase == "train" and work.client_id == 3:
                done = replace(done, upload=Payload({"weights": np.zeros(2, np.float32)}))
            return done

    serve = serving.serve
    serving.serve = Hostile()
    try:
        toy = run(tmp_path / "run", "num_rounds=2", "min_replies=2")
    finally:
        serving.serve = serve
    text = "\n".join(toy.warnings())
    for name, kind in ((1, "context-vectors"), (2, "coefficients")):
        assert f"round {name}: a reply of client 1 is left out: its arrays are not those of the other" in text
        assert f"the first that differs is {kind!r}, float" in text
    assert "a reply of client 3 is left out: it holds weights where context-vectors or coefficients" in text


def test_labels_without_examples_are_a_warning_not_an_end(tmp_path):
    labels = "+benchmark.labels=['0','1','2','3']"
    toy = run(tmp_path / "run", "num_rounds=2", "partitioner=distinct_task", labels)
    (warning,) = [text for text in toy.warnings() if "labels without an example" in text]
    assert "client 0 of 3, client 1 of 3, client 2 of 3, client 3 of 3" in warning
    assert toy.json("run")["status"] == "completed"


def test_late_vectors_are_measured_against_vectors(tmp_path):
    words = ["num_rounds=6", "num_clients=6", "clients_per_round=5", "adapter.size=400"]
    late = [*words, "method.strategy.late_vectors=true", "max_norm_ratio=3"]
    toy = run(tmp_path / "run", *late, num_nodes=6)
    assert not [text for text in toy.warnings() if "norm" in text]
    # Vectors, coefficients, and both at once.
    assert set(sent(toy, "up").values()) == {4800, 48, 4848}


@pytest.mark.parametrize("kind", ["noise", "sign_flip", "stale"])
def test_hostile_clients_corrupt_vectors_and_coefficients(tmp_path, kind):
    toy = run(tmp_path / "run", "num_rounds=3", f"hostile={kind}", "hostile.clients=[1]")
    assert not [text for text in toy.warnings() if "left out" in text]
    honest = load(run(tmp_path / "honest", "num_rounds=3").adapters()["shared"])
    shared = load(toy.adapters()["shared"])
    assert not np.allclose(shared["coefficients"], honest["coefficients"], atol=1e-6)
    if kind != "stale":  # which sends its first upload, the vectors, as it is
        assert not np.allclose(shared["context-vectors"], honest["context-vectors"], rtol=1e-2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.routine.vectors_dtype=float8", r"vectors_dtype='float8' must be one of: float16"),
        ("method.strategy.late_vectors=1", r"late_vectors=1 must be true or false"),
        (
            "method.strategy.memory.on_hit=skip",
            r"method\.strategy\.memory\.on_hit='skip' must be one of: reuse",
        ),
        ("method.strategy.memory.threshold=2", r"threshold=2 must be a number within \[-1, 1\]"),
        ("method.store_dir=''", r"store_dir='' must name a folder"),
    ],
)
def test_a_setting_that_cannot_be_used(override, said):
    from fedapp.config.build import ConfigError
    from fedapp.planning import preflight

    with pytest.raises(ConfigError, match=said):
        preflight.check(load_config([*federation.TOY[:3], *METHOD, override]), with_model=False)
