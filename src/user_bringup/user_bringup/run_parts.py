"""Robot, policy and reward of a run, made again from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from user_bringup.film import Film
from user_core.codecs.weights import decode_version
from user_core.config import from_mapping, load_yaml
from user_core.errors import SuiteError
from user_core.interfaces import Policy, Reward, Robot
from user_core.plugins import build
from user_core.specs import RobotSpec
from user_fleet.deployment import Deployment, ProcessSpec
from user_hal.node_configs import HalConfig
from user_hal.robot_file import RobotFile, build_robot
from user_hal.robots.mujoco import MujocoRobot
from user_learner.training.publishing import POLICY_FILE


@dataclass(frozen=True)
class RunParts:
    """What a run was made of. Its robot must be one that can be driven from here.

    Attributes:
        folder: ``runs/<id>``.
        deployment: What ran.
    """

    folder: Path
    deployment: Deployment

    @classmethod
    def load(cls, folder: Path) -> RunParts:
        """Read the folder of a run. Raises SuiteError when it is none."""
        file = folder / "deployment.yaml"
        if not file.exists():
            raise SuiteError(f"no run in {folder}", expected="a folder runs/<id>")
        return cls(folder, from_mapping(Deployment, load_yaml(file)))

    def robot_file(self) -> RobotFile:
        """What the first HAL process ran; a simulated arm in lockstep, to save time.

        Records of older runs are understood: ``driver`` and ``params`` for ``robot``, and
        mappings that are written as text.
        """
        given = _renewed(self._process("user_hal", "hal_node").parameters)
        config = from_mapping(HalConfig, given, "hal")
        file = config.expand(given)
        if file.robot.plugin == "mujoco":
            params = {**file.robot.params, "real_time": False}
            file = file.replace(robot=file.robot.replace(params=params))
        return file

    def robot(self) -> Robot:
        """The robot of the first HAL process."""
        return build_robot(self.robot_file())

    def reward(self) -> Reward:
        """The reward plugin of the first actor."""
        choice = self._process("user_actor", "actor_node").parameters.get("reward", {})
        reward: Reward = build("rewards", choice.get("plugin", "task"), choice.get("params", {}))
        return reward

    def policy(self, spec: RobotSpec) -> tuple[Policy, int]:
        """The learner's newest policy with its weights, and its number."""
        learner = self._process("user_learner", "learner_node").parameters
        file = Path(str(learner["directory"])) / POLICY_FILE
        if not file.exists():
            raise SuiteError(
                f"no policy in {self.folder}", expected=file.name,
                hint="The learner had no data, or the run ended before its first version",
            )  # fmt: skip
        choice: dict[str, Any] = learner.get("policy", {})
        version = decode_version(file.read_bytes())
        policy: Policy = build(
            "policies", choice.get("plugin", "tanh_gaussian"), choice.get("params", {}), spec
        )
        policy.load(version.arrays)
        return policy, version.number

    def film(self, robot: Robot) -> Film | None:
        """A film of the robot, if it is one that can be filmed."""
        return Film(robot) if isinstance(robot, MujocoRobot) else None

    def _process(self, package: str, executable: str) -> ProcessSpec:
        for process in self.deployment.processes:
            if process.package == package and process.executable == executable:
                return process
        raise SuiteError(f"run {self.folder.name}", got=f"no {executable}", expected="one")


def _renewed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a hal as they are spelled today, of a record that may be older."""
    given = {key: value for key, value in parameters.items() if key != "autostart"}
    choice = dict(given.get("robot") or {})
    for old, new in (("driver", "plugin"), ("params", "params")):
        if old in given:
            choice[new] = given.pop(old)
    if isinstance(choice.get("params"), str):
        choice["params"] = yaml.safe_load(choice["params"]) or {}
    devices = {
        name: {"plugin": camera.get("driver", camera.get("plugin")), "params": camera["params"]}
        for name, camera in given.get("cameras", {}).get("devices", {}).items()
    }
    if devices:
        given["cameras"] = {**given["cameras"], "devices": devices}
    return {**given, **({"robot": choice} if choice else {})}
