"""The ready deployments and algorithms, checked whole as before a start; and what is refused."""

import re
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from user_bringup.running import explain, find_deployment, prepare, prepare_run, read_deployment
from user_bringup.running.find import config_folder
from user_bringup.running.prepare import _is_free as is_free
from user_core import plugins
from user_core.config import load_yaml
from user_core.errors import ConfigError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_fleet.deployment import Faults, load_record, parse_overrides
from user_fleet.deployment.check import node_config

FOLDER = config_folder()
DEPLOYMENTS = sorted(file.stem for file in (FOLDER / "deployments").glob("*.yaml"))
ALGORITHMS = sorted(file.stem for file in (FOLDER / "algorithms").glob("*.yaml"))


def check(file, *words, files=False):
    """A deployment with these words of the command line, and what is wrong with it."""
    faults = Faults()
    folder = FOLDER.parent / "runs" / "r"
    composition = read_deployment(file, parse_overrides(words), folder, faults, files)
    return composition, [str(fault) for fault in faults.found]


def faults_of(name, *words, **options):
    return check(find_deployment(name), *words, **options)[1]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_ready_deployment_is_right(name):
    composition, faults = check(find_deployment(name))
    assert not faults
    ours = [p for p in composition.deployment.processes if p.ros]
    assert all(node_config(process.executable) is not None for process in ours)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_fits_a_deployment(algorithm):
    assert not faults_of("sim_single", f"algorithm:={algorithm}")
    assert load_yaml(FOLDER / "algorithms" / f"{algorithm}.yaml")["training"]["batch_size"] > 0


def test_the_algorithm_for_choices_prefers_a_goal_to_staying_alive():
    """The goal pays once and ends the episode; walking about is paid by nothing but entropy."""
    ready = load_yaml(FOLDER / "algorithms" / "sac_choices.yaml")
    choices = ArraySpec((1,), "int64", low=0, high=1, categorical=(0,))
    spec = RobotSpec("walker", {"x": ArraySpec((1,))}, choices, period_s=0.1)

    def policy():
        return plugins.build("policies", ready["policy"]["plugin"], ready["policy"]["params"], spec)

    quick = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
    params = {**ready["algorithm"]["params"], **quick}
    algorithm = plugins.build("algorithms", ready["algorithm"]["plugin"], params, spec, policy())
    x, rng = np.zeros((64, 1), np.float32), np.random.default_rng(0)
    for _ in range(300):
        goes = rng.integers(0, 2, (64, 1))
        reaches = goes[:, 0].astype(np.float32)
        algorithm.update(Batch({"x": x}, goes, reaches, np.float32(0.9) * (1 - reaches), {"x": x}))
    actor = policy()
    actor.load(algorithm.policy_arrays())
    drawn = [int(actor.act({"x": x[0]})[0, 0]) for _ in range(200)]
    assert np.mean(drawn) > 0.7


@pytest.mark.parametrize("name", ["sim_single", "real_robot"])
def test_names_may_be_under_another_namespace_and_then_all_of_them_are(name):
    composition, faults = check(
        find_deployment(name), "name:=arm", "namespace:=/lab1", "autostart:=false"
    )
    assert not faults
    processes = {process.name: process for process in composition.deployment.processes}
    names = {process.node_name for process in processes.values()}
    assert {"/lab1/arm/hal", "/lab1/arm/actor", "/lab1/replay", "/lab1/learner"} < names
    assert all(name.startswith("/lab1/") for name in names)
    for process in processes.values():
        for target in process.remappings.values():
            assert target.startswith("/lab1/") or target == "joy", (process.name, target)
    assert processes["learner"].remappings["robot_spec"] == "/lab1/arm/robot_spec"
    assert processes["lifecycle_manager"].parameters["bring_up"] is False


