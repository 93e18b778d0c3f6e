"""Deployments that list robots and hosts: what follows from the list, and what is refused."""

import pytest

from user_core.errors import ConfigError
from user_fleet.deployment import Faults, compose, load_deployment, start_order

ROBOT = """
description: A robot.
arguments:
  task: {default: reach, choices: [reach, pick], doc: The task.}
  seed: 0
  unused: 1
values:
  topics: {trajectory: /trajectory}
  link: {connect: ["${endpoint}"], shared_memory: true}
processes:
  hal:
    package: user_hal
    executable: hal_node
    namespace: /${name}
    order: 1
    parameters:
      task: ${task}
      label: ${name} at ${task}
      seed: ${seed}
  actor:
    package: user_actor
    executable: actor_node
    namespace: /${name}
    order: 2
    depends_on: [hal]
    remappings: ${topics}
    parameters: {hal: "${process.hal}", link: "${link}", loop: {rate_hz: 10.0, seed: "${seed}"}}
"""
LEARNER = """
arguments: {endpoint: tcp/127.0.0.1:1}
processes:
  learner:
    package: user_learner
    executable: learner_node
    namespace: ${namespace}
    order: 3
    remappings: {robot_spec: "/${first_robot}/robot_spec"}
    parameters: {training: {batch_size: 8, utd: {target: 1.0}}}
"""
MANAGER = """
processes:
  manager:
    name: lifecycle_manager
    package: user_fleet
    executable: lifecycle_manager
    namespace: ${namespace}
    lifecycle: false
"""
HOST_MANAGER = """
extends: [lifecycle_manager]
processes:
  manager: {parameters: {host: "${name}"}}
"""
FRAGMENTS = {
    "robot": ROBOT,
    "learner": LEARNER,
    "lifecycle_manager": MANAGER,
    "host_lifecycle_manager": HOST_MANAGER,
}
ONE = """
name: one
roles: [learner]
robots: {robot0: robot}
"""
TWO = """
name: two
arguments: {seed1: 7}
roles: [learner]
robots:
  robot0: robot
  robot1: {roles: robot, seed: "${seed1}"}
"""
HOSTS = """
name: hosts
hosts:
  edge: {domain: 41, namespace: /edge, endpoint: tcp/there:2}
  cloud: {domain: "42", namespace: /learner, roles: [learner]}
robots:
  robot0: {host: edge, roles: [robot]}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fragments").mkdir()
    for name, text in FRAGMENTS.items():
        (tmp_path / "fragments" / f"{name}.yaml").write_text(text)
    return tmp_path


def write(folder, text):
    file = folder / "d.yaml"
    file.write_text(text)
    return file


def load(folder, text, **overrides):
    return load_deployment(write(folder, text), overrides, {"run_dir": "/r"})


def refused(folder, text, overrides=None):
    """What is said of a deployment that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_deployment(write(folder, text), overrides or {}, {"run_dir": "/r"})
    return str(caught.value)


def test_a_file_of_another_kind_is_told_as_what_it_is(folder):
    said = refused(
        folder, "algorithm: {plugin: bc}\npolicy: {plugin: flow}\nsampler: {window: 8}\n"
    )
    assert "got the file of an algorithm, expected a deployment" in said and "algorithm:=" in said
    assert "unknown key" not in said
    said = refused(folder, "robot: {plugin: fake}\ntask: reach\n")
    assert (
        "got the file of a robot, expected a deployment" in said
        and "user up real_robot robot:=" in said
    )


def test_what_runs_follows_from_the_roles(folder):
    deployment = load(folder, ONE, task="pick")
    names = [process.name for process in start_order(deployment.processes)]
    assert names == ["lifecycle_manager", "hal", "actor", "learner"]
    hal, actor = deployment.process("hal"), deployment.process("actor")
    assert hal.parameters == {"task": "pick", "label": "robot0 at pick", "seed": 0}
    assert hal.node_name == "/robot0/hal"
    assert (actor.robot, actor.role) == ("robot0", "actor")
    assert actor.depends_on == ("hal",)
    assert actor.remappings == {"trajectory": "/trajectory"}
    assert actor.parameters["link"] == {"connect": ["tcp/127.0.0.1:1"], "shared_memory": True}
    assert deployment.process("learner").remappings == {"robot_spec": "/robot0/robot_spec"}
    assert set(deployment.arguments) == {"task", "seed", "endpoint"}  # what nobody asks for is none


