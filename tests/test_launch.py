"""The launch files under `ros2 launch`, where ROS 2's launch is installed: what comes up, comes back, ends."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not installed (not on PyPI)")
if shutil.which("ros2") is None:
    pytest.skip("the command ros2 is not installed", allow_module_level=True)

from ament_index_python.packages import get_package_share_directory  # noqa: E402

from user_bringup.chaos.evidence import Evidence  # noqa: E402
from user_bringup.nodes.graph_recorder import GraphRecorder  # noqa: E402
from user_comm.net.network import Members, Network  # noqa: E402
from user_fleet.processes import find_processes, is_alive  # noqa: E402
from user_testing.ports import claim_domain, free_port  # noqa: E402
from user_testing.waiting import wait_until  # noqa: E402

pytestmark = pytest.mark.timeout(300)


class Launched:
    """`ros2 launch user_bringup FILE`, and a witness in its ROS domain."""

    def __init__(self, folder: Path, file: str, words: list[str], domain: int) -> None:
        self.folder, self.evidence = folder / "run", Evidence()
        self._stack = ExitStack()
        self._stack.enter_context(GraphRecorder(self.evidence, domain))
        log = self._stack.enter_context((folder / "launch.log").open("w", encoding="utf-8"))
        self._log = Path(log.name)
        self.process = subprocess.Popen(
            ["ros2", "launch", "user_bringup", file, f"runs:={folder}", "run:=run", *words],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(folder / "log")},
        )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> None:
        def so_or_ended() -> bool:
            assert self.process.poll() is None, f"launch ended\n{self.log[-4000:]}"
            return bool(condition())

        wait_until(so_or_ended, what, timeout_s, seen=self._seen, period_s=0.05)

    def _seen(self) -> str:
        return f"active so far: {list(self.evidence.active_s)}\n{self.log[-4000:]}"

    def are_active(self, *nodes: str) -> None:
        active = self.evidence.active_s
        self.until(lambda: set(nodes) <= set(active), f"{nodes} are active")

    def works(self, seen: str) -> None:
        """Something of the kind ``seen`` happens from now on."""
        since_s = time.monotonic() + 0.3
        times: dict[str, float] = getattr(self.evidence, seen)
        self.until(lambda: max(times.values(), default=0.0) > since_s, f"{seen} grows")

    def pids(self) -> dict[str, int]:
        files = (self.folder / "config").glob("*.yaml")
        found = find_processes(str(file) for file in files)
        return {Path(word).stem: pid for word, pid in found.items()}

    def comes_back(self, name: str, seen: str) -> None:
        """Kill a process: another takes its place, and works."""
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self.pids().get(name, before) != before, f"{name} was started again")
        self.works(seen)

    def ends(self) -> None:
        """As with Ctrl-C in a terminal, where everybody gets the signal."""
        pids = list(self.pids().values())
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(60) == 0, self.log[-4000:]
        assert not [pid for pid in pids if is_alive(pid)]
        ending = self.log.rpartition("user interrupted with ctrl-c")[2]
        assert "has died" not in ending, ending

    def close(self) -> None:
        for pid in (*self.pids().values(), self.process.pid):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._stack.close()


@pytest.fixture
def launch(tmp_path: Path, ros_domain: int) -> Iterator[Callable[..., Launched]]:
    domains = [ros_domain]
    with ExitStack() as stack:

        def start(file: str, *words: str, host: int = 0) -> Launched:
            folder = tmp_path / f"{file}.{host}"
            folder.mkdir()
            while len(domains) <= host:
                domains.append(stack.enter_context(claim_domain()))
            launched = Launched(folder, file, list(words), domains[host])
            stack.callback(launched.close)
            return launched

        yield start


LAUNCH_FILES = Path(get_package_share_directory("user_bringup"), "launch").glob("*.launch.py")


@pytest.mark.parametrize("file", sorted(LAUNCH_FILES), ids=lambda file: file.name)
def test_every_launch_file_explains_its_arguments(file: Path) -> None:
    description = runpy.run_path(str(file))["generate_launch_description"]()
    arguments = description.get_launch_arguments()
    assert {"runs", "run"} < {argument.name for argument in arguments}
    assert all(argument.description for argument in arguments)


def test_an_argument_that_is_misspelt_is_refused_and_nothing_starts(tmp_path: Path) -> None:
    """`ros2 launch` itself would start with the default: another robot."""
    done = subprocess.run(
        ["ros2", "launch", "user_bringup", "real_robot.launch.py", "robott:=my_arm.yaml", f"runs:={tmp_path}/runs",
         "actor.loop.seed:=3"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "'robott'" in said and "did you mean 'robot'?" in said
    assert "'actor.loop.seed'" in said and "set:=" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "ours"),
    [("lab.launch.py", "IncludeLaunchDescription(OURS)"), ("real_robot.launch.py", "IncludeLaunchDescription(OURS)"),
     ("lab.launch.py", "describe('real_robot')")],
)  # fmt: skip
def test_arguments_of_a_launch_file_that_includes_ours_are_its_own(
    tmp_path: Path, name: str, ours: str
) -> None:
    (tmp_path / name).write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription\n"
        "from user_bringup.launching import describe\n"
        f"OURS = {get_package_share_directory('user_bringup')!r} + '/launch/real_robot.launch.py'\n"
        "def generate_launch_description():\n"
        f"    return LaunchDescription([DeclareLaunchArgument('cell'), {ours}])\n"
    )
    done = subprocess.run(
        ["ros2", "launch", name, "cell:=3", "robot:=nobody"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "'nobody', expected a path" in said and "'cell'" not in said, said


def test_a_simulated_arm_learns_and_what_is_killed_comes_back(
    launch: Callable[..., Launched],
) -> None:
    endpoint = f"policy_endpoint:=tcp/127.0.0.1:{free_port()}"
    system = launch("sim.launch.py", "task:=reach", "speed:=2.0", endpoint)
    system.are_active("robot0/hal", "robot0/actor", "replay", "learner", "lifecycle_manager")
    system.works("trained_s")
    for name, seen in (
        ("actor", "acted_s"), ("hal", "acted_s"), ("replay", "stored_s"), ("learner", "trained_s"),
    ):  # fmt: skip
        system.comes_back(name, seen)
    system.comes_back("lifecycle_manager", "active_s")
    system.comes_back("actor", "acted_s")  # the new manager configures, too
    if sys.platform == "linux":
        assert os.getpriority(os.PRIO_PROCESS, system.pids()["learner"]) == 5
    system.ends()


FAILING = """
name: failing
processes:
  - {name: steady, package: user_hal, executable: steady, ros: false, lifecycle: false}
  - name: broken
    package: user_hal
    executable: broken
    ros: false
    lifecycle: false
    required: true
    restart: {initial_backoff_s: 0.2, factor: 3.0, max_failures: 3, equal_failures: 0}
  - {name: hopeless, package: user_hal, executable: hopeless, ros: false, lifecycle: false}
