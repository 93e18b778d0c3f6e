"""A certificate authority of one's own: a few files in a folder, made with ``cryptography``.

Everybody in the network shows a certificate that this authority has signed, and believes only
such. The common name of a certificate says who it is; access control goes by it. A robot's
certificate is good for connecting only, so that no robot can pass for the router.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from user_comm.links.credentials import AUTHORITY, Credentials
from user_core.errors import ConfigError

_AUTHORITY_DAYS = 3650
_AUTHORITY_KEY = "ca.key"
#: A clock that runs a little behind must not refuse a new certificate.
_BACKDATED = datetime.timedelta(hours=1)


class Authority:
    """Signs certificates.

    Args:
        folder: Holds ``ca.pem`` and the secret ``ca.key``. Keep it off robots and routers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.certificate = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
            key = serialization.load_pem_private_key(
                (folder / _AUTHORITY_KEY).read_bytes(), password=None
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"certificate authority in {str(folder)!r}",
                got=error,
                expected=f"{AUTHORITY} and {_AUTHORITY_KEY}",
                hint="Begin with `user net init`",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"key of the authority in {str(folder)!r}", expected="an EC key")
        self._key = key

    @classmethod
    def create(cls, folder: Path, name: str) -> Authority:
        """Make one. Raises ConfigError where there is one already."""
        if (folder / _AUTHORITY_KEY).exists():
            raise ConfigError(
                f"certificate authority in {str(folder)!r}",
                got="one that is there already",
                expected="a new folder",
                hint="Everybody's certificates would be void; take another folder",
            )
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} authority")
        certificate = (
            _builder(subject, subject, key.public_key(), _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        _write_secret(folder / _AUTHORITY_KEY, key)
        (folder / AUTHORITY).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder)

    def issue(
        self, folder: Path, name: str, hosts: Sequence[str] = (), days: int = 825
    ) -> Credentials:
        """Make a key, sign a certificate for it, and write both.

        Args:
            folder: Where the files go; what is there is replaced.
            name: Common name.
            hosts: Names and addresses under which it can be reached, for one that listens; it
                may then show its certificate as a server too.
            days: Validity, days.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(_name(name), self.certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        names = [_alternative(host) for host in hosts] or [x509.DNSName(name.replace("_", "-"))]
        certificate = builder.add_extension(
            x509.SubjectAlternativeName(names), critical=False
        ).sign(self._key, hashes.SHA256())
        folder.mkdir(parents=True, exist_ok=True)
        made = Credentials(folder)
        _write_secret(made.key, key)
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.authority.write_bytes((self.folder / AUTHORITY).read_bytes())
        return made


def expiry(certificate: Path) -> datetime.datetime:
    """Until when a certificate is valid."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(text)
