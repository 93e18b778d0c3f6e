"""From a deployment file to its processes: arguments, fragments, robots and hosts.

A deployment lists robots and hosts, each with its *roles*. A role is a fragment: a YAML file with the
processes that it means, the arguments that it brings, and values that a robot, a host or another
fragment may set otherwise. What follows from the list need not be written: names of processes,
which process of the same robot another one depends on, the lifecycle manager of each host::

    name: two_robots
    roles: [learner]                   # of the only host; or `hosts:`, each with its own
    robots:
      robot0: {roles: [simulated_arm]}
      robot1: {roles: [simulated_arm], seed: 1}
    processes:                         # what differs, by the path of a process
      learner: {niceness: 0}

``robot: {count: 3, roles: [simulated_arm], seed: "${number}"}`` is three of a kind: robot0, robot1 and robot2, with
``number`` 0 to 2.

``${name}`` in a text is, in this order: the name of the robot or host, what the robot says, what its
host says, a value of the deployment, a value of its fragments, an argument, a variable of the run.
``${process.hal}`` is the name of the nearest process with this role. A text that is nothing else
becomes the value itself, with its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from user_core.config import from_mapping, yaml_value
from user_core.config.model import Key
from user_core.errors import ConfigError
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.fragments import EMPTY, MemberReader, as_declaration, is_declaration
from user_fleet.deployment.members import Member, Part, name_with_owner
from user_fleet.deployment.model import Argument, Deployment, ProcessSpec
from user_fleet.deployment.tree import (
    Node,
    Origin,
    overlay,
    place_of,
    plain,
    put,
    tree_of,
)

_KEYS = (
    "name", "description", "arguments", "environment", "values", "roles", "hosts", "robots",
    "processes", "standby", "record",
)  # fmt: skip
#: What a file of another kind is for, by the key that it begins with.
_USES = {
    "algorithm": "A deployment takes it: `user up DEPLOYMENT algorithm:={file}`; so does `user train DATA --algorithm {file}`",
    "robot": "A deployment takes it: `user up real_robot robot:={file}`; `user check robot {file}` looks at it",
}
#: Keys of a robot or a host that are no values for its fragments.
_MEMBER_KEYS = ("roles", "host", "domain", "number")
#: What of a process can be set by a path, besides its parameters.
_PROCESS_KEYS = (
    "environment",
    "niceness",
    "remappings",
    "required",
    "restart",
    "stop_timeout_s",
)
_COMMAND_LINE = "command line"
_MANAGER, _HOST_MANAGER = "lifecycle_manager", "host_lifecycle_manager"
_CONSOLE, _RECORD = "console", "record"


@dataclass(frozen=True)
class Composition:
    """A deployment and where everything in it comes from.

    Attributes:
        deployment: What runs.
        trees: Each process as a tree, by its name, with the origins of its values.
        arguments: Those of the deployment, with their values.
        file: Where it was read.
        incomplete: Processes of which a part could not be read: nothing else is found out of them.
    """

    deployment: Deployment
    trees: Mapping[str, Node]
    arguments: Mapping[str, Any]
    file: Path
    incomplete: frozenset[str] = frozenset()

    def origin(self, process: str, key: Key) -> Origin:
        """Where a value of a process comes from, or what is above it."""
        return place_of(self.trees[process], key)


def load_deployment(
    file: str | Path,
    overrides: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Deployment:
    """Read a deployment, with everything filled in; see :func:`compose`.

    Raises:
        ConfigError: Names place and key, what was got and what is allowed. ConfigErrors, if
            several things are wrong.
    """
    faults = Faults()
    composition = compose(file, overrides, variables, faults=faults)
    faults.check()
    return composition.deployment


def compose(
    file: str | Path,
    overrides: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    fragments: Sequence[Path] = (),
    *,
    faults: Faults,
) -> Composition:
    """Read a deployment, and find out what runs.

    Args:
        file: The YAML file.
        overrides: Values for its arguments, and for parameters of its processes by their path
            (``learner.training.utd.target``), as given on the command line.
        variables: What else may be substituted, for instance ``run_dir``.
        fragments: Further folders in which to look for fragments, after those beside the file.
        faults: Gets what is wrong. What could be understood in spite of it is returned, so that
            more can be checked; it must not be run.

    Raises:
        ConfigError: The file itself cannot be read.
    """
    return _Composer(Path(file), overrides or {}, variables or {}, fragments, faults).compose()


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``["robot:=panda", "rate:=20"]`` to ``{"robot": "panda", "rate": 20}`` (YAML values)."""
    values: dict[str, Any] = {}
    faults = Faults()
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator or not name:
            wrong, equals, value = word.partition("=")
            hint = f"Write {wrong}:={value}" if equals and wrong else ""
            faults.add(None, "argument", repr(word), "name:=value", hint)
            continue
        if name in values:
            faults.add(None, f"argument {name!r}", "two values", "one")
        try:
            values[name] = yaml_value(text) if text else ""
        except yaml.YAMLError:
            faults.add(None, f"argument {name!r}", repr(text), "YAML")
    faults.check()
    return values


