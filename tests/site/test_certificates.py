"""Certificates are good for the names that they should be, and those that are not are refused by name."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedapp.site import certificates
from fedapp.site.certificates import (
    Authority,
    CertificateFault,
    look_at_server,
    names_of,
    new_party_key,
    pem,
    pem_key,
    read_certificate,
    shake_hands,
    write_private,
)


@pytest.fixture(scope="module")
def authority():
    return Authority.new("tests")


def written(folder, authority, names=("localhost", "127.0.0.1"), days=30):
    folder.mkdir(exist_ok=True)
    certificate, key = authority.issue(names, days)
    (folder / "ca.crt").write_bytes(pem(authority.certificate))
    (folder / "server.crt").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)
    return folder / "server.crt", folder / "server.key", folder / "ca.crt"


@contextmanager
def served(certificate, key):
    """A TLS server that shows a certificate to whoever comes; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_a_server_certificate_is_good_for_dns_names_and_addresses(tmp_path, authority):
    certificate, key, root = written(tmp_path, authority, ("fed.example.org", "10.0.0.1", "::1"))
    assert names_of(read_certificate(certificate)) == ["fed.example.org", "10.0.0.1", "::1"]
    assert 29 < look_at_server(certificate, key, root, ["fed.example.org", "::1"]) <= 30
    with pytest.raises(
        CertificateFault, match="is not good for 10.0.0.2, only for fed.example.org, 10.0.0.1"
    ):
        look_at_server(certificate, key, root, ["10.0.0.2"])


def test_a_certificate_that_has_expired_or_is_not_valid_yet_is_refused_by_name(
    tmp_path, authority, monkeypatch
):
    files = written(tmp_path / "old", authority, days=-0)
    monkeypatch.setattr(certificates, "SLACK", datetime.timedelta(days=3))
    expired = written(tmp_path / "expired", authority, days=-1)
    with pytest.raises(CertificateFault, match=r"expired/server.crt expired on \d{4}-"):
        look_at_server(*expired, ["localhost"])
    monkeypatch.setattr(certificates, "SLACK", datetime.timedelta(days=-3))
    early = written(tmp_path / "early", authority)
    with pytest.raises(CertificateFault, match=r"early/server.crt is valid from .* on only"):
        look_at_server(*early, ["localhost"])
    with pytest.raises(CertificateFault, match="expired on"):
        look_at_server(*files, ["localhost"])


def test_another_authority_and_another_key_are_refused(tmp_path, authority):
    certificate, key, root = written(tmp_path / "a", authority)
    _, other_key, other_root = written(tmp_path / "b", Authority.new("tests"))  # of the same name
    with pytest.raises(CertificateFault, match=r"server.crt was not issued by .*b/ca.crt"):
        look_at_server(certificate, key, other_root, ["localhost"])
    with pytest.raises(CertificateFault, match=r"b/server.key is not the key of .*a/server.crt"):
        look_at_server(certificate, other_key, root, ["localhost"])


def test_a_party_takes_its_own_servers_certificate_and_no_other(tmp_path, authority):
    certificate, key, root = written(tmp_path / "a", authority)
    *_, other_root = written(tmp_path / "b", Authority.new("others"))
    with served(certificate, key) as port:
        shake_hands("localhost", port, root)
        with pytest.raises(
            CertificateFault, match=r"a certificate that .*b/ca.crt does not vouch for: .*issuer"
        ):
            shake_hands("localhost", port, other_root)


def test_a_party_refuses_an_expired_certificate_and_one_for_another_name(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(certificates, "SLACK", datetime.timedelta(days=3))
    certificate, key, root = written(tmp_path / "old", authority, days=-1)
    with served(certificate, key) as port, pytest.raises(CertificateFault, match="certificate has expired"):
        shake_hands("localhost", port, root)
    certificate, key, root = written(tmp_path / "named", authority, ("fed.example.org",))
    with served(certificate, key) as port, pytest.raises(CertificateFault, match="not valid for 'localhost'"):
        shake_hands("localhost", port, root)


def test_a_party_says_if_nobody_answers_or_no_tls_is_spoken(tmp_path, authority):
    *_, root = written(tmp_path, authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            plain, _ = listener.accept()
            plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            plain.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises((CertificateFault, OSError), match="does not speak TLS"):
            shake_hands("127.0.0.1", port, root)
        thread.join(5)
    with pytest.raises(OSError, match="refused"):
        shake_hands("127.0.0.1", port, root)


def test_an_authority_of_ones_own_signs_if_it_may_and_its_key_fits(tmp_path, authority):
    certificate, key, root = written(tmp_path, authority)
    (tmp_path / "ca.key").write_bytes(pem_key(authority.key))
    assert Authority.read(root, tmp_path / "ca.key").certificate == authority.certificate
    with pytest.raises(CertificateFault, match=r"server.key is not the key of .*ca.crt"):
        Authority.read(root, key)
    with pytest.raises(CertificateFault, match="is no certificate authority"):
        Authority.read(certificate, key)
    with pytest.raises(CertificateFault, match=r"nowhere.key cannot be read: No such file"):
        Authority.read(root, tmp_path / "nowhere.key")
    with pytest.raises(CertificateFault, match="holds no PEM certificate"):
        Authority.read(tmp_path / "ca.key", key)


def test_the_authority_may_sign_servers_but_no_further_authorities(authority):
    limits = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert limits.value.ca
    assert limits.value.path_length == 0


def test_party_keys_are_what_flower_takes_and_the_file_is_its_owners_alone(tmp_path):
    private, public = new_party_key()
    write_private(tmp_path / "party.key", private)
    assert (tmp_path / "party.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "party.key", private)
    key = serialization.load_ssh_private_key(private, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    assert serialization.load_ssh_public_key(public) == key.public_key()
