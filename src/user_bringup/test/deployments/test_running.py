import pytest
import yaml

from user_bringup.running import find_deployment, find_executable, prepare_run, ros_domains
from user_core.errors import ConfigError
from user_fleet.deployment import Deployment, ProcessSpec

TEXT = """
name: tiny
arguments: {greeting: hello}
environment: {COLOUR: red, SIZE: large}
processes:
  - name: sleeper
    package: {package}
    executable: {executable}
    ros: false
    environment: {SIZE: small}
    arguments: ["${{greeting}}", "${{run_dir}}"]
"""


def write(tmp_path, package="user_bringup", executable="none"):
    file = tmp_path / "tiny.yaml"
    file.write_text(
        TEXT.replace("{package}", package)
        .replace("{executable}", executable)
        .replace("${{", "${")
        .replace("}}", "}")
    )
    return file


def test_unknown_names_are_answered_with_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="no deployment 'simm'.*one of"):
        find_deployment("simm")
    with pytest.raises(ConfigError, match=r"no deployment .*none.yaml'"):
        find_deployment(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="'no_such_package'.*not installed"):
        find_executable("no_such_package", "x")
    with pytest.raises(ConfigError, match="'x' of package 'user_core'"):
        find_executable("user_core", "x")


def test_a_run_gets_its_folder_with_the_exact_configuration(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    for module in ("check", "prepare"):
        monkeypatch.setattr(f"user_bringup.running.{module}.find_executable", lambda *_: program)
    run = prepare_run(write(tmp_path), {"greeting": "hi"}, tmp_path / "runs", "r1")
    assert run.folder == tmp_path / "runs" / "r1"
    assert run.commands["sleeper"].words == (str(program), "hi", str(run.folder))
    assert run.commands["sleeper"].environment == {"COLOUR": "red", "SIZE": "small"}
    kept = yaml.safe_load((run.folder / "deployment.yaml").read_text())
    assert kept["processes"][0]["arguments"][0] == "hi"


def test_nothing_is_written_for_a_deployment_that_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="no_such_package"):
        prepare_run(write(tmp_path, "no_such_package"), {}, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="name of a run"):
        prepare_run(write(tmp_path), {}, tmp_path / "runs", "../x")


def test_the_domains_of_a_deployment_are_those_of_its_processes(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")

    def process(name, domain="", executable="e", ros=True):
        environment = {"ROS_DOMAIN_ID": domain} if domain else {}
        return ProcessSpec(
            name=name, package="p", executable=executable, environment=environment, ros=ros
        )

    learner = process("learner", "43", "learner_node")
    hosts = (process("router", "9", ros=False), learner, process("a", "41"), process("b", "42"))
    assert ros_domains(Deployment(name="d", processes=hosts)) == [41, 42, 43]
    beside = (*hosts, process("bridge", "43"))
    assert ros_domains(Deployment(name="d", processes=beside)) == [41, 42, 43]
    plain = Deployment(name="d", processes=(process("a"), process("b")))
    assert ros_domains(plain) == [7]
    assert ros_domains(plain.replace(environment={"ROS_DOMAIN_ID": "8"})) == [8]


@pytest.fixture
def busy(monkeypatch):
    """The usual ports are in use on this machine."""
    monkeypatch.setattr("user_bringup.running.prepare._is_free", lambda port: False)


def prepared(name, overrides, tmp_path):
    return prepare_run(find_deployment(name), overrides, tmp_path, "r1")


def ends(run):
    """Where its processes listen, and where they look for each other."""
    listen, connect = set(), set()
    for process in run.deployment.processes:
        zenoh = process.parameters.get("zenoh") or {}
        listen |= set(zenoh.get("listen") or ())
        connect |= set(zenoh.get("connect") or ())
        for word in process.arguments:
            if word.startswith("--listen="):
                listen.add(word.partition("=")[2])
    return listen, connect


def test_who_moves_a_router_moves_where_robots_look_for_it(tmp_path):
    run = prepared("two_hosts", {"router": "tcp/127.0.0.1:7999"}, tmp_path)
    assert ends(run) == ({"tcp/127.0.0.1:7999"}, {"tcp/127.0.0.1:7999"})
    assert any(note.startswith("robot_router:=tcp/127.0.0.1:7999, as ") for note in run.notes)
    link = {"router": "tcp/127.0.0.1:7999", "robot_router": "tcp/127.0.0.1:8001"}
    listen, connect = ends(prepared("two_hosts", link, tmp_path))  # a link in between
    assert listen == {"tcp/127.0.0.1:7999"} and connect == set(link.values())


@pytest.mark.usefixtures("busy")
def test_beside_another_run_both_ends_move_to_the_same_port(tmp_path):
    listen, connect = ends(prepared("two_hosts", {}, tmp_path))
    assert listen == connect != {"tcp/127.0.0.1:7457"}
    listen, connect = ends(prepared("sim_single", {}, tmp_path))
    assert listen == connect != {"tcp/127.0.0.1:7457"}


@pytest.mark.usefixtures("busy")
def test_who_joins_a_run_looks_for_it_where_it_listens(tmp_path):
    assert ends(prepared("join", {}, tmp_path)) == (set(), {"tcp/127.0.0.1:7457"})
