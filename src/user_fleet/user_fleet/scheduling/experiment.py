"""An experiment: which roles it has, what each must be given, and what is preferred.

::

    name: peg_insertion
    priority: 10
    roles:
      robots: {kind: robot, count: 2, joints: [6, 7], cameras: [wrist], tags: [cell-a]}
      learner:
        first_of:                     # the first that can be had
          - {kind: gpu, count: 2, memory_gb: 40}
          - {kind: gpu}
          - {kind: cpu, cores: 4}
    preferences: {data_at_site: 10, spread: 3, warm: 1}
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from user_core import plugins
from user_core.config import Config, ConfigErrors, from_mapping, load_document, setting
from user_core.errors import ConfigError
from user_fleet.resources.model import Kind, Resource

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_ENGINE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?")
_MAX_ROLES = 16
#: In values of a run: ``${name}``, and ``${ROLE.name}`` of another role.
REFERENCE = re.compile(r"\$\{([A-Za-z][\w-]*)(?:\.(\w+))?\}")
#: What may be asked of another role, to what it is.
OF_A_ROLE = {
    "address": "address of the host that runs it",
    "port": "port that is its own on that host",
    "host": "name of that host",
    "site": "place of that host",
    "name": "name of the first resource that it was granted",
}


class Requirement(Config):
    """What each resource of a role must be. What is not said may be anything."""

    kind: Kind = setting("robot", doc="Sort of resource.")
    count: int = setting(1, doc="How many of them.", ge=1, le=64)
    together: bool | None = setting(
        None, doc="All on one host; null: for GPUs, which one process is to use."
    )
    joints: tuple[int, ...] = setting((), doc="Degrees of freedom, any of these.", max_length=16)
    action_kinds: tuple[str, ...] = setting((), doc="Kinds of action, any of these.", max_length=16)
    cameras: tuple[str, ...] = setting(
        (), doc="For each word, a camera whose name has it: wrist.", max_length=16
    )
    models: tuple[str, ...] = setting(
        (), doc="Words of which the model has one, in any case of letters.", max_length=16
    )
    tags: tuple[str, ...] = setting((), doc="Tags that it must have, all.", max_length=16)
    without_tags: tuple[str, ...] = setting((), doc="Tags that it must not have.", max_length=16)
    sites: tuple[str, ...] = setting((), doc="Places, any of these.", max_length=64)
    hosts: tuple[str, ...] = setting((), doc="Hosts, any of these.", max_length=64)
    memory_gb: float = setting(0.0, doc="Least memory, of each.", unit="GiB", ge=0)
    cores: float = setting(0.0, doc="Fewest cores.", ge=0)
    disk_gb: float = setting(0.0, doc="Least free disk.", unit="GiB", ge=0)

    @property
    def on_one_host(self) -> bool:
        """Whether all that is given must be of one host."""
        return self.count > 1 and (self.kind == "gpu" if self.together is None else self.together)

    def lacks(self, item: Resource) -> list[str]:
        """What a resource lacks for this, for people; empty when it fits. Whether it can be had
        now is another question."""
        if item.kind != self.kind:
            return [f"it is a {item.kind}, no {self.kind}"]
        found = []
        if self.joints and item.joints not in self.joints:
            got = f"{item.joints} joints" if item.joints else "joints unknown"
            found.append(f"{got}, asked for {_any(self.joints)}")
        if self.action_kinds and item.action_kind not in self.action_kinds:
            found.append(f"action {item.action_kind or 'unknown'}, asked {_any(self.action_kinds)}")
        for word in self.cameras:
            if not any(word in camera for camera in item.cameras):
                found.append(f"no {word} camera")
        if self.models and not any(word.lower() in item.model.lower() for word in self.models):
            found.append(f"model {item.model or 'unknown'}, asked for {_any(self.models)}")
        found += [f"no tag {tag}" for tag in self.tags if tag not in item.tags]
        found += [f"tag {tag}" for tag in self.without_tags if tag in item.tags]
        if self.sites and item.site not in self.sites:
            found.append(f"at {item.site or 'no site'}, asked for {_any(self.sites)}")
        if self.hosts and item.host not in self.hosts:
            found.append(f"on {item.host}, asked for {_any(self.hosts)}")
        if item.memory_gb < self.memory_gb:
            found.append(f"{item.memory_gb:.1f} GiB of memory, asked for {self.memory_gb:g}")
        if (cores := item.amounts.get("cores", 0.0)) < self.cores:
            found.append(f"{cores:g} cores, asked for {self.cores:g}")
        if (free := item.amounts.get("disk_free_bytes", 0.0) / 2**30) < self.disk_gb:
            found.append(f"{free:.0f} GiB of disk free, asked for {self.disk_gb:g}")
        return found

    def in_words(self) -> str:
        """In one line, for people."""
        words = [f"{self.count} {self.kind}" + ("s" if self.count > 1 else "")]
        words += [f"{_any(self.joints)} joints"] if self.joints else []
        words += [f"action {_any(self.action_kinds)}"] if self.action_kinds else []
        words += [f"{word} camera" for word in self.cameras]
        words += [f"model {_any(self.models)}"] if self.models else []
        words += [f"#{tag}" for tag in self.tags] + [f"not #{tag}" for tag in self.without_tags]
        words += [f"at {_any(self.sites)}"] if self.sites else []
        words += [f"on {_any(self.hosts)}"] if self.hosts else []
        words += [f"{self.memory_gb:g} GiB"] if self.memory_gb else []
        words += [f"{self.cores:g} cores"] if self.cores else []
        words += [f"{self.disk_gb:g} GiB of disk"] if self.disk_gb else []
        return ", ".join(words) + (", on one host" if self.on_one_host else "")


class Run(Config):
    """What the agent of a host starts for each resource that is granted for a role.

    In values, ``${resource}``, ``${host}``, ``${address}``, ``${port}``, ``${site}``, ``${experiment}``, ``${role}``,
    ``${robot_file}``, ``${fencing}`` and the host's own ``values`` are replaced, and ``${ROLE.address}``,
    ``${ROLE.port}`` and their like by those of what was granted for another role.
    """

    deployment: str = setting(
        doc="Deployment for the host, by the name that it has there.", min_length=1, max_length=64
    )
    set: dict[str, Any] = setting(
        factory=dict, doc="Its arguments, and parameters by path, as name:=value for `user up`."
    )
    minutes: float = setting(0.0, doc="It is over after this long; 0: never.", unit="min", ge=0)
    steps: int = setting(0, doc="It is over after this many steps in the store; 0: never.", ge=0)
    finish_s: float = setting(
        60.0, doc="When a robot is asked back: how long its episode may go on; then it is cut as truncated.",
        unit="s", ge=0, le=3600,
    )  # fmt: skip
    own_domain: bool = setting(
        False, doc="In a ROS domain of its own, where several things run on one host that are to meet over the network only.",
    )  # fmt: skip
    engine: str = setting(
        "local", doc="What runs it: local (the agent, as its own process), torchrun, slurm, ray, kubernetes, or an "
        "engine of an installed package.", min_length=1, max_length=128,
    )  # fmt: skip
    options: dict[str, Any] = setting(factory=dict, doc="Options of the engine.")

    def validate(self) -> None:
        if not _NAME.fullmatch(self.deployment):
            raise ConfigError("deployment", got=repr(self.deployment), expected="a name, no path")
        if not _ENGINE.fullmatch(self.engine):
            raise ConfigError("engine", got=repr(self.engine), expected="a name: slurm, ray, ...")
        if self.options and self.engine == "local":
            raise ConfigError(
                "options", got=f"{sorted(self.options)} of engine local", expected="none",
                hint="Say which engine they are for: engine: slurm",
            )  # fmt: skip
        for name in self.set:
            if not _ARGUMENT.fullmatch(name):
                raise ConfigError("set", got=repr(name), expected="names as in `user up`")

    def references(self) -> frozenset[tuple[str, str]]:
        """Other roles of which something is asked, and what: ``("learner", "address")``."""
        return frozenset(
            (match[1], match[2])
            for text in _texts([self.set, self.options])
            for match in REFERENCE.finditer(text)
            if match[2]
        )


class Role(Config):
    """What one role of an experiment is given. A requirement alone may be written in its place."""

    first_of: tuple[Requirement, ...] = setting(
        doc="Requirements, 1 to 8; the first that can be met counts."
    )
    run: Run | None = setting(None, doc="What is started for each resource; null: nothing.")
    share: bool = setting(
        False, doc="It may be given what other experiments use, where their roles share as well."
    )

    def validate(self) -> None:
        if not 1 <= len(self.first_of) <= 8:
            raise ConfigError("first_of", got=len(self.first_of), expected="1 to 8 requirements")

    @model_validator(mode="before")
    @classmethod
    def _one_requirement(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "first_of" not in data:
            own = {name: value for name, value in data.items() if name in ("share", "run")}
            one = {name: value for name, value in data.items() if name not in own}
            return {"first_of": [one], **own}
        return data


class Preferences(Config):
    """What is better among what fits; each is a cost for every resource that is not so."""

    data_at_site: int = setting(
        10, doc="All at one site: data are learned from where they are made.", ge=0, le=1000
    )
    spread: int = setting(
        3, doc="Robots on different hosts; each further one of a host costs more.", ge=0, le=1000
    )
    warm: int = setting(
        1, doc="Hosts that have run this experiment before and hold what it needs.", ge=0, le=1000
    )


class Experiment(Config):
    """What somebody wants to be run."""

    name: str = setting(doc="Its name, unique in the fleet.", min_length=1, max_length=64)
    priority: int = setting(
        0, doc="Higher ones first; they may end the episodes of lower ones.", ge=-1000, le=1000
    )
    deadline: str = setting(
        "", doc="Until when it must have begun, as in 2026-12-01T06:00; among equal priorities the earliest is "
        "first.", max_length=40,
    )  # fmt: skip
    after: tuple[str, ...] = setting(
        (), doc="Experiments that must have ended before.", max_length=64
    )
    roles: dict[str, Role] = setting(doc="Its roles by name.", min_length=1)
    done_with: tuple[str, ...] = setting(
        (), doc="Roles with whose end the experiment is done; none named: all that run something.",
        max_length=16,
    )  # fmt: skip
    preferences: Preferences = setting(factory=Preferences, doc="What is better.")

    @model_validator(mode="before")
    @classmethod
    def _time_as_text(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("deadline"), datetime.date):
            return {**data, "deadline": data["deadline"].isoformat()}  # YAML knows times
        return data

    def validate(self) -> None:
        faults = []
        if not _NAME.fullmatch(self.name):
            faults.append(
                ConfigError(
                    "name", got=repr(self.name), expected="a letter, then letters, digits, _ . -"
                )
            )
        if len(self.roles) > _MAX_ROLES:
            faults.append(
                ConfigError("roles", got=f"{len(self.roles)}", expected=f"at most {_MAX_ROLES}")
            )
        if self.name in self.after:
            faults.append(
                ConfigError("after", got="its own name", expected="names of other experiments")
            )
        try:
            self.deadline_s()
        except ValueError as error:
            faults.append(
                ConfigError(
                    "deadline", got=f"{self.deadline!r} ({error})", expected="2026-12-01T06:00"
                )
            )
        faults += self._faults_of_roles()
        if faults:
            raise ConfigErrors.of(faults)

    def _faults_of_roles(self) -> list[ConfigError]:
        faults = []
        running = [name for name, role in self.roles.items() if role.run is not None]
        for name in self.done_with:
            if name not in running:
                faults.append(
                    ConfigError("done_with", got=repr(name), expected=f"roles that run something: {running}")
                )  # fmt: skip
        for name, role in self.roles.items():
            for other, what in sorted(role.run.references() if role.run is not None else ()):
                if other in self.roles and what in OF_A_ROLE:
                    continue
                known = (
                    f"one of {sorted(OF_A_ROLE)}"
                    if other in self.roles
                    else f"a role: {sorted(self.roles)}"
                )
                error = ConfigError(
                    f"roles.{name}.run", got=f"${{{other}.{what}}}", expected=known
                )  # fmt: skip
                error.key = ("roles", name, "run")
                faults.append(error)
        return faults

    def deadline_s(self) -> float | None:
        """The deadline in seconds since the epoch; None without one."""
        if not self.deadline:
            return None
        return datetime.datetime.fromisoformat(self.deadline.replace("Z", "+00:00")).timestamp()


def load_experiment(file: str | Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        ConfigError: It cannot be read, or something in it is wrong; told with the line.
        PluginError: A role names an engine that is not installed here.
    """
    document = load_document(file)
    data = {"name": Path(file).stem.replace(" ", "_"), **document.data}
    try:
        experiment = from_mapping(Experiment, data)
        check_engines(experiment)
        return experiment
    except ConfigError as error:
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            if one.key[2:4] == ("first_of", 0) and one.key[:3] not in document.lines:
                one.key = one.key[:2] + one.key[4:]  # a requirement alone was written
        raise document.located(error) from None


def check_engines(experiment: Experiment) -> None:
    """Hold the options of each role's engine against what that engine takes, as far as it is installed here.

    Raises:
        PluginError: There is no such engine here.
        ConfigError: An option is unknown or wrong.
    """
    for name, role in experiment.roles.items():
        if role.run is not None:
            engine = plugins.load("engines", role.run.engine)
            from_mapping(engine.Config, role.run.options, f"roles.{name}.run.options")


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():  # fmt: skip
        yield from _texts(inner)


def _any(words: tuple[Any, ...]) -> str:
    return " or ".join(str(word) for word in words)
