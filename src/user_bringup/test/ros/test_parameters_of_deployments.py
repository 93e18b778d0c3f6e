"""What a deployment says reaches the node's configuration through ROS parameters, unchanged."""

import pytest
import rclpy
from rclpy.node import Node

from user_bringup.running import find_deployment, read_deployment
from user_bringup.running.find import config_folder
from user_comm.parameters import ConfigParameters
from user_core.config import from_mapping
from user_fleet.deployment import Faults, parse_overrides
from user_fleet.deployment.check import OF_EVERY_NODE, node_config
from user_fleet.deployment.render import write_parameters

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
        file = write_parameters(process, tmp_path / f"{process.name}.yaml")
        context = rclpy.Context()
        rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
        node = Node("any", context=context, start_parameter_services=False, enable_rosout=False)
        try:
            parameters = ConfigParameters(node, cls, known=("autostart",))
            wanted = {k: v for k, v in process.parameters.items() if k not in OF_EVERY_NODE}
            assert parameters.read() == from_mapping(cls, wanted), process.name
            assert not parameters.unknown
            simulated = process.parameters.get("use_sim_time", False)
            assert node.get_parameter("use_sim_time").value is simulated
        finally:
            node.destroy_node()
            rclpy.shutdown(context=context)
