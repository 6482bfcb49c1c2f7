"""What is counted without weights is what a run trains and sends."""

import json

import pytest
import yaml

import client_app
import server_app
from fedapp.aggregation import Mean
from fedapp.cli.main import main
from fedapp.client import workplace as workplaces
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.composed import Composed
from fedapp.config.run import RunSettings
from fedapp.core.files import CONF
from fedapp.core.method import AnswerSizes, MessageSpec
from fedapp.core.payload import DTYPES
from fedapp.core.types import ClientFailure, count
from fedapp.engines.grid import run_local
from fedapp.methods.parameter_sharing import AllButMe, Average, LocalOnly, ParameterSharing
from fedapp.models import outline
from fedapp.models.outline import ARCHITECTURES
from fedapp.planning.budget import ClientCost, budget_of, clear_cache
from fedapp.planning.traffic import RunTraffic
from tests import tiny_models
from tests.contract import METHODS, contract
from tests.federation import ToyRun, run_toy
from tests.server_side import TRAIN


def counted_and_sent(run: ToyRun) -> tuple[tuple[int, int], tuple[int, int]]:
    rows = run.rows("traffic")
    sent = tuple(sum(r["payload-bytes"] for r in rows if r["direction"] == way) for way in ("up", "down"))
    budget = budget_of(Composed(yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))))
    return (budget.run_up_bytes, budget.run_down_bytes), sent


@pytest.mark.parametrize("method", [name for name in METHODS if not contract(name).answers])
def test_a_run_sends_exactly_what_its_budget_says(method, tmp_path):
    words = [f"method={method}", "num_rounds=3", "evaluate_every=2", *contract(method).toy]
    counted, sent = counted_and_sent(run_toy(tmp_path / "run", *words))
    assert counted == sent


@pytest.mark.parametrize("size", [["clients_per_round=1", "seed=5"], ["num_clients=1", "min_replies=1"]])
@pytest.mark.parametrize("method", ["fedreft_mean", "fedavg"])
def test_who_takes_part_is_counted_as_the_seed_draws_it(method, size, tmp_path):
    words = [f"method={method}", "num_rounds=4", "evaluate_every=3", *size]
    run = run_toy(tmp_path / "run", *words, num_nodes=1 if "num_clients=1" in words else 4)
    counted, sent = counted_and_sent(run)
    assert counted == sent


def test_a_real_model_sends_what_its_budget_says_in_half_precision_up(tmp_path):
    words = ["method=fedsa_lora", "+method.routine.dtype=bfloat16", "num_clients=2", "num_rounds=2"]
    words += ["split.max_train=2", "split.max_test=2", "train.num_epochs=1", "engine=local"]
    words += ["score.base=false", "score.before=false", "score.after=false"]
    run = tmp_path / "run"
    overrides = " ".join([*words, f"run_dir={run}"])
    run_local(server_app.app, client_app.app, num_nodes=2, run_config={"overrides": overrides})
    workplaces.close()
    counted, sent = counted_and_sent(ToyRun(run))
    assert counted == sent
    assert sent[0] == sent[1] // 2 > 0  # as many messages either way: bf16 up, fp32 down


def test_clients_that_differ_are_each_counted():
    words = ["adapter=lora", "method=flexlora", "num_clients=3", "num_rounds=1"]
    budget = budget_of(load_config([*words, 'by_client=["adapter.rank=1","adapter.rank=4"]']))
    (one,) = set(budget_of(load_config([*words, "adapter.rank=1"])).up_bytes)
    assert budget.up_bytes == (one, 4 * one, one)
    assert budget.run_up_bytes == 6 * one


def test_the_hooks_of_the_strategies_by_hand():
    parameters = {"layer.0.x.lora_A": (2, 8), "layer.0.x.lora_B": (4, 2), "head.w": (3,)}
    sent = ParameterSharing(share=r"\.lora_A$").upload(parameters, TRAIN).shapes
    assert sent == {"layer.0.x.lora_A": (2, 8)}
    assert count(ParameterSharing(share="all").upload(parameters, TRAIN).shapes) == 16 + 8 + 3
    assert ParameterSharing(share="none").upload(parameters, TRAIN).shapes == {}
    with pytest.raises(ClientFailure, match="share='RWb' matches no parameter"):
        ParameterSharing(share="RWb").upload(parameters, TRAIN)
    spec, none = MessageSpec(sent), MessageSpec()
    assert Average(Mean()).downloads([spec], TRAIN) == [spec]
    assert AllButMe(Mean()).downloads([spec, spec], TRAIN) == [spec, spec]
    assert AllButMe(Mean()).downloads([spec], TRAIN) == [none]
    assert LocalOnly().downloads([spec], TRAIN) == [none]


