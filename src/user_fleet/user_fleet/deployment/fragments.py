"""Robots and hosts of a deployment, with what their roles give them.

A role is a fragment: a file with processes, values and arguments, which may extend others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from user_core.errors import ConfigError
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.members import Member
from user_fleet.deployment.resolve import Resolver
from user_fleet.deployment.tree import Node, Origin, overlay, plain, read_tree

#: An empty mapping that is written nowhere.
EMPTY = Node({}, Origin(""))
_NO_ROLES = Node([], Origin(""))
_FRAGMENT_KEYS = ("description", "extends", "arguments", "values", "processes")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_DEEPEST = 20
_MOST_ROBOTS = 1000


class MemberReader(Resolver):
    """Reads which robots and hosts there are, and lays their fragments over each other.

    Args:
        file: The deployment.
        variables: Variables of the run.
        fragments: Further folders of fragments, after those beside the file.
        faults: Gets what is wrong.

    Attributes:
        folders: Where fragments are looked for.
        top: The deployment as it is written.
    """

    def __init__(
        self,
        file: Path,
        variables: Mapping[str, str],
        fragments: Sequence[Path],
        faults: Faults,
    ) -> None:
        super().__init__(file, variables, faults)
        here = file.absolute().parent
        self.folders = [here / "fragments", here.parent / "fragments", *fragments]
        self.top = read_tree(file)

    def members(self) -> list[Member]:
        """All hosts and robots."""
        return [*self.hosts.values(), *self.robots.values()]

    def mapping(self, tree: Node, key: str) -> Node | None:
        """A mapping under this key; None, and a fault, where it is something else."""
        node = tree.get(key)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, dict):
            self.faults.add(node.origin, key, repr(plain(node)), "a mapping")
            return None
        return node

    def find_members(self) -> None:
        """Take the robots and hosts that there are, and what their roles give them."""
        hosts, robots = self.mapping(self.top, "hosts"), self.mapping(self.top, "robots")
        roles = self.top.get("roles")
        if hosts is not None and roles is not None:
            self.faults.add(roles.origin, "roles", "beside hosts", "the roles of each host with it")
        if hosts is None and (roles is not None or robots is not None):
            tree = Node({"roles": roles or _NO_ROLES}, self.top.origin)
            self.hosts[""] = Member("", "", False, tree)
        for name, tree in self._named(hosts):
            self._add(name, name, False, tree)
        for name, tree in self._named(robots):
            host = self._host_named(name, tree)
            for each, mine in self._counted(name, tree):
                self._add(each, host, True, mine)
        for member in self.members():
            roles = member.tree.get("roles") or _NO_ROLES
            for role in roles.value if isinstance(roles.value, list) else [roles]:
                self.apply(member, self.resolved(role))

    def _named(self, mapping: Node | None) -> list[tuple[str, Node]]:
        """Its entries, with what their names stand for; a text or list stands for the roles."""
        found = []
        for key, tree in (mapping or EMPTY).value.items():
            name = str(plain(self.resolved(Node(key, tree.origin))))
            if tree.value is None:
                tree = Node({}, tree.origin)
            if not isinstance(tree.value, dict):
                tree = Node({"roles": tree}, tree.origin)
            found.append((name, tree))
        return found

    def _counted(self, name: str, tree: Node) -> list[tuple[str, Node]]:
        """A robot, or with ``count`` this many of it: ``name0``, ``name1`` and so on, each with its ``number``."""
        said = tree.get("count")
        if said is None:
            return [(name, tree)]
        count = plain(self.resolved(said))
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_ROBOTS:
            what, expected = f"robots.{name}.count", f"a whole number, 0 to {_MOST_ROBOTS}"
            self.faults.add(said.origin, what, repr(count), expected)
            self.whole = False  # that robots are missing follows from it
            return []
        if not count:
            self.counted_none[name] = self.resolved(said).origin
        rest = tree.without("count")
        return [
            (f"{name}{n}", Node({**rest.value, "number": Node(n, said.origin)}, tree.origin))
            for n in range(count)
        ]

    def _host_named(self, robot: str, tree: Node) -> str:
        """The host that a robot says it is on, or the only one."""
        names, what = list(self.hosts), f"robots.{robot}.host"
        host = tree.get("host")
        if host is None:
            if len(names) > 1:
                self.faults.add(tree.origin, what, "none", f"one of {sorted(names)}")
            return names[0]
        name = str(plain(self.resolved(host)))
        if name not in names:
            self.faults.unknown(host.origin, what, name, names)
        return name

    def _add(self, name: str, host: str, is_robot: bool, tree: Node) -> None:
        kind = "robot" if is_robot else "host"
        for other, members in (("robot", self.robots), ("host", self.hosts)):
            if name in members:
                got, expected = f"a {other} of this name already", "a name of its own"
                self.faults.add(tree.origin, f"{kind}s.{name}", got, expected)
                return
        if not _NAME.fullmatch(name):
            self.faults.add(tree.origin, f"name of a {kind}", repr(name), "letters, digits, _")
        members = self.robots if is_robot else self.hosts
        members[name] = Member(name, host, is_robot, tree)

    def apply(self, member: Member, role: Node, depth: int = 0) -> None:
        """Lay a fragment, and what it extends, over what a member has."""
        fragment = self._fragment(role)
        if fragment is None or depth > _DEEPEST:
            self.whole = False
            if fragment is not None:
                self.faults.add(
                    role.origin, "extends", "fragments that extend each other", "an end"
                )
            return
        for key, node in fragment.value.items():
            if key not in _FRAGMENT_KEYS:
                self.faults.unknown(node.origin, f"unknown key {key!r}", key, _FRAGMENT_KEYS)
        base = fragment.get("extends")
        if base is not None:
            for below in base.value if isinstance(base.value, list) else [base]:
                self.apply(member, below, depth + 1)
        member.values.update((self.mapping(fragment, "values") or EMPTY).value)
        for name, tree in (self.mapping(fragment, "arguments") or EMPTY).value.items():
            before = member.arguments.get(name)
            member.arguments[name] = overlay(
                as_declaration(before) if before else None, as_declaration(tree)
            )
        for name, tree in (self.mapping(fragment, "processes") or EMPTY).value.items():
            member.processes.setdefault(name, []).append(tree)

    def _fragment(self, role: Node) -> Node | None:
        name = str(role.value)
        for folder in self.folders:
            file = folder / f"{name}.yaml"
            if file.is_file():
                try:
                    return read_tree(file)
                except ConfigError as error:
                    self.faults.take(error)
                    return None
        known = {
            f.stem for folder in self.folders if folder.is_dir() for f in folder.glob("*.yaml")
        }
        where = ", ".join(dict.fromkeys(str(f) for f in self.folders if f.is_dir())) or "fragments/"
        self.faults.unknown(role.origin, "fragment", name, known, f"Looked in {where}")
        return None


def is_declaration(tree: Node) -> bool:
    """Whether an argument is described, instead of being just its default."""
    return isinstance(tree.value, dict) and bool(tree.value.keys() & {"default", "doc", "choices"})


def as_declaration(tree: Node) -> Node:
    """An argument that is described, be it by its default alone."""
    return tree if is_declaration(tree) else Node({"default": tree}, tree.origin)
