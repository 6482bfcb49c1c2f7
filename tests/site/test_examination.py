"""What ``fedapp doctor`` finds, each fault by itself."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from fedapp.core.status import holding
from fedapp.site import certificates
from fedapp.site.examination import finding, machine, party, server
from fedapp.site.layout import read_party, read_server
from fedapp.site.making import Plan, make


@pytest.fixture
def folder(tmp_path):
    make(Plan(tmp_path / "site", "localhost", 1, free_port()))
    return tmp_path / "site"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def rows(folder, *targets):
    task = folder / "party-0" / "data" / "words"
    task.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"prompt": "say", "target": target}) for target in targets]
        (task / f"{split}.jsonl").write_text("\n".join(lines))


def problems(findings):
    return [one.text for one in findings if one.is_problem]


def found_at(folder, *words):
    return list(party.of_party(read_party(folder / "party-0"), words))


def test_a_party_before_its_server_is_up_has_that_one_problem(folder):
    rows(folder, "a", "b", "c")
    found = found_at(folder)
    assert problems(found) == [
        f"localhost:{read_party(folder / 'party-0').port} does not answer (Connection refused)"
    ]
    texts = [one.text for one in found]
    assert f"3 train rows in {folder}/party-0/data (words 3)" in texts
    assert any(text.startswith("party 0 of 1: key, certificate and policy can be used") for text in texts)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda party: (party / "party.key").chmod(0o644), "can be read by others"),
        (lambda party: (party / "party.key").unlink(), "party.key is missing"),
        (lambda party: (party / "party.yaml").write_text("dta: x\n"), "did you mean data?"),
        (lambda party: (party / "data").rmdir(), "must be a folder that is there"),
        (lambda party: (party / "ca.crt").write_text("x"), "holds no PEM certificate"),
    ],
)
def test_a_partys_folder_that_is_damaged_is_said_so(folder, fault, said):
    fault(folder / "party-0")
    assert any(said in text for text in problems(found_at(folder)))


def test_a_row_that_cannot_be_read_is_shown_to_its_owner(folder):
    rows(folder, "a", None)
    assert any("train.jsonl line 2" in text for text in problems(found_at(folder)))


def test_rows_are_read_as_the_run_will_read_them(folder):
    rows(folder, "a")
    words = ["benchmark=own", "benchmark.columns={target: answer}", "model=toy", "adapter=toy"]
    assert any("answer" in text for text in problems(found_at(folder, *words)))


def test_a_server_with_free_ports_has_no_problem(folder):
    found = list(server.of_server(read_server(folder / "server")))
    assert problems(found) == []
    assert "the server's certificate is valid for 365 days" in [one.text for one in found]


def test_a_server_without_its_key_is_told_so(folder):
    site = read_server(folder / "server")
    site.key.unlink()
    assert f"{site.key} is missing" in problems(server.of_server(site))


def test_a_port_that_another_program_has_is_a_problem_and_ones_own_is_none(folder):
    site = read_server(folder / "server")
    with socket.create_server(("127.0.0.1", site.control_port)):
        assert f"control_port={site.control_port} is taken" in problems(server.of_server(site))
        with holding(site.state):
            found = list(server.of_server(site))
        assert problems(found) == []
        assert f"control_port={site.control_port} is this server's, which runs" in [one.text for one in found]


def test_a_control_port_that_the_network_reaches_is_a_problem(folder, monkeypatch):
    site = read_server(folder / "server")
    monkeypatch.setattr(server, "_own_addresses", lambda: ["127.0.0.2"])
    assert not any("answers at" in text for text in problems(server.of_server(site)))
    with socket.create_server(("127.0.0.2", site.control_port)):
        assert any("answers at 127.0.0.2" in text for text in problems(server.of_server(site)))


def test_a_certificate_shows_its_age_before_it_is_too_late(folder, monkeypatch):
    assert not finding.validity("it", 90).remedy
    assert finding.validity("it", 20).note
    assert finding.validity("it", 0).is_problem
    site = read_server(folder / "server")
    certificate, key = certificates.Authority.new("x").issue(["localhost", "127.0.0.1"], 9)
    site.certificate.write_bytes(certificate)
    site.key.write_bytes(key)
    assert any("was not issued by" in text for text in problems(server.of_server(site)))


def test_clocks_that_are_too_far_apart_are_a_problem(folder, monkeypatch):
    site = read_party(folder / "party-0")
    monkeypatch.setattr(party, "shake_hands", lambda *_: None)
    for ahead, wrong in ((0.0, False), (-200.0, False), (6.0, True), (-400.0, True)):
        monkeypatch.setattr(party, "clock_ahead", lambda _, ahead=ahead: ahead)
        assert bool(problems(party._way(site))) == wrong, ahead


def test_packages_of_other_versions_are_named(monkeypatch):
    monkeypatch.setattr(
        machine.importlib.metadata, "requires", lambda name: ["numpy>=99", "no-such>=1", "x; extra == 'dev'"]
    )
    found = problems(machine.versions())
    assert len(found) == 1
    assert "no-such is missing" in found[0]
    assert "is not >=99" in found[0]


def test_a_model_that_is_larger_than_the_memory_is_a_problem(monkeypatch):
    monkeypatch.setattr(
        machine, "budget_of", lambda config: SimpleNamespace(trained=[SimpleNamespace(base=10**9)])
    )
    config = ["adapter=toy", "benchmark=toy", "model=embedded", "model.dtype=float32"]
    for gib, wrong in ((5, True), (6, False)):  # 1.5 * 4 * 1e9 bytes are 5.6 GiB
        memory = SimpleNamespace(available=gib * machine.GIB)
        monkeypatch.setattr(machine.psutil, "virtual_memory", lambda memory=memory: memory)
        found = [one for one in machine.of_machine(config) if "needs about 5.6 GiB of memory" in one.text]
        assert [one.is_problem for one in found] == [wrong]


def test_a_hub_that_does_not_answer_is_a_problem_for_who_needs_it(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert problems(machine.hub({"model": {"path": "asset:embedded"}})) == []
    found = problems(machine.hub({"model": {"path": "some/model"}}))
    assert found[0].startswith("http://127.0.0.1:9 does not answer (")
