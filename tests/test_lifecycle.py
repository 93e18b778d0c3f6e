"""lifecycle_manager with real nodes under `user up`: order, hanging, hands of people, pause."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from std_srvs.srv import Trigger

from user_fleet.processes import find_processes
from user_testing.waiting import wait_until
from user_testing.worlds.acting import GraphProbe

pytestmark = pytest.mark.timeout(420)

DEPLOYMENT = {
    "name": "two_robots",
    "processes": [
        {
            "name": "first", "package": "user_hal", "executable": "hal_node", "order": 1,
            "parameters": {"robot": {"plugin": "fake"}, "state_dir": "${run_dir}/first"},
        },
        {
            "name": "second", "package": "user_hal", "executable": "hal_node",
            "namespace": "/r1", "order": 2, "depends_on": ["first"],
            "parameters": {"robot": {"plugin": "fake"}, "state_dir": "${run_dir}/second"},
        },
        {
            "name": "broken", "package": "user_hal", "executable": "hal_node", "order": 3,
            # Right as far as can be seen from outside.
            "parameters": {"robot": {"plugin": "gymnasium", "params": {"env_id": "NoSuch-v0"}}},
            "restart": {"max_failures": 3, "window_s": 600.0},
        },
        {
            "name": "lifecycle_manager", "package": "user_fleet",
            "executable": "lifecycle_manager", "order": 9, "lifecycle": False,
            "parameters": {
                "autostart": True, "deployment": "${run_dir}/deployment.yaml",
                "times": {"hang_timeout_s": 4.0},
            },
        },
    ],
}  # fmt: skip


class System:
    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process
        self.probe = GraphProbe()
        self.said: dict[str, object] = {}
        self.probe.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 50)

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            _, _, name = status.name.partition(": managed ")
            if name:
                self.said[name] = status

    def state(self, name: str) -> str:
        status = self.said.get(name)
        values = {v.key: v.value for v in status.values} if status else {}
        return values.get("state", "")

    def until_states(self, **wanted: str) -> None:
        def so_or_ended() -> bool:
            assert self.process.poll() is None, f"user up has ended\n{self.log()}"
            return {name: self.state(name) for name in wanted} == wanted

        def seen() -> str:
            return (
                f"{ {n: (self.state(n), s.message) for n, s in self.said.items()} }"
                f"\n{self.log()[-4000:]}"
            )

        wait_until(so_or_ended, f"{wanted}", 90.0, seen=seen)

    def log(self) -> str:
        return (self.folder / "logs" / "lifecycle_manager.log").read_text()

    def until_logged(self, text: str, since: int) -> int:
        """Wait for a text in the log behind a place in it; returns where it ends."""
        wait_until(lambda: text in self.log()[since:], text, seen=lambda: self.log()[-4000:])
        return self.log().index(text, since) + len(text)

    def pid(self, name: str) -> int:
        word = str(self.folder / "config" / f"{name}.yaml")
        return find_processes([word]).get(word, 0)

    def until_pid(self, name: str, not_pid: int) -> None:
        wait_until(lambda: self.pid(name) not in (0, not_pid), f"{name} is back", seen=self.log)

    def call(self, name: str, kind: type, **fields: object) -> object:
        return self.probe.call(name, kind, **fields)

    def transition(self, name: str, number: int, state: str) -> None:
        """As a person does. An answer may get lost, so what counts is the state."""
        self.call(f"{name}/change_state", ChangeState, transition=Transition(id=number))
        assert self.call(f"{name}/get_state", GetState).current_state.label == state


@pytest.fixture
def system(tmp_path, start_process, ros_domain):
    file = tmp_path / "two_robots.yaml"
    file.write_text(yaml.safe_dump(DEPLOYMENT), encoding="utf-8")
    words = ["user", "up", str(file), "--runs", str(tmp_path), "--run", "r", "--no-table"]
    process = start_process(words, stdout=subprocess.DEVNULL)
    system = System(tmp_path / "r", process)
    yield system
    system.probe.close()


@pytest.mark.slow
def test_nodes_are_brought_up_watched_and_left_to_people(system) -> None:
    system.until_states(first="active", second="active")

    # One that cannot be configured is given up, and does no harm.
    wait_until(
        lambda: "given up after 3 failures" in getattr(system.said.get("broken"), "message", ""),
        seen=system.log,
    )
    assert (system.state("first"), system.state("second")) == ("active", "active")

    # A killed node comes back, and what depends on it is activated once more.
    pid, other = system.pid("first"), system.pid("second")
    until_now = len(system.log())
    os.kill(pid, signal.SIGKILL)
    system.until_pid("first", pid)
    # In the order in which it happens: what is still said of before the kill looks the same.
    deactivated = system.until_logged("deactivate second", until_now)
    system.until_logged("activate second", deactivated)
    system.until_states(first="active", second="active")
    assert system.pid("second") == other

    # One that hangs is as good as dead.
    pid, until_now = system.pid("second"), len(system.log())
    os.kill(pid, signal.SIGSTOP)
    system.until_pid("second", pid)
    told = system.until_logged("said nothing for", until_now)
    system.until_logged("activate second", told)
    system.until_states(second="active")

    # What a person deactivates stays so, until it is activated.
    system.transition("/r1/second", Transition.TRANSITION_DEACTIVATE, "inactive")
    system.until_states(second="inactive")
    time.sleep(1.0)
    assert system.call("/r1/second/get_state", GetState).current_state.label == "inactive"
    assert "taken in hand" in system.said["second"].message
    system.transition("/r1/second", Transition.TRANSITION_ACTIVATE, "active")
    system.until_states(second="active")

    # Paused is paused, also when the manager dies meanwhile.
    assert system.call("/lifecycle_manager/pause", Trigger).success
    system.until_states(first="inactive", second="inactive")
    pid = system.pid("lifecycle_manager")
    os.kill(pid, signal.SIGKILL)
    system.until_pid("lifecycle_manager", pid)
    system.said.clear()
    system.until_states(first="inactive", second="inactive")
    assert system.said["first"].message == "paused"
    assert system.call("/lifecycle_manager/resume", Trigger).success
    system.until_states(first="active", second="active")
    # All means the broken one, too, which ends when it has failed in the same way for the fifth time.
    wait_until(lambda: system.pid("broken") == 0, "broken ends", seen=system.log)

    # Shut down: finalized, and not brought up again when the processes come back.
    pids = [system.pid("first"), system.pid("second")]
    assert system.call("/lifecycle_manager/shut_down", Trigger).success
    for name, pid in zip(("first", "second"), pids, strict=True):
        system.until_pid(name, pid)
    system.until_states(first="unconfigured", second="unconfigured")
    system.process.send_signal(signal.SIGINT)
    assert system.process.wait(60) == 1, "one of them was given up"


def test_a_killed_supervisor_leaves_no_process_behind(system) -> None:
    system.until_states(first="active", second="active")
    names = ("first", "second", "lifecycle_manager")
    assert all(system.pid(name) for name in names)
    system.process.kill()
    system.process.wait()
    wait_until(lambda: not any(system.pid(name) for name in names), "all of them end")
