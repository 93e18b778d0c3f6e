"""Parameters of the nodes of a fleet; importable without ROS."""

from __future__ import annotations

from pathlib import Path

from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_core.config import Config, setting
from user_core.runtime.files import state_home
from user_fleet.presence.hosts import PresenceConfig
from user_fleet.resources.inventory import HostConfig
from user_fleet.scheduling.scheduler import SchedulerConfig


class ResourceAgentConfig(Config):
    """Parameters of resource_agent."""

    host_file: str = setting(
        "", doc="File in which the host describes itself (HostConfig); empty: nothing is described."
    )
    name: str = setting(
        "", doc="Name of the host, before that of the file; it writes below it, so it is the name of "
        "its certificate too.",
    )  # fmt: skip
    scheduler: str = setting(
        "scheduler", doc="Name below which the scheduler writes.", min_length=1
    )
    zenoh: ZenohConfig = setting(
        ZenohConfig(connect=(LOCAL_ENDPOINT,)), doc="The network of the fleet."
    )
    heartbeat_s: float = setting(0.5, doc="Time between two heartbeats.", unit="s", gt=0, le=60)
    look_s: float = setting(
        2.0, doc="Time between two looks at devices, memory and GPUs.", unit="s", gt=0
    )
    ask_drivers_s: float = setting(
        300.0, doc="Time between two questions to drivers and robot files.", unit="s", gt=0
    )
    start_experiments: bool = setting(
        False,
        doc="Start the deployments of experiments, as the scheduler says; else grants are bookings.",
    )
    stop_s: float = setting(
        60.0, doc="Time that a deployment has to end before it is killed.", unit="s", gt=0
    )
    look_at_graph: bool = setting(True, doc="Look for robots in the ROS graph.")
    state_dir: str = setting(
        "",
        doc="Where it remembers the newest scheduler that it obeyed; empty: the user's folder of states.",
    )


class SchedulerNodeConfig(Config):
    """Parameters of scheduler."""

    state: str = setting(
        "", doc="File with all that it knows; empty: fleet.sqlite in the user's folder of states."
    )
    name: str = setting("scheduler", doc="Name below which it writes.", min_length=1)
    zenoh: ZenohConfig = setting(
        ZenohConfig(mode="router", listen=(LOCAL_ENDPOINT,)), doc="The network of the fleet."
    )
    decide: SchedulerConfig = setting(factory=SchedulerConfig, doc="When it loses patience.")
    presence: PresenceConfig = setting(factory=PresenceConfig, doc="When a host counts as away.")
    step_s: float = setting(0.2, doc="Time between two decisions.", unit="s", gt=0, le=10)
    take_over_s: float = setting(
        5.0, doc="It stands by until no other scheduler has worked on the file for this long.",
        unit="s", gt=0,
    )  # fmt: skip


def fleet_folder(text: str = "") -> Path:
    """A folder, or that of the fleet in the user's folder of states."""
    return Path(text).expanduser() if text else state_home() / "fleet"


def fleet_file(text: str = "") -> Path:
    """The file of a scheduler."""
    return Path(text).expanduser() if text else fleet_folder() / "fleet.sqlite"


__all__ = ["HostConfig", "ResourceAgentConfig", "SchedulerNodeConfig", "fleet_file", "fleet_folder"]