def test_a_namespace_without_a_slash_is_refused():
    (fault, *_) = faults_of("sim_single", "namespace:=lab1")
    assert "namespace" in fault and "lab1" in fault and "/robot0" in fault


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_second_system_on_a_machine_gets_another_port(tmp_path, monkeypatch, host):
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        held = other.getsockname()[1]
        monkeypatch.setattr(prepare, "_is_free", lambda port: port != 7457 and is_free(port))
        assert not is_free(held)
        run = prepare_run(find_deployment("sim_single"), {}, tmp_path, "moved")
        (note,) = run.notes
        (learner,) = run.deployment.process("learner").parameters["zenoh"]["listen"]
        assert run.deployment.process("actor").parameters["zenoh"]["connect"] == [learner]
        assert learner in note and is_free(int(learner.rpartition(":")[2]))
        chosen = {"policy_endpoint": f"tcp/127.0.0.1:{held}"}
        run = prepare_run(find_deployment("sim_single"), chosen, tmp_path, "chosen")
        assert not run.notes, "its node names who holds it"
        only = ("replay", "learner", "lifecycle_manager")
        run = prepare_run(find_deployment("sim_single"), {}, tmp_path, "part", only)
        assert not run.notes, "the others would not find it"


def test_simulated_time_reaches_the_nodes_that_meet_the_robot():
    composition, faults = check(find_deployment("real_robot"), "use_sim_time:=true")
    assert not faults
    for name in ("hal", "teleop"):
        assert composition.deployment.process(name).parameters["use_sim_time"] is True


def test_the_joystick_may_have_another_topic():
    composition, faults = check(find_deployment("real_robot"), "joy_topic:=/joy")
    assert not faults
    assert composition.deployment.process("teleop").remappings == {"joy": "/joy"}


@pytest.mark.parametrize(
    ("name", "words", "waits"),
    [
        ("real_robot", [], True),
        ("edge", [], True),
        ("real_robot", ["mode:=evaluate"], True),
        ("real_robot", ["start:=at_once"], False),
        ("sim_single", [], False),
        ("gymnasium", [], False),
    ],
)
def test_who_waits_for_a_person_to_say_go(name, words, waits):
    composition, faults = check(find_deployment(name), *words)
    assert not faults
    loop = composition.deployment.process("actor").parameters["loop"]
    assert loop["start"] == ("operator" if waits else "at_once")


def test_what_an_environment_is_told_are_arguments():
    words = [
        "kwargs:={g: 5.0}", "wrappers:=[{target: TimeAwareObservation}]", "max_episode_steps:=7",
        "bounds:=[-1, 1]", "success_return:=-200", "success_key:=a.b", "seed:=3", "ignore:=[x]",
        "images:={image: {resize: [84, 84]}}", "discrete:=argmax", "render_image:=true",
    ]  # fmt: skip
    composition, faults = check(find_deployment("gymnasium"), *words)
    assert not faults
    told = composition.deployment.process("hal").parameters["robot"]["params"]
    assert told["kwargs"] == {"g": 5.0} and told["images"] == {"image": {"resize": [84, 84]}}
    assert told["wrappers"] == [{"target": "TimeAwareObservation"}] and told["bounds"] == [-1, 1]
    assert (told["max_episode_steps"], told["success_return"], told["seed"]) == (7, -200, 3)
    assert (told["discrete"], told["render_image"], told["ignore"]) == ("argmax", True, ["x"])
    _, faults = check(find_deployment("gymnasium"), "max_episode_steps:=0", "bounds:=1")
    assert any("max_episode_steps" in fault for fault in faults)
    assert any("bounds" in fault for fault in faults)


