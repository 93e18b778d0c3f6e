"""Robot, policy and reward of a run, made again from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_actor.loop import ActorLoopConfig
from user_bringup.local_robot import in_lockstep, overlaid, robot_file_with
from user_bringup.offline import CONFIG_FILE
from user_core.codecs.weights import read_version
from user_core.config import from_mapping
from user_core.errors import SuiteError
from user_core.interfaces import Policy, Reward
from user_core.plugins import PluginChoice
from user_core.specs import RobotSpec
from user_fleet.deployment import Deployment, ProcessSpec, load_record
from user_fleet.deployment.check import OF_EVERY_NODE
from user_hal.node_configs import HalConfig
from user_hal.robot_file import RobotFile
from user_learner.training.publishing import POLICY_FILE


@dataclass(frozen=True)
class RunParts:
    """What a run was made of.

    Attributes:
        folder: ``runs/<id>``.
        deployment: What ran.
    """

    folder: Path
    deployment: Deployment

    @classmethod
    def load(cls, folder: Path) -> RunParts:
        """Read the folder of a run. Raises SuiteError when it is not the folder of a run."""
        file = folder / "deployment.yaml"
        if not file.exists():
            training = (folder / CONFIG_FILE).exists()
            raise SuiteError(
                f"no run in {folder}", got="a training" if training else None, expected="a folder runs/<id>",
                hint="`user train ... --robot FILE --evaluate EPISODES` tries what is trained" if training else "",
            )  # fmt: skip
        return cls(folder, load_record(file))

    def robot_file(self, changes: Mapping[str, Any] | None = None) -> RobotFile:
        """What the first HAL process ran; a simulated arm in lockstep, to save time.

        Args:
            changes: Values that win over the record, as in a robot file.
        """
        given = dict(self._process("user_hal", "hal_node").parameters)
        for name in OF_EVERY_NODE:
            given.pop(name, None)
        file = in_lockstep(from_mapping(HalConfig, given, "hal").expand(given))
        return robot_file_with(file, changes or {})

    @property
    def resource(self) -> str:
        """Name of the robot as a resource, as its HAL process chose it."""
        hal = self._process("user_hal", "hal_node")
        return str(hal.parameters.get("resource") or hal.namespace.strip("/") or hal.name)

    @property
    def state_dir(self) -> str:
        """Folder in which its emergency stop stays latched; empty: the usual one."""
        return str(self._process("user_hal", "hal_node").parameters.get("state_dir", ""))

    def reward(self) -> Reward:
        """The reward plugin of the first actor."""
        choice = from_mapping(PluginChoice, self._actor().get("reward") or {"plugin": "task"})
        reward: Reward = choice.build("rewards", path="reward")
        return reward

    @property
    def task(self) -> str:
        """Name of its task; empty where it has none."""
        return self.robot_file().task

    def limits(self, changes: Mapping[str, Any] | None = None) -> ActorLoopConfig:
        """Limits of an episode, and how much of a chunk is played, as the first actor had them;
        ``changes`` win."""
        loop = self._actor().get("loop") or {}
        names = ("max_episode_steps", "max_episode_s", "replan_every", "period_s")
        given = {name: loop[name] for name in names if name in loop}
        return from_mapping(ActorLoopConfig, overlaid(given, changes or {}), "actor.loop")

    def policy(self, spec: RobotSpec, file: Path | None = None) -> tuple[Policy, int]:
        """The learner's newest policy with its weights, and its number.

        Args:
            spec: Of the robot.
            file: The learner's policy file, where it is not in the folder of the run.

        Raises:
            SuiteError: There is none.
        """
        learner = self._find("user_learner", "learner_node")
        parameters = self._actor() if learner is None else learner.parameters
        if file is not None and not file.is_file():  # nor a folder, that of a run for instance
            raise SuiteError(
                f"policy file {file}", got="a folder" if file.is_dir() else "no such file",
                expected=f"the file {POLICY_FILE} of a learner; without --policy that of the run is taken",
            )  # fmt: skip
        if file is None and learner is not None:
            file = Path(str(parameters["directory"])) / POLICY_FILE
        if file is None or not file.exists():
            raise SuiteError(
                f"no policy in {self.folder}", expected=str(file or POLICY_FILE),
                hint="The learner had no data, or the run ended before its first version"
                if learner is not None
                else "Its learner ran on another host: give that one's policy file, --policy",
            )  # fmt: skip
        version = read_version(file)
        choice = from_mapping(PluginChoice, parameters.get("policy") or {"plugin": "tanh_gaussian"})
        policy: Policy = choice.build("policies", spec, path="policy")
        policy.load(version.arrays)
        return policy, version.number

    def _actor(self) -> Mapping[str, Any]:
        return self._process("user_actor", "actor_node").parameters

    def _find(self, package: str, executable: str) -> ProcessSpec | None:
        for process in self.deployment.processes:
            if process.package == package and process.executable == executable:
                return process
        return None

    def _process(self, package: str, executable: str) -> ProcessSpec:
        process = self._find(package, executable)
        if process is None:
            raise SuiteError(f"run {self.folder.name}", got=f"no {executable}", expected="one")
        return process
