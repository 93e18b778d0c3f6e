"""Import of a ROS bag by a contract, beside what decoding its messages alone takes, in turns.

    tools/run python benchmarks/data/bags.py --seconds 60

With ``--episodes`` the bag has several, with a pause before each, and ``--processes`` read them.

The bag has joint states and poses at 100 Hz, commands at 50 Hz and a camera of 320 x 240 at 30 Hz, written by the
package ``mcap``; the contract takes 10 Hz and images of 128 x 128.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.writer import Writer
from rosbags.highlevel import AnyReader

from user_bringup.bags.reading import Bag
from user_core.command_line import Parser
from user_learner.data.importing import import_data
from user_learner.data.mcap.messages import Messages
from user_learner.replay.writer import StoreWriter

MS = 1_000_000
CONTRACT: dict[str, Any] = {
    "robot": "bagged", "period_s": 0.1, "joints": [f"j{i}" for i in range(7)],
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
        },
        "tcp_pose": {"topic": "/tcp", "type": "geometry_msgs/msg/PoseStamped", "field": "pose"},
    },
    "action": {
        "kind": "joint_position", "low": -3.0, "high": 3.0,
        "command": {"topic": "/commands", "type": "std_msgs/msg/Float64MultiArray"},
    },
    "cameras": {"devices": {"top": {
        "plugin": "ros_topic", "params": {"topic": "/camera", "width": 128, "height": 128, "crop": "centre"},
    }}},
}  # fmt: skip


def main() -> None:
    whole = Parser(description=__doc__)
    whole.add_argument("--seconds", type=int, default=60)
    whole.add_argument("--times", type=int, default=3)
    whole.add_argument("--episodes", type=int, default=1)
    whole.add_argument("--processes", type=int, default=0)
    options = whole.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bags"))
    try:
        measure(folder, options.seconds, options.times, options.episodes, options.processes)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, seconds: int, times: int, episodes: int, processes: int) -> None:
    write(folder / "a.mcap", seconds, episodes)
    robot = folder / "robot.yaml"
    robot.write_text(yaml.safe_dump({"robot": {"plugin": "ros2", "params": CONTRACT}}))
    decoded, of_ours, imported = [], [], []
    # time of the processor, in which other load hardly counts
    busy: dict[str, list[float]] = {"decode": [], "import": []}
    for turn in range(times):
        started, began = time.perf_counter(), _processor_s()
        with AnyReader([folder / "a.mcap"]) as reader:
            for connection, _, data in reader.messages():
                reader.deserialize(data, connection.msgtype)
        decoded.append(time.perf_counter() - started)
        busy["decode"].append(_processor_s() - began)
        started = time.perf_counter()
        bag = Bag(folder / "a.mcap")
        messages = sum(1 for m in bag.messages(list(bag.types)) if bag.decode(m) is not None)
        of_ours.append(time.perf_counter() - started)
        started, began = time.perf_counter(), _processor_s()
        with StoreWriter(folder / f"store{turn}") as store:
            report = import_data(
                folder / "a.mcap", store, options={"robot": str(robot)}, processes=processes
            )
        imported.append(time.perf_counter() - started)
        busy["import"].append(_processor_s() - began)
    print(json.dumps({
        "seconds": seconds, "episodes": report.episodes, "processes": processes, "messages": messages, "rows": report.rows, "skipped": report.skipped,
        "mb": round((folder / "a.mcap").stat().st_size / 2**20),
        "decode_s": round(min(decoded), 2), "import_s": round(min(imported), 2),
        "our_decode_s": round(min(of_ours), 2),
        "ratio": round(min(decoded) / min(imported), 2),
        "ratio_of_processor_time": round(min(busy["decode"]) / min(busy["import"]), 2),
        "ratio_ours": round(min(of_ours) / min(imported), 2),
        "times_real": round(seconds / min(imported), 1),
    }))  # fmt: skip


def _processor_s() -> float:
    """Time of the processor that this process and those that it has ended took."""
    return sum(os.times()[:4])


def write(path: Path, seconds: int, episodes: int = 1) -> None:
    made = Messages()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (240, 320, 3), np.uint8)
    with open(path, "wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}

        def put(topic: str, kind: str, now: int, message: Any) -> None:
            if topic not in channels:
                text = made.channel(topic, kind).definition.encode()
                channels[topic] = writer.register_channel(
                    topic, "cdr", writer.register_schema(kind, "ros2msg", text)
                )
            writer.add_message(channels[topic], now, made.encoded(message, kind), now)

        names = CONTRACT["joints"]
        for k in range(seconds * 100):
            now = 10**18 + k * 10 * MS + k * episodes // (seconds * 100) * 5000 * MS
            joints = np.sin(np.arange(7) + k * 0.01)
            state = made.joint_state(now, names, joints, None, None)
            put("/joint_states", "sensor_msgs/msg/JointState", now, state)
            pose = made.pose(now, "base_link", np.array([0.1, 0.2, 0.3, 0, 0, 0, 1.0]))
            put("/tcp", "geometry_msgs/msg/PoseStamped", now, pose)
            if k % 2 == 0:
                kind = "std_msgs/msg/Float64MultiArray"
                put("/commands", kind, now, made.array(joints, kind))
            if k % 3 == 0:
                put("/camera", "sensor_msgs/msg/Image", now, made.image(image, now, "top"))
        writer.finish()


if __name__ == "__main__":
    main()