"""

LAST_WORDS = """
echo '{"code": "config", "text": "no such robot", "final": true}' > $USER_LAST_WORDS
exit 3
"""

LAUNCH_OF_IT = """
from user_bringup.launching import describe

def generate_launch_description():
    return describe({file!r})
"""


def test_restart_policies_hold_and_the_end_of_a_required_process_ends_the_launch(
    tmp_path: Path, ros_domain: int
) -> None:
    package = tmp_path / "prefix" / "lib" / "lab"
    package.mkdir(parents=True)
    index = tmp_path / "prefix/share/ament_index/resource_index/packages/lab"
    index.parent.mkdir(parents=True)
    index.touch()
    lines = {"steady": "exec sleep 600", "broken": "exit 3", "hopeless": LAST_WORDS}
    for name, line in lines.items():
        file = package / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    deployment = tmp_path / "failing.yaml"
    deployment.write_text(FAILING.replace("user_hal", "lab"))
    launch_file = tmp_path / "failing.launch.py"
    launch_file.write_text(LAUNCH_OF_IT.format(file=str(deployment)))
    prefixes = f"{tmp_path / 'prefix'}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
    ended = subprocess.run(
        ["ros2", "launch", str(launch_file), f"runs:={tmp_path}", "run:=run"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={**os.environ, "AMENT_PREFIX_PATH": prefixes, "ROS_DOMAIN_ID": str(ros_domain)},
    )  # fmt: skip
    said = ended.stdout + ended.stderr
    assert "broken: ended with exit code 3; restart in 0.2 s" in said, said
    assert "broken: ended with exit code 3; restart in 0.6 s" in said, said
    assert "broken: given up, it failed too often (ended with exit code 3)" in said, said
    hopeless = "hopeless: given up, it would fail in the same way again (ended with exit code 3: "
    assert f"{hopeless}no such robot [config])" in said, said
    assert "hopeless: ended with exit code 3" not in said, said  # it was started once
    assert "was required: shutting down" in said, said
    assert not find_processes([str(package / "steady")]), "the others end with it"


def test_nobody_is_left_over_when_launch_itself_is_killed(launch: Callable[..., Launched]) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    endpoint = f"policy_endpoint:=tcp/127.0.0.1:{free_port()}"
    system = launch("learner.launch.py", endpoint)
    system.are_active("replay", "learner", "lifecycle_manager")
    pids = list(system.pids().values())
    assert len(pids) == 3
    system.process.kill()
    end_s = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end_s, system.log[-4000:]
        time.sleep(0.05)


def test_a_robot_on_topics_is_driven(
    launch: Callable[..., Launched], start_process: Callable[..., Any]
) -> None:
    words = [sys.executable, "-m", "user_hal.nodes.sim_ros_robot", "--ros-args"]
    words += ["-p", "arm:=ur5e", "-p", "task:=pick_place", "-p", "cameras:=[wrist]"]
    robot = start_process(words)
    endpoint = f"policy_endpoint:=tcp/127.0.0.1:{free_port()}"
    system = launch("real_robot.launch.py", "robot:=sim_ros_robot", "algorithm:=rlpd_light",
                    "task:=try", "start:=at_once", endpoint)  # fmt: skip
    system.are_active("robot0/hal", "robot0/actor", "robot0/teleop", "replay", "learner")
    system.works("stored_s")
    system.comes_back("hal", "acted_s")
    assert robot.poll() is None
    system.ends()


def test_edge_and_cloud_meet_over_mtls_and_the_router_comes_back(
    launch: Callable[..., Launched], tmp_path: Path
) -> None:
    endpoint = f"tls/127.0.0.1:{free_port()}"
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    learner, robot = network.add("learner", "learner"), network.add("robot", "robot0")
    algorithm = "algorithm:=rlpd_cpu"
    edge = launch("edge.launch.py", f"router:={endpoint}", f"credentials:={robot.folder}",
                  "start:=at_once", "task:=reach", "robot_params:={speed: 2.0}", algorithm)  # fmt: skip
    cloud = launch("cloud.launch.py", f"network:={network.folder}", f"router:={endpoint}",
                   f"credentials:={learner.folder}", algorithm, host=1)  # fmt: skip
    edge.are_active("robot0/hal", "robot0/actor", "robot0/bridge", "robot0/lifecycle_manager")
    cloud.are_active("learner/bridge", "learner/replay", "learner/learner")
    cloud.works("stored_s")
    word = f"--network={network.folder}"
    (router,) = find_processes([word]).values()
    os.kill(router, signal.SIGKILL)
    cloud.until(lambda: find_processes([word]).get(word, router) != router, "another router")
    cloud.works("stored_s")
    edge.comes_back("bridge", "acted_s")
    cloud.works("stored_s")
    edge.ends()
    cloud.ends()


def test_the_policy_of_a_robot_acts_elsewhere(
    launch: Callable[..., Launched], tmp_path: Path
) -> None:
    endpoint = f"tls/127.0.0.1:{free_port()}"
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    learner, robot = network.add("learner", "learner"), network.add("robot", "robot0")
    above = (f"router:={endpoint}", f"credentials:={learner.folder}", "algorithm:=rlpd_light")
    cloud = launch("cloud.launch.py", f"network:={network.folder}", *above, host=1)
    inference = launch("inference.launch.py", *above, host=1)
    edge = launch("edge.launch.py", f"router:={endpoint}", f"credentials:={robot.folder}",
                  "remote_inference:=true", "start:=at_once", "task:=reach", "algorithm:=rlpd_light",
                  "robot_params:={speed: 2.0, real_time: true}")  # fmt: skip
    inference.are_active("robot0/inference")
    edge.are_active("robot0/hal", "robot0/actor", "robot0/bridge")
    edge.works("acted_s")
    inference.comes_back("inference", "active_s")
    edge.works("acted_s")
    for system in (edge, inference, cloud):
        system.ends()
