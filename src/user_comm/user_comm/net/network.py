"""The members of a network, in a folder: ``network.yaml``, their certificates, the authority.

net/
  network.yaml            who belongs to it, and where the router is
  ca.pem  ca.key          the authority; ca.key never leaves this machine
  router/                 credentials of the router, for its host
  robots/<name>/          credentials of a robot, to be copied to it
  learners/<name>/        credentials of a learner's host
  sites/<name>/           credentials of a site's own router
  router.yaml  zenohd.json5    what the router runs with: ours, or a stock zenohd
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from user_comm.links.credentials import Credentials
from user_comm.net.authority import Authority
from user_core.config import Config, from_mapping, load_yaml, setting, to_mapping
from user_core.errors import ConfigError

FILE = "network.yaml"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
Role = Literal["robot", "learner", "site"]


@dataclass(frozen=True)
class Site(Config):
    """A router of a site, that connects to this network's router for its robots."""

    name: str = setting(doc="Name, also of its certificate.")
    robots: tuple[str, ...] = setting((), doc="Robots that it speaks for.")


@dataclass(frozen=True)
class Members(Config):
    """What stands in ``network.yaml``."""

    name: str = setting("user", doc="Name of the network, for people.", min_length=1)
    endpoints: tuple[str, ...] = setting(
        ("tls/0.0.0.0:7447",), doc="Where the router listens.", min_length=1
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
            members = replace(members, sites=(*others, Site(name, robots)))
        elif role == "robot" and name not in known:
            members = replace(members, robots=(*known, name))
        elif role == "learner" and name not in known:
            members = replace(members, learners=(*known, name))
        made = Authority(self.folder).issue(self.credentials(role, name).folder, name, **options)
        _write(self.folder / FILE, members)
        self.members = members
        return made

    def credentials(self, role: Role, name: str) -> Credentials:
        """Where a member's credentials are."""
        return Credentials(self.folder / f"{role}s" / name)

    @property
    def router(self) -> Credentials:
        """The router's credentials."""
        return Credentials(self.folder / "router")


def _write(file: Path, members: Members) -> None:
    text = yaml.safe_dump(to_mapping(members), sort_keys=False)
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, file)  # a router that watches the file never sees half of it
