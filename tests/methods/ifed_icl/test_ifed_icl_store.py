"""IFed-ICL with a task store, on toy federations: hits, extended means, similar tasks, what is refused."""

import numpy as np
import pytest
from safetensors.numpy import load

from fedapp.config.compose import load_config
from fedapp.core.errors import FederationError
from fedapp.methods.ifed_icl.memory import TaskMemory
from fedapp.methods.ifed_icl.store import TaskStore
from tests.federation import run_toy
from tests.server_side import run_facts

METHOD = ["method=ifed_icl", "adapter=toy_context", "adapter.num_layers=3"]


def run(folder, *overrides, **options):
    # A round ends when all replies are there; only one that waits for a lost reply takes its time.
    return run_toy(folder, *METHOD, "round_timeout=30", *overrides, **options)


def test_one_round_calibrates_nothing_and_says_so(tmp_path):
    store = f"method.store_dir={tmp_path / 'store'}"
    toy = run(tmp_path / "run", "num_rounds=1", store)
    (warning,) = toy.warnings()
    assert warning.startswith("num_rounds=1 calibrates nothing")
    assert TaskStore(tmp_path / "store").tasks() == []
    run(tmp_path / "two", "num_rounds=2", store)
    (hit,) = run(tmp_path / "again", "num_rounds=1", store).warnings()
    assert "is in the store" in hit
    extend = "method.strategy.memory.on_hit=extend"
    said = run(tmp_path / "more", "num_rounds=1", store, extend, "seed=4").warnings()
    assert any(text.startswith("num_rounds=1 calibrates nothing") for text in said)
    kept = TaskStore(tmp_path / "store").get("toy")
    assert (kept.rounds, kept.count) == (2, 8)  # its coefficients are those of the two rounds


def test_means_over_clients_and_over_examples_are_not_joined(tmp_path):
    store = [f"method.store_dir={tmp_path / 'store'}", "method.strategy.memory.on_hit=extend", "num_rounds=2"]
    run(tmp_path / "a", *store)
    with pytest.raises(FederationError, match="is another one: this run has template .*examples"):
        run(tmp_path / "b", *store, "method.strategy.combine.weighting=examples")
    assert TaskStore(tmp_path / "store").get("toy").count == 4


def test_a_wrapped_rule_counts_as_the_rule_inside(tmp_path):
    wrapped = [
        "~method.strategy.combine.weighting",
        "method.strategy.combine._target_=fedapp.aggregation.CenteredClip",
        "+method.strategy.combine.rule._target_=fedapp.aggregation.Mean",
        "+method.strategy.combine.rule.weighting=examples",
    ]
    store = f"method.store_dir={tmp_path / 'store'}"
    toy = run(tmp_path / "run", "num_rounds=2", store, *wrapped)
    trained = sum(client["train-rows"] for client in toy.json("summary")["clients"])
    assert TaskStore(tmp_path / "store").get("toy").count == trained > 4


def test_the_same_task_again_costs_no_training(tmp_path):
    store = f"method.store_dir={tmp_path / 'store'}"
    first = run(tmp_path / "a", "num_rounds=3", store)
    again = run(tmp_path / "b", "num_rounds=3", store)
    assert not [r for r in again.rows("traffic") if r["phase"] == "train"]
    assert not [r for r in again.rows("metrics") if r["split"] == "train"]
    (warning,) = again.warnings()
    assert "task 'toy' is in the store (3 rounds, mean over 4)" in warning
    assert "nothing is calibrated" in warning
    scores = [
        [(r["client-id"], r["accuracy"]) for r in t.rows("metrics") if r["model"] == "final"]
        for t in (first, again)
    ]
    assert scores[0] == scores[1] != []
    assert first.adapters()["shared"] == again.adapters()["shared"]
    (kept,) = TaskStore(tmp_path / "store").tasks()
    assert kept.key.base == "toy"


