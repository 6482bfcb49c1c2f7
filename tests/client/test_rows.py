"""Who gets which rows: every row once, proportions kept, the same in any order of calls."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Dataset

from fedapp.client import rows as partition
from fedapp.client.dealing import Partitioning, largest_remainder, subsample
from fedapp.client.rows import SplitConfig, client_data
from fedapp.core.errors import RowError
from fedapp.core.types import Example

PACKAGE = "flwr_datasets.partitioner"
IID = {"_target_": f"{PACKAGE}.IidPartitioner"}
BY_TASK = {"_target_": f"{PACKAGE}.NaturalIdPartitioner", "partition_by": "task"}
SKEWED = {
    "_target_": f"{PACKAGE}.DirichletPartitioner",
    "partition_by": "label",
    "alpha": 0.5,
    "min_partition_size": 2,
}
NO_VAL = SplitConfig(val_share=0.0)


@dataclass(frozen=True)
class Numbers:
    """Numbered rows: three tasks in the ratio 3 : 2 : 1, two labels; test rows of a fourth task as well."""

    num_train: int = 120
    num_test: int = 60
    name = "numbers"

    def load(self, split):
        size = self.num_train if split == "train" else self.num_test
        tasks = ["aaabbc"[i % 6] for i in range(size)]
        if split == "test":
            tasks[-6:] = "d" * 6
        return Dataset.from_dict(
            {"number": range(size), "task": tasks, "label": [i % 2 for i in range(size)]}
        )

    def template(self, row):
        return Example(str(row["number"]), "", row["task"], row["label"])


@pytest.fixture(autouse=True)
def forget():
    """Forget what was made before, as another process would; a test of determinism must draw twice."""

    def clear():
        for cached in (partition._client_data, partition._rows, partition._deal_train, partition._deal_test):
            cached.cache_clear()

    clear()
    return clear


def data(client_id=0, num_clients=3, node=IID, seed=1, split=NO_VAL, benchmark=Numbers()):
    return client_data(benchmark, node, client_id, num_clients, seed=seed, split=split)


def numbers(examples):
    return sorted(int(e.prompt) for e in examples)


@pytest.mark.parametrize("node", [IID, BY_TASK, SKEWED], ids=["mixed", "distinct", "dirichlet"])
@pytest.mark.parametrize("split", [NO_VAL, SplitConfig()], ids=["no-val", "val"])
def test_every_row_goes_to_exactly_one_client(node, split):
    clients = [data(c, node=node, split=split) for c in range(3)]
    assert numbers([e for c in clients for e in c.train + c.val]) == list(range(120))
    assert numbers([e for c in clients for e in c.test]) == list(range(60))


@pytest.mark.parametrize("node", [IID, SKEWED], ids=["mixed", "dirichlet"])
def test_the_same_arguments_give_the_same_rows_in_any_order_of_calls(node, forget):
    forward = {c: data(c, node=node) for c in range(3)}
    data(1, node=node, seed=2)
    forget()
    backward = {c: data(c, node=node) for c in (2, 1, 0)}
    assert backward == forward


@pytest.mark.parametrize("node", [IID, SKEWED], ids=["mixed", "dirichlet"])
def test_another_seed_gives_other_rows(node):
    assert numbers(data(node=node).train) != numbers(data(node=node, seed=2).train)


def test_mixed_task_gives_equal_shares_and_a_distinct_task_a_single_one():
    assert [len(data(c, num_clients=7).train) for c in range(7)] == [18] + [17] * 6
    assert len({e.task for e in data().train}) == 3
    assert [Counter(e.task for e in data(c, node=BY_TASK).train) for c in range(3)] == [
        {"a": 60},
        {"b": 40},
        {"c": 20},
    ]


def test_own_test_rows_follow_the_training_rows_of_each_task():
    # 54 test rows of a, b, c go to who trains on them; nobody trains on d: 6 rows in the ratio 60 : 40 : 20.
    tests = [Counter(e.task for e in data(c, node=BY_TASK).test) for c in range(3)]
    assert tests == [{"a": 27, "d": 3}, {"b": 18, "d": 2}, {"c": 9, "d": 1}]


def test_own_test_rows_follow_the_labels_under_label_skew():
    for client_id in range(3):
        one = data(client_id, node=SKEWED)
        for label in (0, 1):
            held = sum(e.label == label for e in one.train)
            tested = sum(e.label == label for e in one.test)
            assert abs(tested - 30 * held / 60) < 1


def test_test_all_gives_everyone_the_same_rows_with_a_cap_too():
    whole = SplitConfig(test="all")
    assert numbers(data(0, split=whole).test) == numbers(data(2, split=whole).test) == list(range(60))
    capped = SplitConfig(test="all", max_test=20)
    assert len(data(0, split=capped).test) == 20
    assert data(0, split=capped).test == data(2, split=capped).test


def test_validation_is_the_clients_own_and_disjoint_from_training():
    one = data(1, split=SplitConfig(val_share=0.25))
    assert (len(one.train), len(one.val)) == (30, 10)
    assert not set(numbers(one.train)) & set(numbers(one.val))
    assert set(numbers(one.train + one.val)) == set(numbers(data(1).train))


@pytest.mark.parametrize(
    ("rows", "split", "sizes"),
    [
        (1, SplitConfig(), (1, 0)),
        (2, SplitConfig(), (1, 1)),
        (2, SplitConfig(val_share=0.9), (1, 1)),
        (40, SplitConfig(val_share=0.5, max_val=3), (37, 3)),
        (40, SplitConfig(max_val=0), (40, 0)),
        (40, SplitConfig(val_share=0.0), (40, 0)),
        (40, SplitConfig(max_train=5), (5, 4)),
    ],
)
def test_sizes_of_training_and_validation(rows, split, sizes):
    one = data(num_clients=1, split=split, benchmark=Numbers(num_train=rows))
    assert (len(one.train), len(one.val)) == sizes


def test_caps_keep_the_proportions_of_the_tasks():
    one = data(num_clients=1, split=SplitConfig(val_share=0.1, max_train=30, max_test=20))
    assert Counter(e.task for e in one.val) == {"a": 6, "b": 4, "c": 2}
    assert Counter(e.task for e in one.train) == {"a": 15, "b": 10, "c": 5}
    assert Counter(e.task for e in one.test) == {"a": 9, "b": 6, "c": 3, "d": 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": f"{PACKAGE}.NaturalIdPartitioner", "partition_by": "topic"},
        {
            "_target_": f"{PACKAGE}.PathologicalPartitioner",
            "partition_by": "topic",
            "num_classes_per_partition": 2,
            "class_assignment_mode": "deterministic",
        },
    ],
)
def test_what_stands_in_a_column_is_not_told(settings):
    class Topics(Numbers):
        def load(self, split):
            rows = super().load(split)
            return Dataset.from_dict({**rows[:], "topic": [f"s3cr3t {n % 60}" for n in range(len(rows))]})

    with pytest.raises(RowError, match=r"on the 120 training rows: ") as caught:
        data(num_clients=100, node=settings, benchmark=Topics())
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" in caught.value.private


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_clients": 121}, "num_clients=121 is more than the 120 training rows of numbers"),
        (
            {"node": BY_TASK, "num_clients": 4},
            r"num_clients=4, .*numbers has 3 values of task, .*set num_clients=3",
        ),
        (
            {"node": BY_TASK, "num_clients": 2},
            "num_clients=2, .*numbers has 3",
        ),
        ({"client_id": 3}, "client_id=3 must be within 0 and num_clients - 1 = 2"),
        (
            {"node": {**BY_TASK, "partition_by": "topic"}},
            "partition_by=topic is not a column of numbers; it has: number",
        ),
        ({"node": {**SKEWED, "alpha": -1.0}}, "partitioner=DirichletPartitioner: Alpha values should be"),
        ({"node": {**SKEWED, "alfa": 1.0}}, "partitioner.alfa is not a setting of DirichletPartitioner"),
        (
            {"node": {**IID, "num_partitions": 3}},
            "partitioner.num_partitions is not a setting of IidPartitioner",
        ),
        (
            {"node": {"_target_": f"{PACKAGE}.Iid"}},
            "partitioner='Iid' does not exist; known: .*IidPartitioner",
        ),
        (
            {"node": {"_target_": "os.system"}},
            "partitioner._target_='os.system' must be a class of flwr",
        ),
        (
            {"node": {**SKEWED, "min_partition_size": 0, "alpha": 0.001}},
            "leaves client . without a training row",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
def test_what_cannot_be_divided_is_explained_in_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        data(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"val_share": 1.0}, r"val_share=1.0 must be a number within \[0, 1\)"),
        ({"max_train": -1}, "max_train=-1 must be a whole number of at least 0"),
        ({"val_share": "abc"}, "val_share='abc' must be a number"),
        ({"max_val": 2.5}, "max_val=2.5 must be a whole number"),
        ({"max_test": None}, "max_test=null must be a whole number"),
        ({"test": "some"}, "test='some' must be one of: own, all"),
    ],
)
def test_bad_split_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SplitConfig(**settings)


def test_a_benchmark_made_anew_from_the_same_settings_is_not_loaded_again(monkeypatch):
    loads = []
    load = Numbers.load
    monkeypatch.setattr(Numbers, "load", lambda self, split: loads.append(split) or load(self, split))
    first = data(benchmark=Numbers(60))
    assert data(benchmark=Numbers(60)) is first
    assert sorted(loads) == ["test", "train"]
    data(benchmark=Numbers(30))
    assert len(loads) == 4


def test_partitioners_of_different_seeds_share_nothing(forget):
    skewed = Partitioning.of(SKEWED)
    alone = numbers(data(node=skewed, seed=5).train)
    assert Partitioning.of(dict(SKEWED)) == skewed
    assert hash(Partitioning.of(dict(SKEWED))) == hash(skewed)
    others = [numbers(data(node=skewed, seed=s).train) for s in (6, 7)]
    forget()
    assert numbers(data(node=skewed, seed=5).train) == alone
    assert alone not in others


def test_no_progress_bar_reaches_the_terminal(capfd):
    data(node=BY_TASK)
    assert capfd.readouterr().err == ""


def test_largest_remainder_by_hand():
    # 10 by 3 : 2 : 2 is 4.29, 2.86, 2.86: two of the three get one more, those with .86
    rng = np.random.default_rng(0)
    assert largest_remainder(np.array([3, 2, 2]), 10, rng).tolist() == [4, 3, 3]
    assert largest_remainder(np.array([0, 5]), 3, rng).tolist() == [0, 3]
    ties = {
        tuple(largest_remainder(np.array([1, 1, 1]), 1, np.random.default_rng(s)).tolist()) for s in range(30)
    }
    assert ties == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_subsample_leaves_small_sets_as_they_are():
    keys = np.array(list("aabb"))
    assert subsample(np.array([3, 1]), keys, 5, np.random.default_rng(0)).tolist() == [1, 3]
    assert subsample(np.array([3, 1]), keys, 0, np.random.default_rng(0)).tolist() == []


def test_private_data_is_not_divided():
    data = client_data(
        Numbers(),
        {"_target_": "fedapp.client.dealing.Private"},
        2,
        3,
        seed=1,
        split=SplitConfig(val_share=0.1),
    )
    assert sorted(int(e.prompt) for e in (*data.train, *data.val)) == list(range(120))
    assert len(data.val) == 12
    assert [int(e.prompt) for e in data.test] == list(range(60))


def test_pooled_clients_train_on_the_rows_of_all_and_keep_their_own_others():
    capped = {"val_share": 0.2, "max_train": 20}
    own = [data(c, split=SplitConfig(**capped)) for c in range(3)]
    pooled = [data(c, split=SplitConfig(**capped, pool=True)) for c in range(3)]
    union = numbers([e for client in own for e in client.train])
    assert len(union) == 60
    for mine, shared in zip(own, pooled, strict=True):
        assert numbers(shared.train) == union
        assert (shared.val, shared.test) == (mine.val, mine.test)
        assert not set(union) & set(numbers(shared.val))


def test_rows_that_nobody_has_in_one_place_cannot_be_pooled():
    private = {"_target_": "fedapp.client.dealing.Private"}
    with pytest.raises(ValueError, match=r"^split.pool=true needs the rows of all clients in one place"):
        data(node=private, split=SplitConfig(pool=True))
    with pytest.raises(ValueError, match=r"^pool='yes' must be true or false"):
        SplitConfig(pool="yes")


class Apart(Numbers):
    """The same, but a row's prompt says of which split it is."""

    def load(self, split):
        return super().load(split).map(lambda row: row | {"split": split})

    def template(self, row):
        return Example(f"{row['split']} {row['number']}", "", row["task"], row["label"])


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("test", ["own", "all"])
def test_training_and_validation_rows_are_of_the_train_split_and_test_rows_of_the_test_split(test, pool):
    one = data(1, split=SplitConfig(val_share=0.2, test=test, pool=pool), benchmark=Apart())
    assert len(one.val) == 8
    assert {example.prompt.split()[0] for example in one.train + one.val} == {"train"}
    assert {example.prompt.split()[0] for example in one.test} == {"test"}
    assert not set(one.train) & set(one.val)
