"""What FFA-LoRA and FedSA-LoRA promise, on a real model: who trains, sends and keeps what."""

import pytest
from safetensors.numpy import load_file

import client_app
import server_app
from fedapp.client import serve as serving
from fedapp.client import workplace as workplaces
from fedapp.config.compose import load_config
from fedapp.engines.grid import run_local

SMALL = [
    "num_clients=2",
    "num_rounds=2",
    "split.max_train=16",
    "split.max_test=8",
    "train.num_epochs=1",
    "score.base=false",
    "score.before=false",
    "score.after=false",
    "engine=local",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a method and return what each message carried, the final adapters and the initial one."""

    def go(method):
        sent = []
        serve = serving.serve

        def watch(work, state, output_dir):
            done = serve(work, state, output_dir)
            sent.append((work.phase, set(work.download.arrays), set(done.upload.arrays)))
            return done

        monkeypatch.setattr(serving, "serve", watch)
        words = [f"method={method}", *SMALL, f"run_dir={tmp_path / 'run'}"]
        run_local(server_app.app, client_app.app, num_nodes=2, run_config={"overrides": " ".join(words)})
        workplaces.close()
        place = workplaces.Workplace(load_config(words))
        initial = place.model.parameters()
        place.model.detach()
        files = [tmp_path / "run" / "adapters" / f"client-{k}" / "adapter.safetensors" for k in (0, 1)]
        return sent, [load_file(file) for file in files], initial

    return go


def test_ffa_lora_shares_b_alone_and_a_is_no_parameter(run):
    sent, finals, initial = run("ffa_lora")
    names = {name for _, down, up in sent for name in down | up} | set(initial)
    assert names
    assert all(name.endswith(".lora_B") for name in names)
    # FedAvg: all clients end with the same B.
    assert all((finals[0][name] == finals[1][name]).all() for name in names)


def test_fedsa_lora_keeps_b_at_home(run):
    sent, finals, initial = run("fedsa_lora")
    names = {name for _, down, up in sent for name in down | up}
    assert names == {name for name in initial if name.endswith(".lora_A")}
    for name, value in finals[0].items():
        same = (value == finals[1][name]).all()
        assert same == name.endswith(".lora_A"), name
