"""The members of a network, in a folder: ``network.yaml``, their certificates, the authority.

net/
  network.yaml            who belongs to it, and where the router is
  ca.pem  ca.key          the authority; ca.key never leaves this machine
  router/                 credentials of the router, for its host
  robots/<name>/          credentials of a robot, to be copied to it
  learners/<name>/        credentials of a learner's host
  sites/<name>/           credentials of a site's own router
  console/                what a console shows to browsers (`user console --net net`)
  router.yaml  zenohd.json5    what the router runs with: ours, or a stock zenohd
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from user_comm.net.sessions import AUTHORITY, Credentials
from user_core.config import Config, from_mapping, load_yaml, setting, to_mapping
from user_core.errors import ConfigError
from user_core.runtime.files import write_atomically

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
        self,
        folder: Path,
        name: str,
        hosts: Sequence[str] = (),
        days: int = 825,
        joins: bool = True,
    ) -> Credentials:
        """Make a key, sign a certificate for it, and write both.

        Args:
            folder: Where the files go; what is there is replaced.
            name: Common name.
            hosts: Names and addresses under which it can be reached, for one that listens; it
                may then show its certificate as a server too.
            days: Validity, days.
            joins: Whether it may connect to the network; False: it only shows itself to those who
                connect to it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH] if joins else []
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


FILE = "network.yaml"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
Role = Literal["robot", "learner", "site"]


class Site(Config):
    """A router of a site, that connects to this network's router for its robots."""

    name: str = setting(doc="Name, also of its certificate.")
    robots: tuple[str, ...] = setting((), doc="Robots that it may write for.")


class Members(Config):
    """What stands in ``network.yaml``."""

    name: str = setting("user", doc="Name of the network, for people.", min_length=1)
    endpoints: tuple[str, ...] = setting(
        ("tls/0.0.0.0:7457",), doc="Where the router listens.", min_length=1
    )
    hosts: tuple[str, ...] = setting(
        ("localhost", "127.0.0.1"),
        doc="Names and addresses under which the router is reached; they stand in its certificate.",
        min_length=1,
    )
    policy_key: str = setting("user/policy", doc="Key under which learners serve versions.")
    robots: tuple[str, ...] = setting((), doc="Robots: each writes keys below its own name.")
    learners: tuple[str, ...] = setting((), doc="Learners: they read everything.")
    sites: tuple[Site, ...] = setting((), doc="Routers of sites.")

    def validate(self) -> None:
        names = [*self.robots, *self.learners, *(site.name for site in self.sites)]
        for name in names:
            if not _NAME.fullmatch(name) or name in ("router", self.policy_key.split("/")[0]):
                raise ConfigError(
                    "name of a member",
                    got=repr(name),
                    expected="a letter, then letters, digits and _ (it is also a namespace), and "
                    "none of the network's own",
                )
            if names.count(name) > 1:
                raise ConfigError("names of members", got=f"{name!r} twice", expected="unique")
        for site in self.sites:
            if unknown := set(site.robots) - set(self.robots):
                raise ConfigError(f"robots of site {site.name!r}", got=sorted(unknown),
                                  expected=f"some of {list(self.robots)}")  # fmt: skip


class Network:
    """A network's folder.

    Args:
        folder: It must hold ``network.yaml``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        file = self.folder / FILE
        if not file.exists():
            raise ConfigError(
                f"network in {str(self.folder)!r}",
                got=f"no {FILE}",
                expected="the folder of a network",
                hint="Begin with `user net init`",
            )
        self.members = from_mapping(Members, load_yaml(file), str(file))

    @classmethod
    def create(cls, folder: str | Path, members: Members) -> Network:
        """Make a network with an authority and the router's certificate."""
        path = Path(folder).expanduser()
        Authority.create(path, members.name).issue(path / "router", "router", members.hosts)
        _write(path / FILE, members)
        return cls(path)

    def add(self, role: Role, name: str, **options: Any) -> Credentials:
        """Make credentials of a member, and write it down; a known one gets new credentials.

        Args:
            role: What it is, and so what it may do.
            name: Its name.
            options: ``hosts`` where it listens, ``days`` of validity, ``robots`` of a site.
        """
        members = self.members
        robots = tuple(options.pop("robots", ()))
        known = {"robot": members.robots, "learner": members.learners}.get(role, ())
        if role == "site":
            others = tuple(site for site in members.sites if site.name != name)
            members = members.replace(sites=(*others, Site(name=name, robots=robots)))
        elif role == "robot" and name not in known:
            members = members.replace(robots=(*known, name))
        elif role == "learner" and name not in known:
            members = members.replace(learners=(*known, name))
        made = Authority(self.folder).issue(self.credentials(role, name).folder, name, **options)
        _write(self.folder / FILE, members)
        self.members = members
        return made

    def credentials(self, role: Role, name: str) -> Credentials:
        """Where a member's credentials are."""
        return Credentials(self.folder / f"{role}s" / name)

    def add_console(self, hosts: Sequence[str], days: int = 825) -> Credentials:
        """Make the certificate that a console shows to browsers; it opens no way into the network.

        Args:
            hosts: Names and addresses by which browsers call it.
            days: Validity, days.
        """
        folder = self.console.folder
        return Authority(self.folder).issue(folder, "console", hosts, days, joins=False)

    @property
    def console(self) -> Credentials:
        """What a console shows to browsers, where there is one."""
        return Credentials(self.folder / "console")

    @property
    def router(self) -> Credentials:
        """The router's credentials."""
        return Credentials(self.folder / "router")


def _write(file: Path, members: Members) -> None:
    text = yaml.safe_dump(to_mapping(members), sort_keys=False)
    write_atomically(file, text)  # a router that watches the file never sees half of it