class Vectors(ParameterSharing):
    """A routine whose first upload is another than the rest."""

    def upload(self, parameters, moment):
        if moment.server_round < 2:
            return MessageSpec({"vectors": parameters["vectors"]}, "float16")
        return MessageSpec({"coefficients": parameters["coefficients"]})


class Twice(LocalOnly):
    """A strategy that sends double of what it got, but the first time."""

    def downloads(self, uploads, moment):
        if "vectors" in uploads[0].shapes:
            return [MessageSpec(upload.shapes, "bfloat16") for upload in uploads]
        return [
            MessageSpec({name: (2, *shape) for name, shape in upload.shapes.items()}) for upload in uploads
        ]


class Ahead(Twice):
    """The same with an exchange before round 1."""

    opens = True


# 10 vector values of 2 bytes, 2 coefficients of 4 bytes; two rounds and an evaluation.
@pytest.mark.parametrize(
    ("strategy", "up", "down"), [(Twice(), 20 + 8, 20 + 16), (Ahead(), 20 + 20 + 8, 20 + 20 + 16)]
)
def test_a_first_exchange_of_its_own_is_counted_in_round_1_or_before_it(strategy, up, down):
    client = ClientCost(shapes={"coefficients": (2,)}, frozen={"vectors": (5, 2)}, base=None)
    settings = RunSettings(num_clients=3, num_rounds=2)
    shapes = {**client.frozen, **client.shapes}
    traffic = RunTraffic(settings, Vectors(), strategy, [shapes] * 3, AnswerSizes())
    assert traffic.total_bytes() == (3 * up, 3 * down)
    assert client.adapter == 2


def test_the_item_sizes_are_those_of_the_wire():
    for name, dtype in DTYPES.items():
        assert MessageSpec({"w": (3,)}, name).num_bytes == 3 * dtype.itemsize