def test_a_second_robot_is_one_more_line(folder):
    one, two = load(folder, ONE), load(folder, TWO)
    added = {process.name for process in two.processes} - {"learner", "lifecycle_manager"}
    assert added == {"hal0", "actor0", "hal1", "actor1"}
    for role in ("hal", "actor"):
        first, before = two.process(f"{role}0"), one.process(role)
        assert first.namespace == before.namespace
        assert two.process(f"{role}1").namespace == "/robot1"
    actor = two.process("actor1")
    assert actor.depends_on == ("hal1",)
    assert actor.parameters["hal"] == "hal1"
    assert actor.parameters["loop"]["seed"] == 7
    assert two.process("actor0").parameters["loop"]["seed"] == 0
    learner = two.process("learner").replace(name="learner")
    assert learner == one.process("learner")


def test_each_host_has_its_domain_its_manager_and_its_values(folder):
    deployment = load(folder, HOSTS)
    assert deployment.process("edge_manager").namespace == "/edge"
    assert deployment.process("edge_manager").parameters == {"host": "edge"}
    assert deployment.process("cloud_manager").environment == {"ROS_DOMAIN_ID": "42"}
    actor = deployment.process("actor")
    assert actor.host == "edge"
    assert actor.environment == {"ROS_DOMAIN_ID": "41"}
    assert actor.parameters["link"]["connect"] == ["tcp/there:2"]


def test_a_deployment_says_what_differs_by_the_path_of_a_process(folder):
    text = TWO + (
        "processes:\n"
        "  actor: {parameters: {link: {shared_memory: false}}}\n"
        "  robot1.actor: {niceness: 3}\n"
        "  learner: {name: teacher}\n"
        "  extra: {package: p, executable: e, ros: false}\n"
    )
    deployment = load(folder, text)
    for name in ("actor0", "actor1"):
        link = deployment.process(name).parameters["link"]
        assert link == {"connect": ["tcp/127.0.0.1:1"], "shared_memory": False}
    assert [deployment.process(f"actor{i}").niceness for i in (0, 1)] == [0, 3]
    assert deployment.process("teacher").executable == "learner_node"
    assert deployment.process("extra").executable == "e"


def test_any_parameter_is_set_by_its_path(folder):
    deployment = load(
        folder, TWO,
        **{
            "learner.training.utd.target": None,
            "actor.loop.rate_hz": 20.0,
            "robot1.actor.loop.rate_hz": 5.0,
            "hal0.label": "left",
            "robot1.seed": 9,
            "learner.niceness": 4,
        },
    )  # fmt: skip
    assert deployment.process("learner").parameters["training"] == {
        "batch_size": 8,
        "utd": {"target": None},
    }
    rates = [deployment.process(f"actor{i}").parameters["loop"]["rate_hz"] for i in (0, 1)]
    assert rates == [20.0, 5.0]
    assert deployment.process("hal0").parameters["label"] == "left"
    assert deployment.process("hal1").parameters["seed"] == 9
    assert deployment.process("learner").niceness == 4


@pytest.mark.parametrize(
    ("overrides", "made"),
    [
        ({"actor.reward.params.near_m": 0.2}, {"plugin": "pose", "params": {"goal": "there", "near_m": 0.2}}),
        ({"actor.reward.plugin": "pose"}, {"plugin": "pose", "params": {"goal": "there"}}),
        ({"actor.reward.params.model": "m", "actor.reward.plugin": "seen"}, {"plugin": "seen", "params": {"model": "m"}}),
        ({"actor.reward": {"plugin": "seen"}}, {"plugin": "seen"}),
    ],
)  # fmt: skip
def test_another_plugin_does_not_get_the_parameters_of_the_one_before(folder, overrides, made):
    text = ONE + (
        "processes: {actor: {parameters: {reward: {plugin: pose, params: {goal: there}}}}}\n"
    )
    assert load(folder, text, **overrides).process("actor").parameters["reward"] == made