def test_a_task_calibrated_for_another_injection_is_refused(tmp_path):
    def memory(*words):
        config = load_config(["method=ifed_icl", "benchmark=embedded_text_classification", *words])
        made = TaskMemory(str(tmp_path))
        return made, lambda: made.recall(run_facts(config["adapter"]), "the mean")

    kept, recall = memory()
    assert recall() is None
    kept.extend(np.ones((2, 2, 3), np.float32), 4)
    kept.keep(np.ones((2, 2, 2), np.float32), 3)
    assert memory()[1]().rounds == 3
    for other in ("injection=balance", "fusion=pca", "demonstration='{prompt} {target}'"):
        with pytest.raises(FederationError, match="is another one: this run has template"):
            memory(f"adapter.{other}")[1]()


def test_a_task_of_another_injection_is_no_start(tmp_path):
    ones = np.ones((2, 2, 2), np.float32)
    for task, injection, near in (("a", "linear", False), ("b", "balance", False), ("c", "linear", True)):
        words = ["method=ifed_icl", "benchmark=embedded_text_classification"]
        memory = TaskMemory(str(tmp_path), task)
        config = load_config([*words, f"adapter.injection={injection}"])
        memory.recall(run_facts(config["adapter"]), "the mean")
        memory.extend(np.ones((2, 2, 3), np.float32), 4)
        assert (memory.warm_start(ones) is not None) == near
        memory.keep(ones, 3)


def test_without_a_store_nothing_is_kept(tmp_path):
    toy = run(tmp_path / "run", "num_rounds=2")
    assert toy.warnings() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_task_of_another_base_model_is_refused(tmp_path):
    store = f"method.store_dir={tmp_path / 'store'}"
    run(tmp_path / "a", "num_rounds=2", store)
    with pytest.raises(
        FederationError, match=r"task 'toy' .* has base model other instead of toy\. Set method\.task"
    ) as caught:
        run(tmp_path / "b", "num_rounds=2", store, "model.fingerprint=other")
    assert "\n" not in str(caught.value)
    run(tmp_path / "c", "num_rounds=2", store, "model.fingerprint=other", "method.task=toy-other")
    assert [t.key.task for t in TaskStore(tmp_path / "store").tasks()] == ["toy", "toy-other"]


def test_more_data_extend_the_stored_mean_exactly(tmp_path):
    store = [f"method.store_dir={tmp_path / 'store'}", "method.strategy.memory.on_hit=extend", "num_rounds=2"]
    run(tmp_path / "a", *store, "num_clients=4")
    one = TaskStore(tmp_path / "store").get("toy")
    toy = run(tmp_path / "b", *store, "num_clients=2", "seed=5", num_nodes=2)
    assert any("vectors are extended" in text for text in toy.warnings())
    both = TaskStore(tmp_path / "store").get("toy")
    alone = run(tmp_path / "c", "num_clients=2", "num_rounds=2", "seed=5", num_nodes=2)
    fresh = load(alone.adapters()["shared"])["context-vectors"].astype(np.float64)
    assert (one.count, both.count) == (4, 6)
    np.testing.assert_allclose(both.vectors, (4 * one.vectors + 2 * fresh) / 6, rtol=1e-12)
    start = load(toy.adapters()["shared"])["context-vectors"]
    np.testing.assert_allclose(start, both.vectors, rtol=1e-6)


def test_a_similar_task_gives_the_coefficients_to_go_on_from(tmp_path):
    store = [f"method.store_dir={tmp_path / 'store'}", "num_rounds=3"]
    run(tmp_path / "a", *store, "method.task=one")
    known = TaskStore(tmp_path / "store").get("one").coefficients
    toy = run(tmp_path / "b", *store, "method.task=two", "num_rounds=2")
    assert not any("similar" in text for text in toy.warnings())  # nothing comes after the last round
    near = run(tmp_path / "c", *store, "method.task=three", "train.learning_rate=1e-9")
    (warning,) = near.warnings()
    assert "similar stored tasks (cosine): 'one' (" in warning
    ends = load(near.adapters()["shared"])["coefficients"]
    two = TaskStore(tmp_path / "store").get("two").coefficients
    assert ((ends - 5e-3 <= np.maximum(known, two)) & (ends + 5e-3 >= np.minimum(known, two))).all()
    off = run(tmp_path / "d", *store, "method.task=four", "method.strategy.memory.threshold=1")
    assert off.warnings() == []
