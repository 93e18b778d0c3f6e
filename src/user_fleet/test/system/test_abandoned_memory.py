"""Real processes with FastDDS in them: what a killed one leaves, and what a living one keeps."""

import os
import sys
from pathlib import Path

import pytest

from user_core.runtime.dds.files import PORT, STARTS
from user_fleet.supervisor.abandoned_memory import remove_abandoned_memory
from user_testing.processes import Process
from user_testing.waiting import wait_until

pytest.importorskip("rclpy", reason="needs ROS 2")

NODE = """
import rclpy, time
rclpy.init()
node = rclpy.create_node("holder")
print("ready", flush=True)
time.sleep(600)
"""


def segments_of(pid):
    """Its own: it holds their locks. It may have opened those of others as well."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    locks = [name for name in links if name.endswith("_el") and not PORT.search(name)]
    return {Path(name.removesuffix("_el")) for name in locks}


@pytest.mark.usefixtures("ros_domain")
def test_memory_of_a_killed_process_is_given_back_and_that_of_a_living_one_is_kept(tmp_path):
    words = [sys.executable, "-c", NODE]
    with (
        Process(words, tmp_path / "dies.log") as dies,
        Process(words, tmp_path / "lives.log") as lives,
    ):
        wait_until(lambda: "ready" in dies.log and "ready" in lives.log)
        killed, living = segments_of(dies.pid), segments_of(lives.pid)
        if not killed or not living:
            pytest.skip("FastDDS uses no shared memory here")
        dies.kill()
        assert all(path.exists() for path in killed | living)

        assert remove_abandoned_memory(young_s=0.0) > 0

        assert not any(p.exists() or p.with_name(p.name + "_el").exists() for p in killed)
        assert all(path.exists() for path in living)


def test_what_is_young_or_something_else_is_left_alone(tmp_path):
    segments = [f"{start}_0123456789abcdef{end}" for start in STARTS for end in ("", "_el")]
    for name in (*segments, "other_0123"):
        (tmp_path / name).write_bytes(b"x")
    assert remove_abandoned_memory(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 5
    assert remove_abandoned_memory(tmp_path / "absent") == 0
    remove_abandoned_memory(tmp_path, young_s=-1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["other_0123"]