def test_405_billion_parameters_are_counted_without_holding_any(monkeypatch):
    made = []
    make = outline.outline_base
    monkeypatch.setattr(outline, "outline_base", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    clear_cache()
    budget = budget_of(load_config(["model=llama-3.1-405b", "method=fedit", "num_clients=50"]))
    # q: 16,384 to 16,384, v: 16,384 to 8 heads of 128; rank 8, fp32
    assert set(budget.up_bytes) == {126 * 8 * (2 * 16384 + 16384 + 1024) * 4}
    assert {value.device.type for value in made[0].model.parameters()} == {"meta"}


def rows_of(capsys, *words):
    assert main(["budget", *words, "--json"]) == 0
    output = capsys.readouterr()
    return [json.loads(line) for line in output.out.splitlines()], output.err


def test_several_methods_are_rows_of_one_table(capsys):
    words = ["model=llama-3.2-3b", "method=fedreft,ffa_lora,local", "num_clients=5", "num_rounds=2"]
    rows, err = rows_of(capsys, *words)
    assert err == ""
    assert [row["configuration"] for row in rows] == ["method=fedreft", "method=ffa_lora", "method=local"]
    assert rows[0]["adapter-parameters"] == 2_752_960
    assert rows[0]["base-parameters"] == 3_212_749_824
    assert rows[0]["upload-bytes"] == rows[0]["download-bytes"] == 4 * 2_752_960
    assert rows[0]["round-upload-bytes"] == 5 * 4 * 2_752_960
    assert rows[0]["run-upload-bytes"] == 2 * 5 * 4 * 2_752_960
    assert rows[0]["run-download-bytes"] == (1 + 1) * 5 * 4 * 2_752_960  # round 2 and the evaluation
    assert [rows[2][key] for key in ("upload-bytes", "run-download-bytes")] == [0, 0]
    assert main(["budget", *words]) == 0
    table = capsys.readouterr().out
    for text in ("method=fedreft", "2,752,960", "11,011,840", "110,118,400", "3,212,749,824 frozen"):
        assert text in table
    assert "not every client" not in table


def test_answers_cost_what_is_assumed_of_them_whatever_the_model(capsys):
    words = [
        "method=semantic_consensus,fedit",
        "--prompts",
        "10",
        "--answer-tokens",
        "5",
        "--token-bytes",
        "2",
    ]
    for model in ("llama-3.2-1b", "llama-3-8b"):
        assert main(["budget", f"model={model}", *words, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # 8 bytes of digest, 10 ids of one digit, 10 answers of 5 tokens of 2 bytes.
    assert [rows[0]["upload-bytes"], rows[0]["download-bytes"]] == [8 + 10 + 100, 10 + 100]
    assert rows[2]["upload-bytes"] == rows[0]["upload-bytes"]
    assert rows[3]["upload-bytes"] > rows[1]["upload-bytes"]
    assert main(["budget", "model=llama-3.2-1b", *words]) == 0
    ratio = (rows[1]["upload-bytes"] + rows[1]["download-bytes"]) / (118 + 110)
    assert f"method=fedit moves {ratio:,.4g} times the bytes" in " ".join(capsys.readouterr().out.split())
    assert main(["budget", "method=semantic_consensus", "--prompts", "0"]) == 2
    assert "--prompts=0 must be" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train.answers=labels"], ["train.answers=labels", "train.loss=labels"]])
@pytest.mark.parametrize("method", ["fedit", "ifed_icl"])
def test_how_a_model_answers_changes_no_budget(capsys, method, words):
    run = ["budget", f"method={method}", "model=smollm2-135m", "benchmark=sst2"]
    assert main([*run, *words]) == 0
    told = capsys.readouterr()
    assert main(run) == 0
    assert (told.out, told.err) == tuple(capsys.readouterr())


def test_the_head_is_told_apart(capsys):
    ((row,), _) = rows_of(capsys, "model=roberta-large", "benchmark=glue_sst2", "method=fedit")
    assert (row["adapter-parameters"], row["head-parameters"]) == (786_432, 1_051_650)
    assert row["upload-parameters"] == 786_432 + 1_051_650


def test_a_path_that_the_architecture_does_not_describe_is_warned_of(capsys):
    words = ["model=llama-3.2-1b", "model.path=someone/Llama-3.2-1B-copy"]
    ((row,), err) = rows_of(capsys, *words)
    assert row["base-parameters"] == 1_235_814_400
    assert err.count("\n") == 1
    assert "warning: model.path='someone/Llama-3.2-1B-copy' is counted as" in err


def test_a_path_names_what_is_counted_whatever_the_choice_and_a_line_says_so(capsys, tmp_path):
    tiny = tiny_models.model("Llama")
    tiny.save_pretrained(tmp_path)
    capsys.readouterr()
    for model, usual in (
        ("embedded", "asset:embedded"),
        ("llama-7b", "huggyllama/llama-7b"),
        ("local", None),
    ):
        ((row,), err) = rows_of(capsys, f"model={model}", f"model.path={tmp_path}", "method=fedit")
        assert row["base-parameters"] == sum(value.numel() for value in tiny.parameters())
        said = f"fedapp: warning: model.path='{tmp_path}' is what is counted, not {usual!r}, the model of "
        assert err == (f"{said}model={model}\n" if usual else "")
    ((row,), err) = rows_of(capsys, "model=embedded", "model.path=meta-llama/Llama-3.2-1B")
    assert row["base-parameters"] == 1_235_814_400
    assert "is what is counted, not 'asset:embedded'" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=fedreftt"], "method=fedreftt does not exist; did you mean fedreft"),
        (["method=fedreft,fedrep"], "method=fedrep does not exist"),
        (["adapter=lora"], "method.routine.share='RWb' matches no parameter"),
        (["method=fedavg,fedreft", "adapter=lora"], "method=fedreft: method.routine.share='RWb' matches"),
        (["adapter.rank=4,999"], "adapter.rank=999 must be within 1 and the model's hidden size"),
        (
            ["model=llama-3.2-3b", "model.about.architecture=llama-9"],
            "model.about.architecture='llama-9' must be one of",
        ),
        (["model=roberta-base"], "model.head='classification' needs at least 2 labels"),
        (["model.path=/not/there"], "model.path='/not/there' is not a folder"),
        (["model.dtype=int8"], "model.dtype='int8' must be one of"),
        (["num_clients=[1"], "cannot be read: a bracket"),
    ],
)
def test_what_cannot_be_counted_is_one_line_and_status_2(capsys, words, says):
    assert main(["budget", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("fedapp: error: ")
    assert says in output.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=flora", "adapter=loreft"], "low-rank factors, both of them trained"),
        (["method=fed_sb", "adapter=lora"], "(adapter=lora_sb)"),
        (["method=fedalt", "adapter=lora"], "(adapter=lora_mixed)"),
        (["method=fedit", 'by_client=["adapter.rank=4","adapter.rank=8"]'], "one rank on all"),
        (
            [
                "method=ifed_icl",
                'by_client=["adapter.injection=linear","adapter.injection=balance"]',
            ],
            "by_client gives adapter.injection='balance', 'linear', but method=ifed_icl combines",
        ),
    ],
)
def test_what_a_run_refuses_has_no_budget(words, says):
    with pytest.raises(ConfigError) as caught:
        budget_of(load_config(["model=llama-3.2-1b", *words]))
    assert says in str(caught.value)


def test_the_toy_has_a_budget_too():
    toy = load_config(["model=toy", "benchmark=toy", "adapter=toy_context", "method=ifed_icl"])
    assert budget_of(toy).up_bytes


def test_a_folder_with_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ConfigError, match=r"^model\.path=.* cannot be loaded: .*no-such-model"):
        budget_of(load_config([f"model.path={tmp_path}"]))


def test_configs_are_part_of_the_package():
    assert ARCHITECTURES.is_relative_to(CONF.parent / "fedapp")
