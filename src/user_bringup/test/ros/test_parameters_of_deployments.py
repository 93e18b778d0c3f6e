"""What a deployment says reaches the node's configuration through ROS parameters, unchanged."""

from contextlib import contextmanager

import pytest
import rclpy
from rclpy.node import Node

from user_bringup.running import find_deployment, read_deployment
from user_bringup.running.find import config_folder
from user_comm.parameters import ConfigParameters
from user_core.config import from_mapping
from user_core.policies.improving.residual import ResidualConfig
from user_fleet.deployment import Faults, parse_overrides
from user_fleet.deployment.check import OF_EVERY_NODE, node_config
from user_fleet.deployment.render import write_parameters
from user_learner.algorithms.off_policy.rlpd import RLPDConfig

FOLDER = config_folder()
DEPLOYMENTS = sorted(file.stem for file in (FOLDER / "deployments").glob("*.yaml"))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_travel_through_a_file_and_ros_unchanged(name, tmp_path):
    words = ["learner.training.utd.target:=null"] if name == "sim_single" else []
    faults = Faults()
    composition = read_deployment(
        find_deployment(name), parse_overrides(words), tmp_path, faults, False
    )
    assert not faults.found
    for process in composition.deployment.processes:
        cls = node_config(process.executable) if process.ros else None
        if cls is None:
            continue
        with through_ros(process, tmp_path) as node:
            parameters = ConfigParameters(node, cls, known=("autostart",))
            wanted = {k: v for k, v in process.parameters.items() if k not in OF_EVERY_NODE}
            assert parameters.read() == from_mapping(cls, wanted), process.name
            assert not parameters.unknown
            simulated = process.parameters.get("use_sim_time", False)
            assert node.get_parameter("use_sim_time").value is simulated


@contextmanager
def through_ros(process, folder):
    """A node with the parameters of a process, as its file says them."""
    file = write_parameters(process, folder / f"{process.name}.yaml")
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    node = Node("any", context=context, start_parameter_services=False, enable_rosout=False)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_text_of_digits_reaches_fields_of_text_also_in_parameters_of_plugins(tmp_path):
    words = [
        "actor.instruction:=0012", "actor.policy.plugin:=residual",
        "actor.policy.params.base_hash:=00", "actor.policy.params.base_file:=1234",
        "actor.policy.params.seed:=007", "actor.policy.params.observations:=[0012, 1.10]", "learner.algorithm.params.device:=1.10",
    ]  # fmt: skip
    faults = Faults()
    composition = read_deployment(
        find_deployment("sim_single"), parse_overrides(words), tmp_path, faults, False
    )
    assert not faults.found
    found = {}
    for process in composition.deployment.processes:
        if process.name.rpartition("/")[2] in ("actor", "learner"):
            with through_ros(process, tmp_path) as node:
                cls = node_config(process.executable)
                found[process.executable] = ConfigParameters(node, cls, known=("autostart",)).read()
    actor, learner = found["actor_node"], found["learner_node"]
    policy = from_mapping(ResidualConfig, actor.policy.params)
    assert actor.instruction == "0012"
    assert (policy.base_hash, policy.base_file, policy.seed) == ("00", "1234", 7)
    assert policy.observations == ("0012", "1.10")
    assert from_mapping(RLPDConfig, learner.algorithm.params).device == "1.10"