@pytest.mark.parametrize("mode", ["collect", "demonstrate", "evaluate"])
def test_every_mode_of_a_real_robot_is_right(mode):
    composition, faults = check(find_deployment("real_robot"), f"mode:={mode}")
    assert not faults
    names = {process.name for process in composition.deployment.processes}
    assert {"hal", "teleop", "actor", "replay"} <= names
    assert ("learner" in names) == (mode != "demonstrate")


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("gymnasium", "actor.loop.max_backlog_stepz:=3", ["command line", "max_backlog_steps"]),
        ("sim_single", "learner.trainig.batch_size:=3", ["learner.trainig", "'training'"]),
        ("sim_single", "lifecycle_manager.times.hang_timeout:=3", ["hang_timeout_s"]),
        ("sim_single", "learner.algorithm.params.critics:=many",
         ["learner.algorithm.params.critics", "'many'", "integer"]),
        ("sim_single", "actor.reward.plugin:=pose_treshold", ["did you mean 'pose_threshold'"]),
        ("sim_single", "hal.robot.params.speed:=-1", ["hal.robot.params.speed", "-1"]),
        ("sim_single", "algorithm:=rlpd_cpus", ["algorithms", "did you mean 'rlpd_cpu'"]),
        ("two_sites", "robot0.actor.robot:=robot7", ["actor0.robot", "'robot7'", "'robot0', 'robot1'"]),
        ("two_robots", "learner.remappings.robot_spec:=/robot2/robot_spec", ["'robot2'", "'robot0'"]),
        ("sim_single", "actor.remappings.trajektory:=/t", ["did you mean 'trajectory'"]),
        ("real_robot", "robot:=ur_ros2_contrl", ["hal.robot_file", "did you mean 'ur_ros2_control'"]),
        ("edge", "robot_params:={task: reech}", ["hal.robot.params.task", "did you mean 'reach'"]),
        ("real_robot", "teleop:=joi", ["teleop.teleop.plugin", "did you mean 'joy'"]),
        ("sim_single", "learner.training.utd.target:=-2", ["learner.training.utd.target", "-2"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_the_nearest_right_one(name, word, said):
    faults = faults_of(name, word)
    assert len(faults) == 1, faults
    for text in said:
        assert text in faults[0], faults[0]


def test_a_wrong_robot_file_is_named_with_its_line(tmp_path):
    text = (FOLDER / "robots" / "panda_sim.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(
        text.replace("watchdog_s:", "watchdogs:").replace("rate_hz: 10.0", "rate_hz: x")
    )
    lines = file.read_text().splitlines()
    (first, *_) = faults = faults_of("edge", f"robot:={file}")
    number = next(i for i, line in enumerate(lines, 1) if "watchdogs:" in line)
    assert f"{file}:{number}" in first, faults
    assert "did you mean 'watchdog_s'" in first


def test_files_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    faults = faults_of("edge", files=True)
    assert any(
        "'net/robots/robot0'" in fault and "actor.zenoh.credentials" in fault for fault in faults
    )
    faults = faults_of(
        "cloud", "network:=nett", "router:=tcp/localhost:1", "credentials:=", files=True
    )
    assert len(faults) == 1
    assert "router --network" in faults[0] and "'nett'" in faults[0]
    (fault,) = faults_of("sim_single", "demonstrations:=demos", files=True)
    assert "learner.demonstrations" in fault and "net" in fault


def test_what_makes_a_certificate_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(
        "`user net init --host THIS_HOST` makes it" in fault
        for fault in faults_of("cloud", files=True)
    )
    assert all("`user net add-robot arm7` makes it" in fault for fault in faults_of(
        "edge", "name:=arm7", "credentials:=net/robots/arm7", files=True))  # fmt: skip
    assert any(
        "`user net add-site hall --host THIS_HOST` makes it" in fault
        for fault in faults_of("site", files=True)
    )
    faults = faults_of(
        "cloud", "network:=", "credentials:=/lab/network/learners/b", "listen:=tcp/0.0.0.0:1", files=True
    )  # fmt: skip
    assert any("`user net add-learner b --net /lab/network` makes it" in fault for fault in faults)


def test_what_stands_where_a_file_was_expected_is_said_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "demos2").touch()
    for place, said in (
        ("demos", f"{tmp_path} has full"), ("full/demos", "full has demos2"),
        ("nowhere/demos", "There is no nowhere either"), ("full/demos2/x", "full/demos2 is no folder"),
        ("robots/demos", "There is no robots either"),
    ):  # fmt: skip
        (fault,) = faults_of("sim_single", f"demonstrations:={place}", files=True)
        assert said in fault, fault
    (tmp_path / "empty").mkdir()
    (fault,) = faults_of("sim_single", "demonstrations:=empty/demos", files=True)
    assert f"{tmp_path}/empty is empty" in fault


def test_all_faults_are_told_at_once_and_nothing_is_started_or_written(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\n"
        "roles: [learner]\n"
        "robots:\n"
        "  robot0: simulated_arm\n"
        "  robot1: {roles: [simulated_arm, gripper], host: attic}\n"
        "processes:\n"
        "  robot0.actor: {parameters: {loop: {max_episode_stepz: 5}}}\n"
    )
    words = ["learner.algorithm.params.critics:=many", "actor.zenoh.conect:=[]"]
    done = subprocess.run(
        ["user", "up", str(file), *words, "--no-table", "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    for said in (
        f"{file}:5: fragment: got 'gripper'", f"{file}:5: robots.robot1.host: got 'attic'",
        f"{file}:7: unknown key 'actor0.loop.max_episode_stepz'", "did you mean 'max_episode_steps'",
        "learner.algorithm.params.critics", "did you mean 'connect'",
    ):  # fmt: skip
        assert said in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_null_of_the_command_line_reaches_the_parameter_file(tmp_path):
    words = parse_overrides(
        ["learner.training.utd.target:=null", "learner.training.batch_size:=64"]
    )
    run = prepare_run(find_deployment("sim_single"), words, tmp_path, "r")
    written = yaml.safe_load(run.parameter_files["learner"].read_text())["/**"]["ros__parameters"]
    assert written["training"]["utd"]["target"] == "!yaml null"
    assert written["training"]["batch_size"] == 64
    assert written["algorithm"]["params"]["critic_hidden"] == [128, 128]
    kept = load_record(run.folder / "deployment.yaml").process("learner").parameters
    assert kept["training"]["utd"]["target"] is None


def test_an_explanation_says_where_every_value_comes_from():
    composition, faults = check(
        find_deployment("two_robots"), "robot1.actor.loop.max_episode_steps:=7"
    )
    assert not faults
    text = explain(composition)
    lines = {line.split(":=")[0].strip(): line for line in text.splitlines() if ":=" in line}
    assert "command line" in lines["actor1.loop.max_episode_steps"]
    assert "default" in lines["actor0.loop.max_episode_steps"]
    assert "rlpd_cpu.yaml:" in lines["learner.training.batch_size"]
    assert "argument seed1, default at" in lines["hal1.robot.params.seed"]
    robot_file = explain(check(find_deployment("edge"))[0])
    assert "panda_sim.yaml:" in robot_file


def test_what_is_wrong_can_be_explained_too():
    """Lists of mappings among the defaults, as where the algorithm is not found."""
    composition, faults = check(find_deployment("gymnasium"), "algorithm:=nosuch")
    assert any("sac_small" in str(fault) for fault in faults)
    assert "learner.sampler.strata:=" in explain(composition)


def test_records_of_earlier_releases_are_read(tmp_path):
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "name: edge\n"
        "processes:\n"
        "- {name: hal, package: user_hal, executable: hal_node,\n"
        "   parameters: {driver: mujoco, params: {robot: panda}}}\n"
        "- {name: teleop, package: user_hal, executable: teleop_node, parameters: {driver: joy}}\n"
        "- {name: actor, package: user_actor, executable: actor_node,\n"
        "   parameters: {reward: {plugin: task, params: '{}'}}}\n"
    )
    record = load_record(file)
    hal = {"robot": {"plugin": "mujoco", "params": {"robot": "panda"}}}
    assert record.process("hal").parameters == hal
    assert record.process("teleop").parameters == {"teleop": {"plugin": "joy", "params": {}}}
    assert record.process("actor").parameters == {"reward": {"plugin": "task", "params": {}}}
    file.write_text("processes: 3\n")
    with pytest.raises(ConfigError):
        load_record(file)


def test_the_deployments_of_the_how_to_are_right(tmp_path):
    page = Path(__file__).parents[4] / "docs" / "how_to" / "compose_a_deployment.md"
    blocks = re.findall(r"```yaml\n(name: .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for number, text in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert not check(file)[1]
    words = ["learner.training.utd.target:=null", "actor.loop.max_episode_steps:=100",
             "left.actor.loop.max_episode_steps:=50", "left.seed:=7"]  # fmt: skip
    composition, faults = check(tmp_path / "0.yaml", *words)
    assert not faults
    steps = [
        composition.deployment.process(f"{side}_actor").parameters["loop"]["max_episode_steps"]
        for side in ("left", "right")
    ]
    assert steps == [50, 100]
    assert composition.deployment.process("left_hal").node_name == "/left/left_hal"


def test_a_role_of_ones_own_is_laid_over_a_ready_one(tmp_path):
    (tmp_path / "fragments").mkdir()
    (tmp_path / "fragments" / "slow_arm.yaml").write_text(
        "extends: [simulated_arm]\n"
        "arguments: {pace: 0.5}\n"
        "processes:\n"
        '  hal: {parameters: {robot: {params: {speed: "${pace}"}}}}\n'
    )
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nroles: [learner]\nrobots: {arm: slow_arm}\n")
    composition, faults = check(file, "pace:=0.25")
    assert not faults
    assert composition.deployment.process("hal").parameters["robot"]["params"]["speed"] == 0.25
