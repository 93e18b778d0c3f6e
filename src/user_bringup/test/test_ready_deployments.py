"""The ready deployments and algorithms: every parameter is one that its node knows."""

import importlib

import pytest
import yaml

pytest.importorskip("rclpy")

from user_bringup.running import find_deployment, prepare_run
from user_bringup.running.find import config_folder
from user_core.config import Config, from_mapping, load_yaml
from user_core.plugins import load as load_plugin
from user_fleet.deployment import load_deployment

FOLDER = config_folder()
DEPLOYMENTS = sorted(file.stem for file in (FOLDER / "deployments").glob("*.yaml"))
ALGORITHMS = sorted(file.stem for file in (FOLDER / "algorithms").glob("*.yaml"))
#: Executable to module and class of its parameters.
PARAMETERS = {
    "hal_node": "user_hal.node_configs:HalConfig",
    "teleop_node": "user_hal.node_configs:TeleopConfig",
    "actor_node": "user_actor.nodes.actor:ActorConfig",
    "inference_node": "user_actor.nodes.inference:InferenceConfig",
    "bridge_node": "user_comm.bridge:BridgeConfig",
    "policy_relay": "user_comm.nodes.policy_relay:PolicyRelayConfig",
    "replay_node": "user_learner.nodes.replay:ReplayConfig",
    "learner_node": "user_learner.nodes.learner:LearnerNodeConfig",
}


def check(process):
    module, name = PARAMETERS[process.executable].split(":")
    values = {k: v for k, v in process.parameters.items() if k != "autostart"}
    for key in ("reward", "robot"):  # parameters of a plugin may also come as text
        choice = values.get(key)
        if isinstance(choice, dict) and isinstance(choice.get("params"), str):
            values[key] = {**choice, "params": yaml.safe_load(choice["params"])}
    from_mapping(getattr(importlib.import_module(module), name), values, process.name)
    plugins = [("policies", values.get("policy")), ("algorithms", values.get("algorithm"))]
    plugins += [("rewards", values.get("reward"))]
    if process.executable == "hal_node" and "robot" in values:
        plugins += [("robots", values["robot"])] * ("plugin" in values["robot"])
    if process.executable == "teleop_node":
        plugins += [("teleops", values["teleop"])]
    for group, choice in plugins:
        if choice:
            config = getattr(load_plugin(group, choice["plugin"]), "Config", Config)
            from_mapping(config, choice.get("params", {}), f"{process.name}.{group}")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_parameter_is_known_to_its_node(tmp_path, name):
    run = prepare_run(find_deployment(name), {}, tmp_path, "r")
    checked = [check(p) for p in run.deployment.processes if p.executable in PARAMETERS]
    assert checked


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_fits_a_deployment(algorithm):
    file = find_deployment("sim_single")
    deployment = load_deployment(file, {"algorithm": algorithm}, {"run_dir": "/r"})
    for name in ("actor", "learner"):
        check(deployment.process(name))
    assert load_yaml(FOLDER / "algorithms" / f"{algorithm}.yaml")["training"]["batch_size"] > 0


def test_a_misspelt_parameter_would_be_found(tmp_path):
    run = prepare_run(find_deployment("gymnasium"), {}, tmp_path, "r")
    actor = run.deployment.process("actor")
    actor.parameters["loop"]["max_backlog_stepz"] = 3
    with pytest.raises(Exception, match="max_backlog_steps"):
        check(actor)
