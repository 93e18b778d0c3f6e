"""Filling in: what a variable stands for, as a process sees it, and what another file says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from user_core.config import find_shared, path_of_file, shared_names
from user_core.errors import ConfigError
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.members import Member, Part
from user_fleet.deployment.tree import Node, Origin, overlay, plain, read_tree, tree_of

_FIRST_ROBOT, _ROBOT_NAMES = "first_robot", "robot_names"
_WITHOUT_ROBOTS = (
    "There are no robots in this deployment: name the one that is meant, by the key `values`: "
    "{learns_for: robot0} for a learner, {acts_for: robot0} for inference"
)
_VARIABLE = re.compile(r"\$\{([a-zA-Z_][a-zA-Z0-9_.]*)\}")
_DEEPEST = 20
#: Variables that are being filled in, with the scope in which they were found.
_Seen = frozenset[tuple[int, str]]


class Resolver:
    """Replaces the variables of a deployment by their values.

    Attributes:
        file: The deployment.
        variables: Variables of the run.
        faults: Gets what is wrong.
        chosen: Values of arguments.
        own: Names of the arguments that the deployment itself declares.
        values: What the deployment says for all its fragments.
        hosts: By name.
        robots: By name.
        counted_none: Robots of which there are to be 0, with the place that says so.
        parts: The processes.
        by_default: Names of the arguments whose values are their defaults, which may name variables.
        used: Names of variables that were asked for.
        asked: Names of arguments that were asked for.
        incomplete: Names of processes of which a file could not be read.
        whole: Whether all fragments and robots were found; what is missing otherwise is no further fault.
    """

    def __init__(self, file: Path, variables: Mapping[str, str], faults: Faults) -> None:
        self.file, self.variables, self.faults = file, dict(variables), faults
        self.chosen: dict[str, Node] = {}
        self.own: set[str] = set()
        self.by_default: set[str] = set()
        self.values: dict[str, Node] = {}
        self.hosts: dict[str, Member] = {}
        self.robots: dict[str, Member] = {}
        self.counted_none: dict[str, Origin] = {}
        self.parts: list[Part] = []
        self.used: set[str] = set()
        self.asked: set[str] = set()
        self.incomplete: set[str] = set()
        self.whole = True

    def paths(self) -> set[str]:
        """By what processes can be named."""
        return {p.path for p in self.parts} | {p.name or p.role for p in self.parts}

    def sibling(self, part: Part | None, role: str) -> Part | None:
        """The process of this role that is nearest: of the same robot, the same host, or the only one."""
        others = [p for p in self.parts if role in (p.role, p.name)]
        if part is not None and part.member is not None:
            mine = part.member
            for near in (
                [p for p in others if p.member is mine],
                [p for p in others if p.member and p.member.host == mine.host],
            ):
                if len(near) == 1:
                    return near[0]
        exact = [p for p in others if p.name == role]
        return exact[0] if exact else others[0] if len(others) == 1 else None

    def resolved(
        self, node: Node, part: Part | None = None, seen: _Seen = frozenset(), depth: int = 0
    ) -> Node:
        """With all variables and files filled in, as the member of a process sees them."""
        if depth > _DEEPEST:
            self.faults.add(node.origin, "include", "files that include each other", "an end")
            return Node(None, node.origin)
        value = node.value
        if isinstance(value, str):
            return self._substituted(node, part, seen, depth)
        if isinstance(value, list):
            return Node([self.resolved(n, part, seen, depth) for n in value], node.origin)
        if isinstance(value, dict):
            below = {k: self.resolved(n, part, seen, depth) for k, n in value.items()}
            include = below.pop("include", None)
            top = Node(below, node.origin)
            if include is None:
                return top
            content = self._included(include)
            if content is None:
                self.incomplete |= {part.name} if part is not None else set()
                return top
            return overlay(self.resolved(content, part, seen, depth + 1), top)
        return node

    def _included(self, what: Node) -> Node | None:
        """The content of a file: ``include: FILE``, ``{file: FILE, only: [KEY]}``, or
        ``{FOLDER: NAME}`` for one that is ready in ``config/FOLDER``, or somewhere else."""
        try:
            file = self._file_meant(what)
            content = None if file is None else read_tree(file)
        except ConfigError as error:
            self.faults.take(error, None, f"{what.origin}: ")
            return None
        if content is None:
            return None
        only = what.get("only")
        if only is not None:
            content = Node(
                {k: v for k, v in content.value.items() if k in plain(only)}, content.origin
            )
        return content

    def _file_meant(self, what: Node) -> Path | None:
        """The file of an ``include``; None, and a fault, where there is none of this name."""
        beside = Path(what.origin.place.rpartition(":")[0]).parent
        if not isinstance(what.value, dict):
            return self._beside(beside, str(what.value))
        if (name := what.get("file")) is not None:
            return self._beside(beside, str(name.value))
        folder, name = next((k, v) for k, v in what.value.items() if k != "only")
        text, own = str(name.value), self.file.absolute().parent
        if text.endswith((".yaml", ".yml")):
            given = path_of_file(text)
            file: Path | None = given if given.is_file() else own / given
        else:
            file = find_shared(folder, text, [own.parent / folder, beside.parent / folder])
        if file is not None and file.is_file():
            return file
        known = {f.stem for f in (beside.parent / folder).glob("*.yaml")} | set(
            shared_names(folder)
        )
        self.faults.unknown(
            name.origin, folder, text, sorted(known), "Or give the path of a .yaml file"
        )
        return None

    def _beside(self, folder: Path, name: str) -> Path:
        """A file beside the one that names it, or else beside the deployment; ``package://PACKAGE/FILE`` is
        in an installed package. Raises ConfigError when that is not installed."""
        if name.startswith(("package://", "~")):
            return path_of_file(name)
        file = folder / name
        return file if file.exists() else self.file.parent / name

    def _substituted(self, node: Node, part: Part | None, seen: _Seen, depth: int) -> Node:
        whole = _VARIABLE.fullmatch(node.value)
        if whole:
            return self._looked_up(whole[1], node, part, seen, depth)
        through: list[str] = []

        def put_in(match: re.Match[str]) -> str:
            found = self._looked_up(match[1], node, part, seen, depth)
            through.extend([found.origin.through] * bool(found.origin.through))
            return str(plain(found))

        text = _VARIABLE.sub(put_in, node.value)
        said = "; ".join(dict.fromkeys(through)) or node.origin.through
        return Node(text, Origin(node.origin.place, said))

    def _looked_up(self, name: str, user: Node, part: Part | None, seen: _Seen, depth: int) -> Node:
        """What a variable stands for. A value that names itself means the one further out."""
        if name.startswith("process."):
            other = self.sibling(part, name.removeprefix("process."))
            if other is not None:
                return Node(other.name, user.origin)
        scopes = self._scopes(part)
        for level, values in enumerate(scopes):
            if name not in values or (level, name) in seen:
                continue
            self.used.add(name)
            found = values[name]
            if name in self.chosen and values[name] is self.chosen[name]:
                self.asked.add(name)
                through = f"argument {name}, {found.origin.place}"
                found = tree_of(plain(found), Origin(user.origin.place, through))
                if name not in self.by_default:
                    return found
            return self.resolved(found, part, seen | {(level, name)}, depth)
        if not self.whole:
            return Node(None, user.origin)
        if name in (_FIRST_ROBOT, _ROBOT_NAMES) and self.counted_none:
            self.refuse_none()
            self.incomplete |= {part.name} if part is not None else set()
        else:
            known = {key for values in scopes for key in values}
            hint = _WITHOUT_ROBOTS if name == _FIRST_ROBOT else ""
            self.faults.unknown(user.origin, "unknown variable", name, known, hint)
        return Node(None, user.origin)

    def missing(
        self, origin: Origin | None, what: str, got: str, known: Iterable[str], hint: str = ""
    ) -> None:
        """Nothing has this name, as a process or a value that robots bring; where their count is 0, it is that."""
        if self.counted_none and not self.robots:
            self.refuse_none()
        else:
            self.faults.unknown(origin, what, got, known, hint)

    def refuse_none(self) -> None:
        """There are to be no robots at all, and something is made for robots: the one fault of all that is missing then."""
        for robots, origin in self.counted_none.items():
            self.faults.add(
                origin, f"robots.{robots}.count", "0, and there are no others", "at least one",
                "What else runs there is made for a robot",
            )  # fmt: skip

    def _own_arguments(self) -> dict[str, Node]:
        """Those that the file itself declares, which win over what its fragments say."""
        return {name: node for name, node in self.chosen.items() if name in self.own}

    def _scopes(self, part: Part | None) -> list[Mapping[str, Node]]:
        """Where variables are looked for, the nearest first."""
        given = {"namespace": "", "config_dir": str(self.file.parent.parent), **self.variables}
        run = {name: Node(text, Origin("the run")) for name, text in given.items()}
        if self.robots:
            run[_FIRST_ROBOT] = Node(next(iter(self.robots)), Origin("the run"))
            run[_ROBOT_NAMES] = tree_of(list(self.robots), Origin("the run"))
        member = part.member if part is not None else None
        if member is None:
            return [self.chosen, run]
        host = self.hosts.get(member.host, member)
        own = {"name": Node(member.name, member.tree.origin)} if member.name else {}
        said = [own, member.tree.value, host.tree.value, self.values, self._own_arguments()]
        return [*said, member.values, host.values, self.chosen, run]