def test_every_value_knows_where_it_comes_from(folder):
    faults = Faults()
    overrides = {"task": "pick", "actor.loop.rate_hz": 20.0}
    composition = compose(write(folder, TWO), overrides, faults=faults)
    assert not faults.found

    def origin(process, *key):
        return str(composition.origin(process, ("parameters", *key)))

    fragment = f"{folder}/fragments/robot.yaml"
    assert origin("hal0", "task") == f"{fragment}:17 (argument task, command line)"
    assert origin("hal0", "seed") == f"{fragment}:19 (argument seed, default at {fragment}:5)"
    assert (
        origin("hal1", "seed")
        == f"{folder}/d.yaml:7 (argument seed1, default at {folder}/d.yaml:3)"
    )
    assert origin("actor0", "loop", "rate_hz") == "command line"
    assert origin("actor0", "link", "shared_memory") == f"{fragment}:9"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (ONE.replace("robot0: robot", "robot0: robbot"), {}, ["d.yaml:4", "'robbot'", "'robot'"]),
        (ONE.replace("roles: [learner]", "roles: [lerner]"), {}, ["d.yaml:3", "did you mean 'learner'"]),
        (HOSTS.replace("host: edge", "host: egde"), {}, ["d.yaml:7", "did you mean 'edge'"]),
        (HOSTS.replace("host: edge, ", ""), {}, ["robots.robot0.host", "'cloud', 'edge'"]),
        (TWO.replace("seed: ", "sed: "), {}, ["d.yaml:7", "'sed'", "did you mean 'seed'"]),
        (TWO.replace("  robot1:", "  ${other}:").replace("seed1: 7", "seed1: 7, other: robot0"), {},
         ["d.yaml:7", "robots.robot0", "a robot of this name already"]),
        (TWO.replace("  robot1:", "  robot0:"), {}, ["key 'robot0' occurs twice"]),
        (ONE + "processes: {lerner: {niceness: 1}}", {}, ["d.yaml:5", "did you mean 'learner'"]),
        (ONE + "procesess: {}", {}, ["unknown key 'procesess'", "did you mean 'processes'"]),
        (ONE, {"tsak": "pick"}, ["command line", "'tsak'", "did you mean 'task'"]),
        (ONE, {"unused": 2}, ["unknown argument", "'unused'"]),
        (ONE, {"task": "pik"}, ["command line", "did you mean 'pick'"]),
        (ONE, {"lerner.training.batch_size": 1}, ["'lerner'", "did you mean 'learner'"]),
        (TWO, {"robot2.actor.loop.rate_hz": 1}, ["'robot2'", "did you mean"]),
        (ONE, {"learner.niceness": 99}, ["command line", "learner.niceness", "0 and <= 19"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place_and_the_nearest_word(folder, text, overrides, words):
    said = refused(folder, text, overrides)
    for word in words:
        assert word in said, said


def test_all_faults_are_told_at_once(folder):
    text = HOSTS.replace("roles: [robot]", "roles: [robot, arm]").replace("host: edge", "host: x")
    said = refused(folder, text, {"learner.niceness": -1, "task": "no"})
    for word in ("'arm'", "'x'", "learner.niceness", "'no'"):
        assert word in said, said


def test_fragments_that_extend_each_other_are_refused(folder):
    (folder / "fragments" / "a.yaml").write_text("extends: [b]\n")
    (folder / "fragments" / "b.yaml").write_text("extends: [a]\n")
    assert "extend each other" in refused(folder, ONE.replace("robot0: robot", "robot0: a"))


def test_a_value_may_name_the_one_further_out_but_not_itself(folder):
    text = HOSTS.replace("endpoint: tcp/there:2", 'endpoint: "${endpoint}0"')
    actor = load(folder, text).process("actor")
    assert actor.parameters["link"]["connect"] == ["tcp/127.0.0.1:10"]
    looped = HOSTS.replace("endpoint: tcp/there:2", 'endpoint: "${a}", a: "${endpoint}"')
    load(folder, looped)  # a, endpoint, then the argument


@pytest.mark.parametrize(
    ("text", "overrides", "have"),
    [
        ("", {}, {"hal", "actor", "learner", "lifecycle_manager"}),
        ("standby: true\n", {}, {"hal", "actor", "learner", "lifecycle_manager"}),
        ("standby: false\n", {}, set()),
        ("standby: [hal, actor]\n", {}, {"hal", "actor"}),
        ("standby: [robot0]\n", {}, {"hal", "actor"}),
        ("standby: [hal]\n", {"standby": ["learner"]}, {"learner"}),
        ("", {"standby": False}, set()),
    ],
)
def test_a_deployment_chooses_which_processes_have_a_standby(folder, text, overrides, have):
    deployment = load(folder, ONE + text, **overrides)
    assert {p.name for p in deployment.processes if p.restart.has_standby} == have


@pytest.mark.parametrize(
    ("value", "words"),
    [("[haal]", ("haal", "hal")), ("maybe", ("standby", "maybe")), ("3", ("3",))],
)
def test_a_standby_for_nobody_is_refused(folder, value, words):
    text = refused(folder, f"{ONE}standby: {value}\n")
    assert all(word in text for word in words)


def test_so_many_robots_of_a_kind_are_one_line_and_one_argument(folder):
    text = (
        "name: many\narguments: {robots: 2}\nroles: [learner]\n"
        'robots: {arm: {count: "${robots}", roles: robot, seed: "${number}"}, other: robot}\n'
    )
    deployment = load(folder, text, robots=3)
    seeds = {p.namespace: p.parameters["seed"] for p in deployment.processes if p.role == "hal"}
    assert seeds == {"/arm0": 0, "/arm1": 1, "/arm2": 2, "/other": 0}
    assert deployment.process("learner").remappings == {"robot_spec": "/arm0/robot_spec"}
    assert len([p for p in load(folder, text).processes if p.role == "actor"]) == 3
    assert len([p for p in load(folder, text, robots=0).processes if p.role == "actor"]) == 1
    said = refused(folder, text, {"robots": "many"})
    assert "robots.arm.count" in said and "whole number" in said


def test_an_argument_may_be_all_robots_by_default(folder):
    text = (
        "name: many\narguments: {robots: 2, served: {default: '${robot_names}', doc: Whom it serves.}}\n"
        "roles: [learner]\nvalues: {also: '${served}'}\n"
        "robots: {arm: {count: '${robots}', roles: robot}}\n"
        "processes: {learner: {parameters: {served: '${also}'}}}\n"
    )

    def served(**chosen):
        return load(folder, text, **chosen).process("learner").parameters["served"]

    assert served() == ["arm0", "arm1"] and served(robots=3) == ["arm0", "arm1", "arm2"]
    assert served(served=["arm1"]) == ["arm1"]
    assert served(served="${robots}") == "${robots}", "what is given is no text of ours"
    assert compose(write(folder, text), faults=Faults()).arguments["served"] == ["arm0", "arm1"]


def test_no_robots_by_count_is_told_as_the_count_that_it_is(folder):
    text = (
        "name: many\narguments: {robots: 2}\nroles: [learner]\n"
        "robots: {arm: {count: '${robots}', roles: robot}}\n"
    )
    for robots, expected in ((0, "at least one"), (-1, "a whole number, 0 to"), ("two", "a whole number, 0 to")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load(folder, text, robots=robots)
        said = str(caught.value)
        assert "robots.arm.count" in said and expected in said
        assert "first_robot" not in said


def test_no_robots_is_one_fault_whatever_the_deployment_says_of_them(folder):
    """Their processes, the values and parameters for them, and the lists of their names are missing for one reason."""
    text = (
        "name: many\narguments: {robots: 2, served: {default: '${robot_names}', doc: Whom it serves.}}\n"
        "roles: [learner]\nvalues: {also: '${served}', pace: 3}\n"
        "robots: {arm: {count: '${robots}', roles: robot}}\n"
        "processes: {actor: {parameters: {loop: {}}}, learner: {parameters: {served: '${also}'}}}\n"
    )
    said = refused(folder, text, {"robots": 0, "actor.loop.rate_hz": 10})
    assert said.count("robots.arm.count: got 0, and there are no others") == 1
    assert "expected one of" not in said and "faults:" not in said


def test_a_learner_without_robots_is_told_how_to_name_the_one_it_learns_for(folder):
    alone = "name: alone\nroles: [learner]\n"
    said = refused(folder, alone)
    assert "'first_robot'" in said and "{learns_for: robot0} for a learner" in said