class _Composer(MemberReader):
    def __init__(
        self,
        file: Path,
        overrides: Mapping[str, Any],
        variables: Mapping[str, str],
        fragments: Sequence[Path],
        faults: Faults,
    ) -> None:
        super().__init__(file, variables, fragments, faults)
        self.overrides = overrides
        self.declared: dict[str, Node] = {}

    # --- the way through -----------------------------------------------------------------

    def compose(self) -> Composition:
        self._refuse_another_kind()
        for key, node in self.top.value.items():
            if key not in _KEYS:
                self.faults.unknown(node.origin, f"unknown key {key!r}", key, _KEYS)
        self.declared = dict((self.mapping(self.top, "arguments") or EMPTY).value)
        self.values = dict((self.mapping(self.top, "values") or EMPTY).value)
        self._choose(self.declared)
        self.find_members()
        for member in self.members():
            for role, layers in member.processes.items():
                self.parts.append(Part(role, member, list(layers)))
        self._add_managers()
        self._add_console()
        self._add_record()
        self._declare_those_of_fragments()
        self._take_processes()
        self._name_parts()
        paths = self._split_overrides()
        trees = {part.name: self._finish(part, paths.get(part.name, [])) for part in self.parts}
        environment = self.resolved(self.top.get("environment") or EMPTY)
        self._refuse_unknown()
        return self._checked(trees, environment)

    def _checked(self, trees: dict[str, Node], environment: Node) -> Composition:
        """The deployment, of all processes that are right."""
        specs: list[ProcessSpec] = []
        for name, tree in trees.items():
            try:
                specs.append(from_mapping(ProcessSpec, plain(tree), name))
            except ConfigError as error:
                self.faults.take(error, Node({name: tree}, tree.origin))
        arguments = self._used_arguments()
        texts = {key: plain(self.top[key]) for key in ("name", "description") if self.top.get(key)}
        standby = self._standby()
        specs = self._with_standbys(specs, standby)
        data = {**texts, "environment": plain(environment), "arguments": arguments}
        if standby is not None:
            data["standby"] = plain(standby)
        complete = not self.faults.found
        try:
            deployment = from_mapping(Deployment, {**data, "processes": specs})
        except ConfigError as error:
            if complete:
                self.faults.take(error, self.top)
            data = {"name": "", "description": "", **data, "processes": tuple(specs)}
            deployment = Deployment.model_construct(**data)
        values = {
            name: plain(self.resolved(node) if name in self.by_default else node)
            for name, node in self.chosen.items()
            if name in arguments
        }
        incomplete = frozenset(self.incomplete)
        return Composition(deployment, trees, values, self.file, incomplete)

    def _standby(self) -> Node | None:
        """Who is to have a standby, as the file or the command line says."""
        if "standby" in self.overrides and "standby" not in self.declared:
            return tree_of(self.overrides["standby"], Origin(_COMMAND_LINE))
        node = self.top.get("standby")
        return None if node is None else self.resolved(node)

    def _with_standbys(self, specs: list[ProcessSpec], chosen: Node | None) -> list[ProcessSpec]:
        """The processes, those that are not chosen without a standby."""
        value = True if chosen is None else plain(chosen)
        listed = list(value) if isinstance(value, list) else []
        if chosen is None or not (value is False or isinstance(value, list)):
            return specs  # or it is refused with the deployment
        words = {str(word) for word in listed}
        known = set().union(*(spec.words for spec in specs))
        for word in sorted(words - known):
            if self.whole:
                self.faults.unknown(chosen.origin, "standby", word, known)
        return [
            spec
            if words & spec.words
            else spec.replace(restart=spec.restart.replace(standby_after_s=0.0))
            for spec in specs
        ]

    # --- arguments -------------------------------------------------------------------------

    def _choose(self, declared: Mapping[str, Node]) -> None:
        """The values of these arguments."""
        for name, tree in declared.items():
            argument = self._argument(name, tree)
            if argument is None:
                continue
            default = tree.get("default") if is_declaration(tree) else tree
            origin = Origin(f"default at {(default or tree).origin.place}")
            value = argument.default
            if name in self.overrides:
                value, origin = self.overrides[name], Origin(_COMMAND_LINE)
            else:
                self.by_default.add(name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if isinstance(argument.default, str) and is_number:
                value = str(value)  # a text that looks like a number, as it was written
            if argument.choices and str(value) not in argument.choices:
                what = f"argument {name!r} of {self.file.name}"
                self.faults.unknown(origin, what, str(value), argument.choices)
            self.chosen[name] = tree_of(value, origin)

    def _argument(self, name: str, tree: Node) -> Argument | None:
        data = plain(tree) if is_declaration(tree) else {"default": plain(tree)}
        try:
            return from_mapping(Argument, data)
        except ConfigError as error:
            self.faults.take(error, tree, f"arguments.{name}.")
            return None

    def _declare_those_of_fragments(self) -> None:
        declared: dict[str, Node] = {}
        for member in self.members():  # what a robot's fragments say wins over a host's
            for name, tree in member.arguments.items():
                declared[name] = overlay(declared.get(name), as_declaration(tree))
        for name, tree in self.declared.items():
            declared[name] = overlay(declared.get(name), as_declaration(tree))
        self.own = set(self.declared)
        self.asked |= self.own
        self.declared = {name: declared[name] for name in (*self.declared, *declared)}
        self._choose(self.declared)

    def _used_arguments(self) -> dict[str, Argument]:
        """Those of the file, and those of its fragments that something of it needs."""
        found = {}
        for name, tree in self.declared.items():
            if name in self.asked and (argument := self._argument(name, tree)) is not None:
                found[name] = argument
        return found

    # --- processes -----------------------------------------------------------------------------

    def _add_managers(self) -> None:
        """A lifecycle manager for each host that has something to manage."""
        for host in self.hosts.values():
            if self._manages(host):
                role = _HOST_MANAGER if len(self.hosts) > 1 else _MANAGER
                self._add_role(host, role)

    def _add_console(self) -> None:
        """The operator's page, where it is asked for: beside the learner, or on the first host."""
        if not any(part.is_managed for part in self.parts):
            return
        self.asked.add(_CONSOLE)
        declared = self.declared.get(_CONSOLE)
        default = None if declared is None else plain(declared.get("default") or declared)
        if not self.overrides.get(_CONSOLE, default):
            return
        hosts = list(self.hosts.values())
        host = next((h for h in hosts if "learner" in h.processes), hosts[0])
        domains = [d for h in hosts if (d := h.tree.get("domain")) is not None]
        host.values["console_domains"] = Node([self.resolved(d) for d in domains], host.tree.origin)
        self._add_role(host, _CONSOLE)

    def _add_record(self) -> None:
        """A recorder on each host that has something to manage, where it is asked for: by the key
        ``record``, with its parameters, or by ``record:=true``."""
        if not any(part.is_managed for part in self.parts):
            return
        self.asked.add(_RECORD)
        said = self.top.get(_RECORD)
        given = plain(said) if said is not None else False
        if said is not None and not isinstance(given, bool | dict):
            self.faults.add(said.origin, _RECORD, repr(given), "true, false or parameters")
            return
        declared = self.declared.get(_RECORD)
        default = None if declared is None else plain(declared.get("default") or declared)
        if not self.overrides.get(_RECORD, given or given == {} or default):
            return
        for host in list(self.hosts.values()):
            if not self._manages(host):
                continue
            folder = _RECORD if len(self.hosts) == 1 else f"{_RECORD}/{host.name}"
            host.values["record_folder"] = Node(folder, host.tree.origin)
            self._add_role(host, _RECORD)
            if said is not None and isinstance(given, dict):
                self.parts[-1].layers.append(Node({"parameters": said}, said.origin))

    def _manages(self, host: Member) -> bool:
        """Whether a host has something to manage."""
        mine = [part for part in self.parts if part.member and part.member.host == host.name]
        return any(part.is_managed for part in mine)

    def _add_role(self, host: Member, role: str) -> None:
        """One more role of a host, which its file does not name, with the processes that it brings."""
        before = set(host.processes)
        self.apply(host, Node(role, host.tree.origin))
        for name in host.processes.keys() - before:
            self.parts.append(Part(name, host, list(host.processes[name])))

    def _refuse_another_kind(self) -> None:
        """A file of an algorithm or a robot is told as such; all its keys would be unknown. Raises ConfigErrors."""
        given = self.top.value
        if given.keys() & {"roles", "hosts", "robots", "processes"}:
            return
        for key, use in _USES.items():
            if key in given:
                got = f"the file of {'an' if key == 'algorithm' else 'a'} {key}"
                self.faults.add(
                    given[key].origin,
                    self.file.name,
                    got,
                    "a deployment",
                    use.format(file=self.file),
                )
                self.faults.check()

    def _take_processes(self) -> None:
        """What the file itself says of processes."""
        given = self.top.get("processes")
        if given is None and not self.hosts:
            self.faults.add(self.top.origin, "processes", "none", "robots, hosts or processes")
        elif given is not None and isinstance(given.value, list):
            self._take_list(given)
            return
        for path, tree in (self.mapping(self.top, "processes") or EMPTY).value.items():
            parts = self._matching(path.split("."))
            if not parts and tree.get("package") and tree.get("executable"):
                host = str(plain(tree["host"])) if tree.get("host") else ""
                self.parts.append(Part(path, self.hosts.get(host), [tree.without("host")]))
            elif not parts and self.whole:
                self.missing(tree.origin, "processes", path, self.paths())
            for part in parts:
                part.layers.append(tree)
                part.forced |= tree.get("name") is not None

    def _take_list(self, given: Node) -> None:
        """Processes that are given in full, each with its name."""
        for number, tree in enumerate(given.value):
            name = tree.get("name")
            if name is None:
                self.faults.add(
                    tree.origin, f"missing key 'processes[{number}].name'", expected="a text"
                )
                continue
            text = str(plain(self.resolved(name)))
            if any(part.name == text for part in self.parts):
                self.faults.add(name.origin, "processes", f"{text!r} twice", "unique names")
                continue
            self.parts.append(Part(text, None, [tree], text, True))

    def _name_parts(self) -> None:
        """Its role, or what the fragment says; with the robot or host where several have it."""
        by_role: dict[str, list[Part]] = {}
        for part in self.parts:
            by_role.setdefault(part.role, []).append(part)
        for role, parts in by_role.items():
            for part in parts:
                name = part.get("name")
                if name is not None and (part.forced or len(parts) == 1):
                    part.name = str(plain(self.resolved(name, part)))
            nameless = [part for part in parts if not part.name]
            names = [role] * len(nameless)
            if len(parts) > 1:
                owners = [self._owner(part) for part in nameless]
                names = [name_with_owner(role, owner) for owner in owners]
                if len(set(names)) < len(names):
                    names = [f"{owner}_{role}" for owner in owners]
            for part, text in zip(nameless, names, strict=True):
                part.name = text
        taken: dict[str, Part] = {}
        for part in self.parts:
            if part.name in taken:
                hint = f"{taken[part.name].path} has it already"
                got = f"{part.name!r} twice"
                self.faults.add(part.origin, f"name of {part.path}", got, "unique names", hint)
            taken[part.name] = part

    def _owner(self, part: Part) -> str:
        """Whose process it is, for its name: the robot, where there are several, or the host."""
        if part.member is None:
            return ""
        return part.member.name if len(self.robots) > 1 else part.member.host

    def _matching(self, words: Sequence[str]) -> list[Part]:
        """The processes that a path means."""
        if len(words) == 2:
            return [p for p in self.parts if p.member and [p.member.name, p.role] == list(words)]
        if len(words) != 1:
            return []
        named = [p for p in self.parts if p.name == words[0]]
        return named or [p for p in self.parts if p.role == words[0]]

    # --- paths of the command line ---------------------------------------------------------------

    def _split_overrides(self) -> dict[str, list[tuple[list[str], Node]]]:
        """What the command line sets, by the process it concerns; what it sets of robots and
        hosts is set at once."""
        found: dict[str, list[tuple[list[str], Node]]] = {}
        owners = {**self.hosts, **self.robots}
        for path, value in self.overrides.items():
            words = path.split(".")
            if len(words) == 1:
                continue  # an argument; see _refuse_unknown
            node = tree_of(value, Origin(_COMMAND_LINE))
            parts, rest = self._matching(words[:2]), words[2:]
            if not parts:
                parts, rest = self._matching(words[:1]), words[1:]
            owner = owners.get(words[0])
            if parts and rest:
                for part in parts:
                    found.setdefault(part.name, []).append((rest, node))
            elif parts:
                self.faults.add(node.origin, path, "no parameter", f"{path}.PARAMETER:=value")
            elif owner is not None and len(words) == 2 and words[1] not in _MEMBER_KEYS:
                owner.tree = put(owner.tree, words[1:], node)
            elif self.whole:
                wrong = ".".join(words[:2]) if owner is not None else words[0]
                self.missing(node.origin, f"{path}: process", wrong, self.paths())
        return found

    def _refuse_unknown(self) -> None:
        """Arguments, and values of robots and hosts, that nothing asks for."""
        if not self.whole:
            return  # what is missing might have asked for them
        known = self.asked & self.declared.keys()
        for name in self.overrides:
            if "." not in name and name not in known and name != "standby":
                self.missing(
                    Origin(_COMMAND_LINE), f"unknown argument of {self.file.name}", name, known,
                    "A parameter of a process is set by its path, as learner.training.batch_size",
                )  # fmt: skip
        everything = set(self.used)
        for member in self.members():
            everything |= member.values.keys() | member.arguments.keys()
        for key, node in self.values.items():
            if key not in everything:
                self.missing(node.origin, "values", key, everything)
        for member in self.members():
            allowed = {*_MEMBER_KEYS, *self.used}
            for other in (m for m in self.members() if m.host == member.host):
                allowed |= other.values.keys() | other.arguments.keys()
            if not member.is_robot:
                allowed.discard("host")
            kind = "robots" if member.is_robot else "hosts"
            for key, node in member.tree.value.items():
                if key not in allowed:
                    self.faults.unknown(node.origin, f"{kind}.{member.name}", key, allowed)

    # --- from templates to values ------------------------------------------------------------------

    def _finish(self, part: Part, paths: Sequence[tuple[list[str], Node]]) -> Node:
        """All that is known of a process, with nothing left to be filled in."""
        tree = Node({}, part.origin)
        for layer in part.layers:
            tree = overlay(tree, self.resolved(layer, part))
        given = Node({}, part.origin)  # all at once: their order says nothing
        for words, node in paths:
            inner = words if words[0] in _PROCESS_KEYS else ["parameters", *words]
            given = put(given, inner, node)
        tree = overlay(tree, given)
        tree = put(tree, ["name"], Node(part.name, tree.origin))
        member = part.member
        if member is not None:
            tree = put(tree, ["role"], Node(part.role, part.origin))
            if member.is_robot:
                tree = put(tree, ["robot"], Node(member.name, member.tree.origin))
            tree = self._on_its_host(part, tree)
        needs = tree.get("depends_on")
        if needs is not None and isinstance(needs.value, list):
            found = [self._needed(part, node) for node in needs.value]
            tree = put(tree, ["depends_on"], Node(found, needs.origin))
        return tree

    def _on_its_host(self, part: Part, tree: Node) -> Node:
        """With the host's name, and its ROS domain where it has one of its own."""
        host = self.hosts.get(part.member.host) if part.member is not None else None
        if host is None or not host.name or len(self.hosts) < 2:
            return tree
        if tree.get("host") is None:
            tree = put(tree, ["host"], Node(host.name, host.tree.origin))
        domain, ros = host.tree.get("domain"), tree.get("ros")
        if domain is not None and (ros is None or ros.value):
            text = self.resolved(domain, part)
            set_by = Node({"ROS_DOMAIN_ID": Node(str(plain(text)), text.origin)}, text.origin)
            mine = tree.get("environment")
            tree = put(tree, ["environment"], overlay(set_by, mine) if mine else set_by)
        return tree

    def _needed(self, part: Part, node: Node) -> Node:
        """The name of a process that another one depends on, by role or name."""
        other = self.sibling(part, str(plain(node)))
        if other is None:
            if self.whole:
                self.missing(node.origin, f"{part.name}.depends_on", str(plain(node)), self.paths())
            return node
        return Node(other.name, node.origin)
