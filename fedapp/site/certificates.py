"""A federation's own certificate authority, server certificate and party keys; certificates looked at.

TLS keys and party keys are on the NIST curve P-384, the one that Flower takes for SuperNodes.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as encoding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A certificate counts from a little earlier on, for parties whose clocks are behind.
SLACK = datetime.timedelta(hours=1)
CA_DAYS = 3650
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names by which the server's own commands reach it."""


class CertificateFault(ValueError):
    """A certificate or key cannot be used; the text is one line that names the file."""


@dataclass(frozen=True)
class Authority:
    """Who signs server certificates.

    Attributes:
        certificate: Its own.
        key: What it signs with.
    """

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @classmethod
    def new(cls, name: str) -> Authority:
        """Make an authority that is valid for ten years."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _name(name)
        usage = _usage(key_cert_sign=True, crl_sign=True)
        certificate = (
            _builder(subject, subject, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA384())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, certificate: Path, key: Path) -> Authority:
        """Take an authority that there is already.

        Raises:
            CertificateFault: If one of the files cannot be read, they are no pair, or it may not sign.
        """
        authority = cls(read_certificate(certificate), _read_key(key))
        if authority.key.public_key() != authority.certificate.public_key():
            raise CertificateFault(f"{key} is not the key of {certificate}")
        if not _may_sign(authority.certificate):
            raise CertificateFault(f"{certificate} is no certificate authority (CA:TRUE)")
        return authority

    def issue(self, names: Sequence[str], days: int) -> tuple[bytes, bytes]:
        """Issue a server certificate.

        Args:
            names: DNS names and IP addresses that it is good for; the first is its subject.
            days: How long it is valid.

        Returns:
            The certificate and its key, both PEM.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        public = self.certificate.public_key()
        certificate = (
            _builder(_name(names[0]), self.certificate.subject, key.public_key(), days)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(public),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self.key, hashes.SHA384())
        )
        return pem(certificate), pem_key(key)


def new_party_key() -> tuple[bytes, bytes]:
    """A SuperNode's key: the private and the public half, both in OpenSSH's format, as Flower wants them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        encoding.Encoding.PEM, encoding.PrivateFormat.OpenSSH, encoding.NoEncryption()
    )
    public = key.public_key().public_bytes(encoding.Encoding.OpenSSH, encoding.PublicFormat.OpenSSH)
    return private, public + b"\n"


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(encoding.Encoding.PEM)


def pem_key(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """A private key as text, not encrypted."""
    return key.private_bytes(encoding.Encoding.PEM, encoding.PrivateFormat.PKCS8, encoding.NoEncryption())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that its owner alone may read.

    Raises:
        OSError: If it is there already, or cannot be written.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        CertificateFault: If there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateFault(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise CertificateFault(f"{path} holds no PEM certificate") from None


def days_left(certificate: x509.Certificate) -> float:
    """Days until a certificate expires, negative afterwards."""
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left.total_seconds() / 86400


def names_of(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses that a certificate is good for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def look_at_server(certificate: Path, key: Path, authority: Path, names: Sequence[str]) -> float:
    """Check a server's certificate as its parties will.

    Args:
        certificate: PEM file, chain included.
        key: Its private key.
        authority: What the parties trust.
        names: What it must be good for.

    Returns:
        Days until it expires.

    Raises:
        CertificateFault: If it is no pair with the key, not the authority's, out of date or for other names.
    """
    found, root = read_certificate(certificate), read_certificate(authority)
    if found.public_key() != _read_key(key).public_key():
        raise CertificateFault(f"{key} is not the key of {certificate}")
    left = days_left(found)
    for path, one in ((certificate, found), (authority, root)):
        if days_left(one) <= 0:
            raise CertificateFault(f"{path} expired on {one.not_valid_after_utc:%Y-%m-%d}")
        if one.not_valid_before_utc > datetime.datetime.now(datetime.UTC):
            raise CertificateFault(
                f"{path} is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only"
            )
    chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    if not any(_issued(one, root) for one in chain):
        raise CertificateFault(f"{certificate} was not issued by {authority}")
    good_for = names_of(found)
    missing = [name for name in names if name not in good_for]
    if missing:
        raise CertificateFault(
            f"{certificate} is not good for {', '.join(missing)}, only for {', '.join(good_for) or 'no name'}"
        )
    return left


def shake_hands(host: str, port: int, authority: Path, timeout: float = 5.0) -> None:
    """Connect as a party would and go again.

    Args:
        host: The server's name or address.
        port: The parties' port.
        authority: PEM file of the authority that must have signed the server's certificate.
        timeout: Seconds to wait.

    Raises:
        CertificateFault: If the server cannot show that it is the one.
        OSError: If nothing answers.
    """
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError):
        raise CertificateFault(f"{authority} holds no PEM certificate") from None
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise CertificateFault(
            f"{host}:{port} shows a certificate that {authority} does not vouch for: {error.verify_message}"
        ) from None
    except ssl.SSLError as error:
        raise CertificateFault(f"{host}:{port} does not speak TLS: {error.reason or error}") from None


def _issued(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    with suppress(Exception):  # the library tells in a dozen ways that a signature is another's
        certificate.verify_directly_issued_by(root)
        return True
    return False


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _read_key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    try:
        return encoding.load_pem_private_key(path.read_bytes(), password=None)  # type: ignore[return-value]
    except OSError as error:
        raise CertificateFault(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise CertificateFault(f"{path} holds no PEM private key without a password") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    kinds = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{kind: allowed.get(kind, False) for kind in kinds})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
