"""The deployment model: processes with package, executable, parameters, order, restart policy."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAMESPACE = re.compile(r"(/[a-zA-Z_][a-zA-Z0-9_]*)*")


class RestartPolicy(Config):
    """When and how fast a process that has ended is started again.

    The wait before the n-th restart in a row is ``initial_backoff_s * factor ** (n - 1)``, at
    most ``max_backoff_s``. A process that has lived for ``healthy_after_s`` starts afresh.
    """

    when: Literal["always", "on_failure", "never"] = setting(
        "always", doc="always: whatever its exit code; on_failure: unless it was 0; never."
    )
    initial_backoff_s: float = setting(0.2, doc="Wait before the first restart.", unit="s", ge=0)
    factor: float = setting(2.0, doc="Growth of the wait from one restart to the next.", ge=1)
    max_backoff_s: float = setting(30.0, doc="Longest wait.", unit="s", ge=0)
    healthy_after_s: float = setting(
        10.0, doc="Uptime after which earlier failures are forgotten.", unit="s", gt=0
    )
    max_failures: int = setting(
        0, doc="Failures within window_s after which it is given up; 0: never given up.", ge=0
    )
    window_s: float = setting(
        300.0, doc="Window for max_failures and equal_failures.", unit="s", gt=0
    )
    equal_failures: int = setting(
        5,
        doc="Equal failures in a row, of a kind that does not pass by itself, after which it is "
        "given up and, where nothing can stand in for it, the run ends; 0: never. To be killed "
        "from outside is none.",
        ge=0,
    )
    standby_after_s: float = setting(
        5.0,
        doc="Time after a start at which a second process is made ready, which has imported "
        "everything and takes over when this one dies; it takes memory (60 to 200 MB), no "
        "processor time. 0: none; neither is there one where `when` is never. With `user up`, for Python programs.",
        unit="s",
        ge=0,
    )

    @property
    def has_standby(self) -> bool:
        """Whether a second process is made ready."""
        return self.standby_after_s > 0 and self.when != "never"


class ProcessSpec(Config):
    """One process of a deployment."""

    name: str = setting(doc="Name of the process and of its node, unique in the deployment.")
    package: str = setting(doc="ROS package of the executable.", min_length=1)
    executable: str = setting(doc="Executable, as `ros2 run` takes it.", min_length=1)
    namespace: str = setting("", doc="ROS namespace, for instance /robot0.")
    parameters: dict[str, Any] = setting(factory=dict, doc="ROS parameters of the node.")
    remappings: dict[str, str] = setting(factory=dict, doc="Topic and service remappings.")
    arguments: tuple[str, ...] = setting((), doc="Further command-line arguments.")
    environment: dict[str, str] = setting(factory=dict, doc="Environment variables.")
    ros: bool = setting(True, doc="False for a program that takes no ROS arguments.")
    lifecycle: bool = setting(True, doc="Whether it is a managed node.")
    order: int = setting(0, doc="Managed nodes are brought up in this order, lowest first.", ge=0)
    depends_on: tuple[str, ...] = setting(
        (),
        doc="Processes that must be up first; when one of them was restarted, this one is reactivated.",
    )
    restart: RestartPolicy = setting(RestartPolicy(), doc="What happens when it ends.")
    required: bool = setting(
        False,
        doc="Its end for good (it failed too often, or is not to be started again) ends everything.",
    )
    stop_timeout_s: float = setting(
        10.0, doc="Time for an orderly end before it is killed.", unit="s", gt=0
    )
    host: str = setting("", doc="Host it runs on, in deployments of several; empty: any.")
    robot: str = setting("", doc="Robot that it belongs to; empty: none.")
    role: str = setting("", doc="What it is for, in its robot or host; empty: as its name.")
    niceness: int = setting(0, doc="Scheduling niceness, larger gives way to others.", ge=0, le=19)

    def validate(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("name", got=repr(self.name), expected="lower-case letters, digits, _")
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigError("namespace", got=repr(self.namespace), expected="such as /robot0")

    @property
    def words(self) -> set[str]:
        """By what it can be chosen: its name, its role, its robot."""
        return {self.name, self.role, self.robot} - {""}

    @property
    def node_name(self) -> str:
        """Fully qualified name of its node."""
        return f"{self.namespace}/{self.name}"


class Argument(Config):
    """A value that is chosen when a deployment is started: ``name:=value``."""

    default: Any = setting(doc="Value when none is given.")
    doc: str = setting("", doc="What it does.")
    choices: tuple[str, ...] = setting((), doc="Allowed values; empty: any.")


class Deployment(Config):
    """What runs: the single source for launch files, supervisor and lifecycle manager."""

    name: str = setting(doc="Name of the deployment.", min_length=1)
    processes: tuple[ProcessSpec, ...] = setting(doc="The processes.", min_length=1)
    description: str = setting("", doc="What it is for, one line.")
    arguments: dict[str, Argument] = setting(factory=dict, doc="What can be chosen at the start.")
    environment: dict[str, str] = setting(factory=dict, doc="Environment of all processes.")
    standby: bool | tuple[str, ...] = setting(
        True,
        doc="For which processes `user up` keeps a second one ready that takes over (restart.standby_after_s): "
        "all, none, or those of these names, roles or robots, as [hal, actor]. Each takes memory: "
        "60 to 80 MB, or 200 MB with torch.",
    )

    def validate(self) -> None:
        names = [process.name for process in self.processes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("processes", got=f"{name!r} twice", expected="unique names")
        for process in self.processes:
            for other in process.depends_on:
                if other not in names:
                    raise ConfigError(
                        f"processes.{process.name}.depends_on",
                        got=repr(other),
                        expected=f"one of {names}",
                    )

    def part(self, names: Collection[str]) -> Deployment:
        """Only these processes; what they depend on of the others counts as being elsewhere.

        Raises:
            ConfigError: There is no process of such a name; lists those that there are.
        """
        return self.replace(
            processes=tuple(
                p.replace(depends_on=tuple(n for n in p.depends_on if n in names))
                for p in map(self.process, names)
            ),
        )

    def process(self, name: str) -> ProcessSpec:
        """The process of this name; raises ConfigError listing those there are."""
        for process in self.processes:
            if process.name == name:
                return process
        raise ConfigError(
            f"process {name!r} of deployment {self.name!r}",
            expected=f"one of {[process.name for process in self.processes]}",
        )


def start_order(processes: Sequence[ProcessSpec]) -> list[ProcessSpec]:
    """Processes sorted so that each comes after what it depends on; ties by ``order``.

    Raises:
        ConfigError: Processes depend on each other in a circle; names it.
    """
    waiting = sorted(processes, key=lambda process: process.order)
    present = {process.name for process in processes}
    ready: list[ProcessSpec] = []
    names: set[str] = set()
    while waiting:
        for process in waiting:
            if names.issuperset(present.intersection(process.depends_on)):
                ready.append(process)
                names.add(process.name)
                waiting.remove(process)
                break
        else:
            circle = [process.name for process in waiting]
            raise ConfigError(
                "depends_on", got=f"a circle among {circle}", expected="an order to start in"
            )
    return ready


def stop_order(processes: Sequence[ProcessSpec]) -> list[ProcessSpec]:
    """The reverse of :func:`start_order`."""
    return start_order(processes)[::-1]
