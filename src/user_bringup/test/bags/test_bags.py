"""ROS bags, as other people's tools write them, become episodes by a robot's contract."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from user_bringup.bags import parts
from user_bringup.bags.decoding import Decoders, NotSupported
from user_bringup.bags.format import FORMAT
from user_bringup.bags.reading import Bag
from user_core.errors import CodecError, ConfigError, SuiteError
from user_core.types import Outcome
from user_hal.robots.ros2.recorded.config import EventConfig
from user_hal.robots.ros2.recorded.cuts import Events
from user_learner.cli.data import main
from user_learner.data.extras import MissingLibrary
from user_learner.data.importing import import_data
from user_learner.edits.view import EditedEpisodes
from user_learner.replay.reader import StoreReader
from user_learner.replay.writer import StoreWriter

rosbag2 = pytest.importorskip("rosbags.rosbag2")
typesys = pytest.importorskip("rosbags.typesys")

STORE = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
MS = 1_000_000
BEGIN = 1_700_000_000 * 1_000_000_000
JOINTS = ("lift", "elbow")

CONTRACT: dict[str, Any] = {
    "robot": "bagged",
    "period_s": 0.1,
    "joints": list(JOINTS),
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position"
        },
        "tcp_pose": {
            "topic": "/tcp", "type": "geometry_msgs/msg/PoseStamped", "field": "pose",
            "frame": "base_link",
        },
    },
    "action": {
        "kind": "joint_position", "low": -2.0, "high": 2.0,
        "command": {"topic": "/commands", "type": "std_msgs/msg/Float64MultiArray"},
    },
}  # fmt: skip


def stamp(time_ns: int) -> Any:
    return STORE.types["builtin_interfaces/msg/Time"](*divmod(time_ns, 1_000_000_000))


def header(time_ns: int, frame: str = "base_link") -> Any:
    return STORE.types["std_msgs/msg/Header"](stamp(time_ns), frame)


def joint_state(time_ns: int, positions: list[float], names: tuple[str, ...] = JOINTS) -> Any:
    return STORE.types["sensor_msgs/msg/JointState"](
        header(time_ns), list(names), np.array(positions), np.array([]), np.array([])
    )


def pose(time_ns: int, x: float) -> Any:
    t = STORE.types
    return t["geometry_msgs/msg/PoseStamped"](
        header(time_ns),
        t["geometry_msgs/msg/Pose"](
            t["geometry_msgs/msg/Point"](x, 0.0, 0.0),
            t["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        ),
    )


def numbers(values: list[float]) -> Any:
    t = STORE.types
    layout = t["std_msgs/msg/MultiArrayLayout"]([], 0)
    return t["std_msgs/msg/Float64MultiArray"](layout, np.array(values))


def motion(seconds: float, start_ns: int = BEGIN) -> Iterator[tuple[str, int, Any]]:
    """Joints that move by 0.1 rad/s at 100 Hz, and are told so at 50 Hz, 20 ms ahead."""
    for k in range(round(seconds * 100)):
        now, t = start_ns + k * 10 * MS, k * 0.01
        yield "/joint_states", now, joint_state(now, [0.1 * t, -0.1 * t])
        yield "/tcp", now + MS, pose(now + MS, 0.2 * (t + 0.001))
        if k % 2 == 0:
            yield "/commands", now + 2 * MS, numbers([0.1 * (t + 0.02), -0.1 * (t + 0.02)])


SERVICE_EVENT = "std_srvs/srv/Trigger_Event"
TYPES = {
    "/joint_states": "sensor_msgs/msg/JointState",
    "/tcp": "geometry_msgs/msg/PoseStamped",
    "/commands": "std_msgs/msg/Float64MultiArray",
    "/episode": "std_msgs/msg/String",
    "/recording": "std_msgs/msg/Bool",
    "/camera": "sensor_msgs/msg/Image",
    "/reward": "std_msgs/msg/Float64",
}


def write(
    path: Path,
    messages: Any,
    storage: str = "MCAP",
    types: Any = None,
    store: Any = STORE,
    compression: Any = None,
    in_order: bool = True,
) -> Path:
    """A bag as rosbags writes it."""
    types = {**TYPES, **(types or {})}
    bag = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[storage])
    if compression is not None:
        bag.set_compression(compression, rosbag2.CompressionFormat.ZSTD)
    with bag as writer:
        connections: dict[str, Any] = {}
        for topic, time_ns, message in sorted(messages, key=lambda m: m[1] if in_order else 0):
            name = types[topic]
            known: dict[str, Any] = {"typestore": store}
            if name == SERVICE_EVENT:
                name, known = "t/msg/Event", {"msgdef": "bool data\n---\nbool ok\n", "rihs01": "x"}
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, types[topic], **known)
            writer.write(connections[topic], time_ns, store.serialize_cdr(message, name))
    return path


def write_mcap(path: Path, messages: Any, chunk_size: int | None = 16384) -> Path:
    """An MCAP file as the package mcap writes it, in small chunks; None: without."""
    from mcap.writer import Writer

    with open(path, "wb") as stream:
        writer = Writer(stream, chunk_size=chunk_size or 0, use_chunking=chunk_size is not None)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for topic, time_ns, message in sorted(messages, key=lambda m: m[1]):
            name = TYPES[topic]
            if topic not in channels:
                text, _ = STORE.generate_msgdef(name, ros_version=2)
                schema = writer.register_schema(name, "ros2msg", text.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(STORE.serialize_cdr(message, name))
            writer.add_message(channels[topic], time_ns, data, time_ns)
        writer.finish()
    return path


def robot_file(
    folder: Path, contract: dict[str, Any] | None = None, name: str = "robot.yaml"
) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump({"robot": {"plugin": "ros2", "params": contract or CONTRACT}}))
    return str(path)


def taken(folder: Path, bag: Path, contract: dict[str, Any] | None = None, **options: Any) -> Any:
    """Import a bag: the report, and the episodes."""
    with StoreWriter(folder / "store") as store:
        report = import_data(bag, store, options={"robot": robot_file(folder, contract), **options})
    return report, episodes(folder / "store")


def episodes(store: Path) -> list[Any]:
    with closing(StoreReader(store)) as reader:
        edited = EditedEpisodes(reader)
        return [edited.recorded(one) for one in edited.episodes()]


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_becomes_what_the_control_loop_would_have_recorded(
    tmp_path: Path, storage: str
) -> None:
    report, found = taken(tmp_path, write(tmp_path / "bag", motion(3.0), storage))
    assert not report.skipped
    (episode,) = found
    rows = episode.columns
    assert len(episode) > 26
    # the observation is at the newest moment for which both topics had spoken: the last joint state
    # of each tick, as /tcp comes 1 ms later
    stamps = rows["stamp_ns"] - BEGIN
    assert np.all(np.diff(stamps) == 100 * MS)
    expected = 0.1 * stamps / 1e9
    np.testing.assert_allclose(rows["observation.joint_position"][:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(rows["observation.joint_position"][:, 1], -expected, atol=1e-6)
    # resampled to that moment, by the contract's own rule: between its neighbours
    np.testing.assert_allclose(
        rows["observation.tcp_pose"][1:, 0], 0.2 * stamps[1:] / 1e9, atol=1e-6
    )
    # the action is what the robot was told last before the next step
    steps = ~rows["final"]
    told = rows["action"][steps, 0]
    ends = (rows["action_stamp_ns"][steps] - BEGIN) / 1e9 + 0.1
    last = np.floor((ends - 0.002 + 1e-9) / 0.02) * 0.02
    np.testing.assert_allclose(told, 0.1 * (last + 0.02), atol=1e-6)
    assert rows["final"][-1] and rows["truncated"][-2] and not rows["terminated"].any()


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE", "STORAGE"])
def test_compressed_bags_are_read_or_named(tmp_path: Path, mode: str) -> None:
    storage = "MCAP" if mode == "STORAGE" else "SQLITE3"
    bag = write(
        tmp_path / "bag", motion(2.0), storage,
        compression=rosbag2.CompressionMode[mode],
    )  # fmt: skip
    if mode == "FILE":
        with pytest.raises(CodecError, match="compressed"):
            taken(tmp_path, bag)
        return
    report, found = taken(tmp_path, bag)
    assert len(found) == 1 and not report.skipped


def test_a_new_trajectory_takes_the_place_of_what_was_planned(tmp_path: Path) -> None:
    def trajectory(*points: tuple[int, float]) -> Any:
        t = STORE.types
        made = [
            t["trajectory_msgs/msg/JointTrajectoryPoint"](
                np.array([place, -place]), np.array([]), np.array([]), np.array([]),
                t["builtin_interfaces/msg/Duration"](*divmod(later_ns, 1_000_000_000)),
            )
            for later_ns, place in points
        ]  # fmt: skip
        return t["trajectory_msgs/msg/JointTrajectory"](header(0), list(JOINTS), made)

    # every 100 ms a place in 50 ms, and one in a second that never comes
    messages = [m for m in motion(3.0) if m[0] != "/commands"] + [
        ("/commands", BEGIN + k * 100 * MS + MS, trajectory((50 * MS, 0.01 * k), (1000 * MS, 1.5)))
        for k in range(30)
    ]
    kind = "trajectory_msgs/msg/JointTrajectory"
    action = {**CONTRACT["action"], "command": {"topic": "/commands", "type": kind}}
    bag = write(tmp_path / "bag", messages, types={"/commands": kind})
    _, found = taken(tmp_path, bag, {**CONTRACT, "action": action})
    rows = found[0].columns
    told = rows["action"][~rows["final"], 0]
    assert len(told) > 25
    np.testing.assert_allclose(np.diff(told), 0.01, atol=1e-6)


def test_changes_add_up_to_what_the_robot_was_told(tmp_path: Path) -> None:
    contract = {
        **CONTRACT,
        "action": {**CONTRACT["action"], "kind": "joint_delta", "low": -0.05, "high": 0.05},
    }
    _, found = taken(tmp_path, write(tmp_path / "bag", motion(3.0)), contract)
    rows = found[0].columns
    total = rows["action"][~rows["final"]].sum(axis=0)
    steps = int((~rows["final"]).sum())
    np.testing.assert_allclose(total, [0.01 * steps, -0.01 * steps], atol=1e-3)


def test_velocities_are_means_of_the_period(tmp_path: Path) -> None:
    messages = [m for m in motion(3.0) if m[0] != "/commands"]
    # told by turns 0.2 and 0.4 rad/s, each for 50 ms
    messages += [
        ("/commands", BEGIN + k * 50 * MS + 1, numbers([0.2 + 0.2 * (k % 2), 0.0]))
        for k in range(60)
    ]
    action = {
        "kind": "joint_velocity", "low": -1.0, "high": 1.0,
        "command": {"topic": "/commands", "type": "std_msgs/msg/Float64MultiArray"},
    }  # fmt: skip
    _, found = taken(tmp_path, write(tmp_path / "bag", messages), {**CONTRACT, "action": action})
    rows = found[0].columns
    np.testing.assert_allclose(rows["action"][~rows["final"]][2:-2, 0], 0.3, atol=1e-3)


def test_measured_actions_need_no_commands(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [m for m in motion(2.0) if m[0] != "/commands"])
    with pytest.raises(ConfigError, match="/commands was not recorded") as caught:
        taken(tmp_path, bag)
    assert "measured" in str(caught.value)
    _, found = taken(tmp_path, bag, actions="measured")
    rows = found[0].columns
    np.testing.assert_array_equal(rows["action"][:-1], rows["observation.joint_position"][1:])


def test_tool_twists_and_a_gripper_of_its_own(tmp_path: Path) -> None:
    t = STORE.types
    vector = t["geometry_msgs/msg/Vector3"]
    messages = [m for m in motion(2.0) if m[0] != "/commands"]
    for k in range(40):
        now = BEGIN + k * 50 * MS
        twist = t["geometry_msgs/msg/Twist"](vector(0.1, 0.0, 0.0), vector(0.0, 0.0, 0.0))
        messages.append(("/twist", now, t["geometry_msgs/msg/TwistStamped"](header(now), twist)))
        messages.append(("/hand", now, t["std_msgs/msg/Float64"](0.08 if k < 20 else 0.0)))
    action = {
        "kind": "ee_delta", "low": -0.05, "high": 0.05,
        "command": {"topic": "/twist", "type": "geometry_msgs/msg/TwistStamped"},
        "gripper": {"topic": "/hand", "type": "std_msgs/msg/Float64", "closed": 0.0, "opened": 0.08},
    }  # fmt: skip
    bag = write(
        tmp_path / "bag", messages,
        types={"/twist": "geometry_msgs/msg/TwistStamped", "/hand": "std_msgs/msg/Float64"},
    )  # fmt: skip
    _, found = taken(tmp_path, bag, {**CONTRACT, "action": action})
    rows = found[0].columns
    acted = rows["action"][~rows["final"]]
    np.testing.assert_allclose(acted[1:-1, 0], 0.01, atol=1e-6)
    assert acted[0, 6] == 1.0 and acted[-1, 6] == 0.0


def test_messages_of_any_type_are_read_back_by_the_mapping_that_writes_them(tmp_path: Path) -> None:
    """Definitions of a real driver: interbotix_xs_msgs/msg/JointGroupCommand."""
    text = "# The joint group\nstring name\n\n# Commands in rad, rad/s, A or %\nfloat32[] cmd\n"
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    name = "interbotix_xs_msgs/msg/JointGroupCommand"
    store.register(typesys.get_types_from_msg(text, name))
    command = store.types[name]
    messages = [
        (topic, t, command("arm", np.array(m.data, np.float32)) if topic == "/commands" else m)
        for topic, t, m in motion(2.0)
    ]
    action = {
        **CONTRACT["action"],
        "command": {
            "topic": "/commands", "type": name, "fields": {"name": "arm", "cmd": "values"}
        },
    }  # fmt: skip
    contract = {**CONTRACT, "action": action}
    bag = write(tmp_path / "bag", messages, types={"/commands": name}, store=store)
    _, found = taken(tmp_path, bag, contract)
    assert found[0].columns["action"][5, 0] > 0.05
    # a bag that was recorded before Iron has no definitions: folders of packages have them
    bare = tmp_path / "bare"
    shutil.copytree(write(tmp_path / "sql", messages, "SQLITE3", {"/commands": name}, store), bare)
    without_definitions(bare)
    with pytest.raises(SuiteError, match="no definition"):
        taken(tmp_path / "b", made(tmp_path / "b", bare), contract)
    package = tmp_path / "ws" / "interbotix_xs_msgs" / "msg"
    package.mkdir(parents=True)
    (package / "JointGroupCommand.msg").write_text(text)
    _, found = taken(made(tmp_path / "c"), bare, contract, definitions=[str(tmp_path / "ws")])
    assert len(found) == 1


def made(folder: Path, same: Path | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    return same or folder


def without_definitions(bag: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(next(bag.glob("*.db3")))) as db, db:
        db.execute("DROP TABLE message_definitions")


def text(value: str) -> Any:
    return STORE.types["std_msgs/msg/String"](value)


@pytest.mark.parametrize("by", ["marker", "topic", "service", "gap"])
def test_episodes_begin_and_end_where_the_options_say(tmp_path: Path, by: str) -> None:
    bag, options = _bag_of_two(tmp_path / "bag", by)
    report, found = taken(tmp_path, bag, **options)
    assert not report.skipped
    lengths = sorted(len(e) for e in found)
    assert len(lengths) == 2, lengths
    assert 9 <= lengths[0] <= 12 and 19 <= lengths[1] <= 22
    if by == "marker":
        by_length = sorted(found, key=len)
        assert [e.result.outcome for e in by_length] == [Outcome.SUCCESS, Outcome.FAILURE]
        assert by_length[0].columns["terminated"][-2] and by_length[0].columns["reward"][-2] == 1.0
        assert {e.task for e in found} == {"pick"}


def _bag_of_two(path: Path, by: str) -> tuple[Path, dict[str, Any]]:
    """One second, and two."""
    if by == "gap":
        both = [*motion(1.1), *motion(2.1, BEGIN + 3_000 * MS)]
        return write(path, both), {}
    both = list(motion(6.0))
    spans = [(1.0, 2.1), (3.0, 5.1)]
    at = [(BEGIN + round(s * 1000) * MS, BEGIN + round(e * 1000) * MS) for s, e in spans]
    store, types = STORE, {}
    if by == "marker":
        for (start, end), outcome in zip(at, ("good", "bad")):
            both += [("/episode", start, text("start")), ("/episode", end, text(outcome))]
        options: dict[str, Any] = {
            "start": {"topic": "/episode", "field": "data", "equals": "start"},
            "end": {"topic": "/episode", "field": "data", "equals": ["good", "bad"]},
            "success": {"topic": "/episode", "field": "data", "equals": "good"},
            "failure": {"topic": "/episode", "field": "data", "equals": "bad"},
            "task": "pick",
        }
    elif by == "topic":
        flag = STORE.types["std_msgs/msg/Bool"]
        for k in range(120):
            now = BEGIN + k * 50 * MS
            both.append(("/recording", now, flag(any(s <= now < e for s, e in at))))
        options = {
            "start": {"topic": "/recording", "field": "data"},
            "end": {"topic": "/recording", "field": "data", "equals": False},
        }
    else:
        store, event = _service_event()
        types = {"/episode/_service_event": SERVICE_EVENT, "/stop/_service_event": SERVICE_EVENT}
        for number, (start, end) in enumerate(at):
            for kind in (0, 1, 2):  # client and server both tell of one call, and of its answer
                both.append(("/episode/_service_event", start + kind, event(kind, number, start)))
                both.append(("/stop/_service_event", end + kind, event(kind, number, end)))
        options = {"start": {"service": "/episode"}, "end": {"service": "/stop"}}
    return write(path, both, types=types, store=store), options


def test_calls_in_a_bag_of_ros_itself_are_events() -> None:
    bag = Bag(Path(__file__).parent.parent / "data" / "services_of_rosbag2.mcap")
    events = Events(EventConfig(service="/add_two_ints"))
    for message in bag.messages([events.config.heard_on]):
        events.take(message.time_ns, bag.decode(message))
    assert len(events.times_ns) == 6  # of twelve messages: requests and answers


def _service_event() -> tuple[Any, Any]:
    """std_srvs/srv/Trigger_Event, as service introspection publishes it."""
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    answer = typesys.get_types_from_msg("bool success\nstring message\n", "t/msg/Answer")
    event = "service_msgs/ServiceEventInfo info\nuint8[<=1] request\nt/Answer[<=1] response\n"
    store.register({**answer, **typesys.get_types_from_msg(event, "t/msg/Event")})

    def made(kind: int, number: int, time_ns: int) -> Any:
        gid = np.arange(16, dtype=np.uint8)
        info = store.types["service_msgs/msg/ServiceEventInfo"](kind, stamp(time_ns), gid, number)
        answers = [store.types["t/msg/Answer"](True, "done")] if kind == 2 else []
        return store.types["t/msg/Event"](info, np.zeros(0, np.uint8), answers)

    return store, made


def test_images_come_by_the_contracts_cameras(tmp_path: Path) -> None:
    camera = {"plugin": "ros_topic", "params": {"topic": "/camera", "width": 8, "height": 6}}
    contract = {**CONTRACT, "cameras": {"devices": {"top": camera}, "max_skew_s": 0.06}}
    messages = list(motion(2.0))
    for k in range(40):
        now = BEGIN + k * 50 * MS
        rgb = np.full(12 * 16 * 3, k, np.uint8)
        image = STORE.types["sensor_msgs/msg/Image"](header(now, "top"), 12, 16, "rgb8", 0, 48, rgb)
        messages.append(("/camera", now + 20 * MS, image))
    _, found = taken(tmp_path, write(tmp_path / "bag", messages), contract)
    rows = found[0].columns
    images = rows["observation.image_top"]
    assert images.shape[1:] == (6, 8, 3)
    nearest = (rows["stamp_ns"] - BEGIN) / (50 * MS)
    assert np.abs(images[:, 0, 0, 0] - nearest).max() <= 0.7


def test_functions_made_for_types_change_no_bit_of_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the messages that the package rosbags makes."""
    camera = {"plugin": "ros_topic", "params": {"topic": "/camera", "width": 8, "height": 6}}
    contract = {**CONTRACT, "cameras": {"devices": {"top": camera}, "max_skew_s": 0.06}}
    rng, messages = np.random.default_rng(0), list(motion(3.0))
    for k in range(60):
        now, rgb = BEGIN + k * 50 * MS, rng.integers(0, 255, 12 * 16 * 3, np.uint8)
        image = STORE.types["sensor_msgs/msg/Image"](header(now, "top"), 12, 16, "rgb8", 0, 48, rgb)
        messages.append(("/camera", now + 20 * MS, image))
    bag = write_mcap(tmp_path / "bag.mcap", messages)
    columns = []
    for other in (False, True):
        if other:

            def refused(*_: object) -> None:
                raise NotSupported

            monkeypatch.setattr(Decoders, "of", refused)
        folder = tmp_path / str(other)
        folder.mkdir()
        report, found = taken(folder, bag, contract)
        assert not report.skipped and len(found) == 1
        columns.append(found[0].columns)
    ours, theirs = columns
    assert ours.keys() == theirs.keys()
    for name, rows in ours.items():
        assert rows.dtype == theirs[name].dtype and rows.tobytes() == theirs[name].tobytes(), name


def test_rewards_of_a_topic(tmp_path: Path) -> None:
    messages = list(motion(2.0))
    number = STORE.types["std_msgs/msg/Float64"]
    messages += [("/reward", BEGIN + k * 100 * MS + 5, number(float(k))) for k in range(20)]
    _, found = taken(tmp_path, write(tmp_path / "bag", messages), reward={"topic": "/reward"})
    rows = found[0].columns
    step = ~rows["final"]
    began = np.round((rows["action_stamp_ns"][step] - BEGIN) / (100 * MS) + 0.49)
    assert np.abs(rows["reward"][step] - began).max() <= 1.0
    assert rows["reward"][step].sum() > 100


def test_an_episode_comes_once_and_an_import_continues(tmp_path: Path) -> None:
    bag, options = _bag_of_two(tmp_path / "bag", "marker")
    taken(tmp_path, bag, **options)
    report, found = taken(tmp_path, bag, **options)
    assert report.episodes == 0 and report.unread == 2 and len(found) == 2
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)
    report, found = taken(tmp_path, copy, **options)
    assert report.episodes == 0 and report.duplicates == 2 and len(found) == 2


def test_a_bag_that_a_killed_recorder_left_is_read_up_to_where_it_breaks_off(
    tmp_path: Path,
) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    file = write_mcap(bag / "bag_0.mcap", motion(20.0))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with closing(FORMAT.open(bag, {"robot": robot_file(tmp_path)})) as source:
        (note,) = source.describe().notes
        assert "breaks off after" in note and "a recorder that was killed" in note
    report, found = taken(tmp_path, bag)
    assert not report.skipped and 100 < sum(map(len, found)) < 170


def test_a_bag_that_breaks_off_before_its_first_piece_ends_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    bag = write(tmp_path / "bag", motion(3.0))  # all of it in one piece
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    with pytest.raises(CodecError, match="no messages; .*breaks off after"):
        taken(tmp_path, bag)


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3", "two files"])
def test_what_was_recorded_twice_as_a_clock_was_set_back_is_cut_out(
    tmp_path: Path, storage: str
) -> None:
    """By 3 s after the second of three motions: by their times those of the second and what followed lie between each
    other. What lies before and behind belongs to one motion each."""
    contract = {**CONTRACT, "timing": {"max_age_s": 0.2}}
    before = [*motion(2.0), *motion(4.0, BEGIN + 10_000 * MS)]
    after = [*motion(4.0, BEGIN + 11_000 * MS), *motion(2.0, BEGIN + 20_000 * MS)]
    late = motion(
        0.01, BEGIN + 20_100 * MS + 3
    )  # a message of each topic that comes late is nothing
    after = [*after[:-300], *late, *after[-300:]]
    bag = tmp_path / "bag"
    if storage == "two files":
        bag.mkdir()
        write_mcap(bag / "b.mcap", before)
        write_mcap(bag / "a.mcap", after, None)
    else:
        write(bag, [*before, *after], storage, in_order=False)
    report, found = taken(tmp_path, bag, contract)
    assert not report.skipped
    assert [len(one) for one in found] == pytest.approx([19, 9, 9, 19], abs=2)
    for one, start_ms, first_ms, last_ms in zip(
        found[1:3], (10_000, 11_000), (10_000, 14_000), (11_000, 15_000), strict=True
    ):
        rows, at_ms = one.columns, (one.columns["stamp_ns"] - BEGIN) / MS
        assert first_ms <= at_ms[0] and at_ms[-1] < last_ms and np.all(np.diff(at_ms) == 100)
        turned = 1e-4 * (at_ms - start_ms)  # 0.1 rad/s, of the motion that it is a part of
        positions = rows["observation.joint_position"]
        assert positions[:, 0] == pytest.approx(turned, abs=2e-3)
        assert rows["truncated"][-2] and not rows["terminated"].any()
    assert found[1].result.reason == "imported: what follows was recorded twice"
    assert found[2].result.reason == "imported: silence of /joint_states"
    (note,) = [note for note in report.notes if "recorded twice" in note]
    assert "2.99 s from 2023-11-14 22:13:31.000+00:00" in note
    with closing(FORMAT.open(bag, {})) as source:  # without a robot
        assert any("recorded twice" in note for note in source.describe().notes)


def test_a_bag_that_is_one_episode_gives_its_parts_before_and_behind_a_clock_that_was_set_back(
    tmp_path: Path,
) -> None:
    """And a success at its end is that of the last part alone. One whose whole time was recorded twice gives none."""
    said = [("/episode", BEGIN + 6_990 * MS, STORE.types["std_msgs/msg/String"]("good"))]
    before, after = [*motion(6.0)], [*motion(5.0, BEGIN + 2_000 * MS)]
    bag = write(tmp_path / "bag", [*before, *after, *said], in_order=False)
    success = {"topic": "/episode", "field": "data", "equals": "good"}
    report, found = taken(tmp_path, bag, success=success)
    assert not report.skipped and [len(one) for one in found] == pytest.approx([19, 9], abs=2)
    assert [one.result.outcome for one in found] == [Outcome.UNKNOWN, Outcome.SUCCESS]
    assert found[0].columns["reward"].sum() == 0.0 and found[1].columns["terminated"][-2]
    again = write(tmp_path / "again", [*motion(3.0), *motion(3.0)], in_order=False)
    with StoreWriter(tmp_path / "other") as store:
        report = import_data(again, store, options={"robot": robot_file(tmp_path)})
    assert episodes(tmp_path / "other") == []
    (skipped,) = report.skipped
    assert "recorded twice" in skipped and "nobody can tell" in skipped


def test_damage_within_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    contract = {**CONTRACT, "timing": {"max_age_s": 0.2}}
    messages = [*motion(1.1), *motion(2.1, BEGIN + 3_000 * MS)]
    bad = [(t, n, joint_state(n, [np.nan, 0.0])) if t == "/joint_states" and n == BEGIN + 500 * MS
           else (t, n, m) for t, n, m in messages]  # fmt: skip
    report, found = taken(tmp_path, write(tmp_path / "bad", bad), contract)
    assert len(found) == 1 and len(report.skipped) == 1
    assert "joint_states" in report.skipped[0] and "after its start" in report.skipped[0]


def test_a_bag_in_sqlite_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", motion(3.0), "SQLITE3")
    (file,) = bag.glob("*.db3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CodecError, match=r"bag.db3.*malformed.*copied in part"):
        taken(tmp_path, bag)


@pytest.mark.parametrize("fault", ["other type", "other frame", "no joints", "backwards", "empty"])
def test_bad_bags_say_what_is_wrong(tmp_path: Path, fault: str) -> None:
    messages, types = list(motion(2.0)), {}
    if fault == "other type":
        messages = [(t, n, text("x") if t == "/tcp" else m) for t, n, m in messages]
        types = {"/tcp": "std_msgs/msg/String"}
        expected = "/tcp is std_msgs/msg/String"
    elif fault == "other frame":
        for topic, _, message in messages:
            if topic == "/tcp":
                object.__setattr__(message.header, "frame_id", "map")
        expected = "map"
    elif fault == "no joints":
        messages = [
            (t, n, joint_state(n, [0.0, 0.0], ("a", "b")) if t == "/joint_states" else m)
            for t, n, m in messages
        ]
        expected = "lift"
    elif fault == "backwards":
        for topic, time_ns, message in messages:
            if topic == "/joint_states":
                object.__setattr__(message.header, "stamp", stamp(2 * BEGIN - time_ns))
        expected = "/joint_states"
    else:
        messages, expected = messages[:1], "no"
    bag = write(tmp_path / "bag", messages, types=types)
    try:
        report, found = taken(tmp_path, bag)
        said = " ".join(report.skipped)
        assert not found
    except SuiteError as error:
        said = str(error)
    assert expected in said, said


def test_a_bag_is_checked_as_it_would_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "bag", motion(4.0))
    assert main(["check", str(bag), "--robot", robot_file(tmp_path)]) in (0, 1)
    assert "1 episode looked at" in capsys.readouterr().out
    assert main(["check", str(bag)]) == 2
    assert "--robot FILE" in capsys.readouterr().out


def test_without_a_robot_a_bag_is_its_topics(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", motion(2.0))
    with closing(FORMAT.open(bag, {})) as source:
        fields = source.describe().fields
        assert "100" in fields["/joint_states"].note and fields["/tcp"].dtype.endswith(
            "PoseStamped"
        )
        with pytest.raises(CodecError, match="contract"):
            source.episodes()


@pytest.mark.parametrize("left", ["cut off", "without chunks"])
def test_a_file_without_an_index_is_walked_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    whole = write_mcap(tmp_path / "whole.mcap", motion(6.0))
    file = tmp_path / "bag.mcap"
    if left == "cut off":
        file.write_bytes(whole.read_bytes()[: whole.stat().st_size * 4 // 5])
    else:
        file.write_bytes(write_mcap(tmp_path / "loose.mcap", motion(6.0), None).read_bytes())
    read: list[int] = []
    walk, look = parts.McapPart._walk, parts.McapPart._look_into

    def counted(part: Any, piece: Any, content: bytes) -> None:
        read.append(piece.start)
        look(part, piece, content)

    monkeypatch.setattr(parts.McapPart, "_look_into", counted)
    monkeypatch.setattr(
        parts.McapPart, "_walk", lambda part, why: (read.append(-1), walk(part, why))[1]
    )
    bag = Bag(file)
    assert bool(bag.parts[0].damage) == (left == "cut off")
    found = list(bag.messages(["/joint_states"]))
    assert len(found) == len(bag.times(["/joint_states"])["/joint_states"]) > 300
    expected = list(Bag(whole).messages(["/joint_states"]))[: len(found)]
    assert [(m.time_ns, bytes(m.data)) for m in found] == [
        (m.time_ns, bytes(m.data)) for m in expected
    ]
    for k in (0, 100, 300):
        some = list(bag.messages(["/joint_states"], found[k].time_ns, found[k].time_ns + 50 * MS))
        assert [m.time_ns for m in some] == [m.time_ns for m in found[k : k + 5]]
    assert not list(bag.messages(["/joint_states"], found[-1].time_ns + 10**9))
    assert sorted(read) == sorted(set(read)) and -1 in read  # each piece once, when it was opened


def test_of_an_indexed_file_only_what_is_asked_for_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_mcap(tmp_path / "bag.mcap", motion(6.0))
    unpacked: list[int] = []
    unpack = parts.McapPart._unpack
    monkeypatch.setattr(
        parts.McapPart, "_unpack",
        lambda part, piece, stream: (unpacked.append(piece.start), unpack(part, piece, stream))[1],
    )  # fmt: skip
    bag = Bag(file)
    times = bag.times(list(bag.types))
    assert len(times["/joint_states"]) == 600 and np.all(np.diff(times["/joint_states"]) == 10 * MS)
    assert not unpacked
    some = list(bag.messages(["/tcp"], BEGIN + 3_000 * MS, BEGIN + 3_100 * MS))
    assert len(some) == 10 and 0 < len(unpacked) <= 3
    assert list(bag.messages(["/tcp"], BEGIN + 3_000 * MS, BEGIN + 3_100 * MS)) == some
    assert len(unpacked) == len(set(unpacked))  # the newest pieces stay


def test_what_stays_unpacked_is_bounded_for_all_files_of_a_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    keep = parts.UnpackedPieces.keep

    def noting(pieces: Any, *args: Any) -> None:
        keep(pieces, *args)
        kept.append(pieces.nbytes)

    monkeypatch.setattr(parts, "_KEPT_BYTES", 40_000)
    monkeypatch.setattr(parts.UnpackedPieces, "keep", noting)
    (tmp_path / "bag").mkdir()
    for k in range(4):
        write_mcap(tmp_path / "bag" / f"bag_{k}.mcap", motion(2.0, BEGIN + k * 3_000 * MS))
    assert len(list(Bag(tmp_path / "bag").messages(["/joint_states"]))) > 700
    assert len(kept) >= 8 and 0 < max(kept) <= 40_000


def test_damaged_messages_outside_of_chunks_are_left_out_and_said(tmp_path: Path) -> None:
    file = write_mcap(tmp_path / "bag.mcap", motion(2.0), None)
    record = bytes([5]) + (3).to_bytes(8, "little") + bytes(3)  # a message without a whole head
    end = file.read_bytes().rindex(bytes([15]) + (4).to_bytes(8, "little"))  # the end of the data
    data = file.read_bytes()
    file.write_bytes(data[:end] + record + data[end:])
    assert any("left out" in note for note in Bag(file).notes)


def test_a_piece_that_is_damaged_takes_its_episode_only(tmp_path: Path) -> None:
    messages = [m for k in range(4) for m in motion(2.5, BEGIN + k * 10_000 * MS)]
    file = write_mcap(tmp_path / "bag.mcap", messages)
    piece = next(p for p in Bag(file).parts[0]._pieces if p.first_ns > BEGIN + 11_000 * MS)
    data = bytearray(file.read_bytes())
    data[piece.start + piece.length // 2] ^= 255
    file.write_bytes(data)
    report, found = taken(tmp_path, file)
    assert len(found) == 3 and len(report.skipped) == 1
    assert "bag.mcap" in report.skipped[0]
    # and without its index: what can be read of the others is taken, and it is said
    file.write_bytes(data[:-5000])
    with closing(FORMAT.open(file, {"robot": robot_file(tmp_path)})) as source:
        assert any("left out" in note for note in source.describe().notes)
        assert len(source.episodes()) >= 3


def arm_and_cameras(seconds: float, start_ns: int = BEGIN) -> Iterator[tuple[str, int, Any]]:
    """What the drivers of an arm under ros2_control and of two cameras publish; the joints of the
    messages are in the order of their names, those of the controller in that of the arm."""
    import cv2

    t = STORE.types
    names, order = ["pan", "lift", "bend"], [2, 1, 0]
    vector, duration = t["geometry_msgs/msg/Vector3"], t["builtin_interfaces/msg/Duration"]
    for k in range(round(seconds * 100)):
        now, s = start_ns + k * 10 * MS, k * 0.01
        place = 0.2 * np.sin(s + np.arange(3))
        yield (
            "/joint_states",
            now,
            t["sensor_msgs/msg/JointState"](
                header(now), [names[i] for i in order], place[order], np.zeros(3), np.array([])
            ),
        )
        yield "/tcp_pose_broadcaster/pose", now, pose(now, 0.1 * s)
        force = t["geometry_msgs/msg/Wrench"](vector(1.0, 2.0, 3.0), vector(0.0, 0.0, 0.0))
        yield "/ft/wrench", now, t["geometry_msgs/msg/WrenchStamped"](header(now, "tool0"), force)
        if k % 10 == 0:
            point = t["trajectory_msgs/msg/JointTrajectoryPoint"](
                0.2 * np.sin(s + 0.1 + np.arange(3)), np.array([]), np.array([]), np.array([]),
                duration(0, 100 * MS),
            )  # fmt: skip
            yield (
                "/arm_controller/joint_trajectory",
                now,
                t["trajectory_msgs/msg/JointTrajectory"](header(0, ""), names, [point]),
            )
            yield (
                "/wrist/color/image_raw",
                now,
                t["sensor_msgs/msg/Image"](
                    header(now, "wrist_optical"),
                    24,
                    32,
                    "rgb8",
                    0,
                    96,
                    np.full(2304, k % 256, np.uint8),
                ),
            )
            _, jpeg = cv2.imencode(".jpg", np.full((60, 100, 3), 50, np.uint8))
            yield (
                "/scene/image_raw/compressed",
                now,
                t["sensor_msgs/msg/CompressedImage"](
                    header(now, "scene_optical"), "jpeg", jpeg.reshape(-1)
                ),
            )


ARM_TYPES = {
    "/tcp_pose_broadcaster/pose": "geometry_msgs/msg/PoseStamped",
    "/ft/wrench": "geometry_msgs/msg/WrenchStamped",
    "/arm_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "/wrist/color/image_raw": "sensor_msgs/msg/Image",
    "/scene/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
}


def proposed(bag: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    with closing(FORMAT.open(bag, {})) as source:
        description = source.describe()
    return yaml.safe_load(description.contract) or {}, description.notes


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_suggests_a_contract_by_which_it_is_imported(tmp_path: Path, storage: str) -> None:
    messages = [*arm_and_cameras(3.0), *arm_and_cameras(2.0, BEGIN + 8_000 * MS)]
    bag = write(tmp_path / "bag", messages, storage, types=ARM_TYPES)
    content, notes = proposed(bag)
    contract = content["robot"]["params"]
    assert set(contract["observation"]) == {
        "joint_position",
        "joint_velocity",
        "tcp_pose",
        "wrench",
    }
    assert contract["observation"]["wrench"]["frame"] == "tool0"
    assert sorted(contract["joints"]) == ["bend", "lift", "pan"]
    assert contract["action"]["command"]["topic"] == "/arm_controller/joint_trajectory"
    # as far as targets went in a period, and 10 % more: 0.2 rad, 0.1 s
    assert contract["action"]["high"] == pytest.approx(0.02 * 1.1, abs=0.0011)
    cameras = contract["cameras"]["devices"]
    assert cameras["wrist"]["params"] == {
        "topic": "/wrist/color/image_raw", "width": 32, "height": 24, "frame": "wrist_optical"
    }  # fmt: skip
    assert cameras["scene"]["params"]["height"] == 77  # of 128, as 60 of 100
    assert any("joint_velocity_limits" in note for note in notes)  # what nobody can see is asked
    report, found = taken(tmp_path, bag, contract)
    assert not report.skipped and len(found) == 2
    rows = found[0].columns
    assert rows["observation.image_scene"].shape[1:] == (77, 128, 3)
    steps = ~rows["final"]
    joints = [contract["joints"].index(name) for name in ("pan", "lift", "bend")]
    went = rows["action"][steps][:, joints]
    assert np.abs(went).max() <= contract["action"]["high"]
    np.testing.assert_array_equal(rows["action"], rows["proposed_action"])  # nothing was cut


def test_what_a_contract_cannot_be_made_of_is_said(tmp_path: Path) -> None:
    content, notes = proposed(write(tmp_path / "text", [("/episode", BEGIN, text("x"))]))
    assert not content and "JointState" in " ".join(notes)
    # led by hand: there are no commands
    bag = write(tmp_path / "bag", [m for m in motion(2.0) if m[0] != "/commands"])
    content, notes = proposed(bag)
    assert any("actions: measured" in note for note in notes)
    _, found = taken(tmp_path, bag, content["robot"]["params"], actions="measured")
    assert len(found) == 1 and len(found[0]) > 15


MCAP_FORMS = [
    {}, {"compression": "LZ4"}, {"compression": "NONE"}, {"use_chunking": False},
    {"index_types": "NONE"}, {"index_types": "CHUNK"}, {"index_types": "MESSAGE"},
    {"repeat_channels": False, "repeat_schemas": False}, {"use_statistics": False},
    {"use_summary_offsets": False}, {"enable_crcs": False},
]  # fmt: skip


@pytest.mark.parametrize("form", MCAP_FORMS, ids=str)
def test_every_form_that_the_mcap_library_writes_is_read_as_it_reads_it(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    from mcap import writer
    from mcap.reader import NonSeekingReader

    options = {"chunk_size": 4096, **form}
    for name, kind in (("compression", "CompressionType"), ("index_types", "IndexType")):
        if name in options:
            options[name] = getattr(writer, kind)[options[name]]
    path = tmp_path / "bag.mcap"
    with open(path, "wb") as stream:
        made = writer.Writer(stream, **options)
        made.start(profile="ros2")
        text_of, _ = STORE.generate_msgdef("std_msgs/msg/String", ros_version=2)
        schema = made.register_schema("std_msgs/msg/String", "ros2msg", text_of.encode())
        channels = [made.register_channel(f"/t{i}", "cdr", schema) for i in range(3)]
        other = made.register_channel("/json", "json", schema)  # of another coding: left out
        rng = np.random.default_rng(0)
        for k in range(400):
            time_ns = BEGIN + int(rng.integers(0, 200)) * MS + k * 10 * MS  # not in order
            data = bytes(STORE.serialize_cdr(text(f"{k}" * 20), "std_msgs/msg/String"))
            made.add_message(other if k % 7 == 0 else channels[k % 3], time_ns, data, time_ns)
        made.finish()
    with open(path, "rb") as stream:
        expected = [
            (channel.topic, message.log_time, message.data)
            for _, channel, message in NonSeekingReader(stream).iter_messages()
            if channel.topic != "/json"
        ]
    bag = Bag(path)
    assert not bag.notes
    found = [(m.topic, m.time_ns, bytes(m.data)) for m in bag.messages(["/t0", "/t1", "/t2"])]
    assert [m[1] for m in found] == sorted(m[1] for m in expected)
    assert sorted(found) == sorted(expected)
    times = bag.times(["/t1"])["/t1"]
    assert times.tolist() == [time_ns for topic, time_ns, _ in found if topic == "/t1"]
    some = list(bag.messages(["/t0"], BEGIN + 1000 * MS, BEGIN + 2000 * MS))
    assert [m.time_ns for m in some] == [
        t for topic, t, _ in found if topic == "/t0" and BEGIN + 1000 * MS <= t < BEGIN + 2000 * MS
    ]
    assert bag.decode(some[0]).data.isdigit()


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_of_a_bag_of_many_files_only_those_that_overlap_are_open_at_once(
    tmp_path: Path, storage: str
) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    expected: list[tuple[int, str]] = []
    for k in range(12):
        # each begins 10 ms before the one before it in time ends; the last in time is the first by name
        messages = list(motion(0.1, BEGIN + (11 - k) * 90 * MS))
        expected += [(time_ns, topic) for topic, time_ns, _ in messages]
        if storage == "MCAP":
            write_mcap(bag / f"bag_{k:02d}.mcap", messages, 1024)
        else:
            write(tmp_path / f"one_{k}", messages, storage)
            (file,) = (tmp_path / f"one_{k}").glob("*.db3")
            file.rename(bag / f"bag_{k:02d}.db3")
    reading, most = Bag(bag), 0
    found = []
    for message in reading.messages(list(reading.types)):
        found.append((message.time_ns, message.topic))
        opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        most = max(most, len({name for name in opened if str(bag) in name}))
    assert [time_ns for time_ns, _ in found] == sorted(time_ns for time_ns, _ in found)
    assert sorted(found) == sorted(expected)
    assert 1 <= most <= 2
    middle = BEGIN + 500 * MS
    some = [m.time_ns for m in reading.messages(["/joint_states"], middle, middle + 100 * MS)]
    assert some == sorted(
        t for t, topic in expected if topic == "/joint_states" and 0 <= t - middle < 100 * MS
    )


def test_a_bag_in_mcap_says_which_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_mcap(tmp_path / "bag.mcap", motion(0.1))
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    with pytest.raises(MissingLibrary, match="pip install mcap"):
        Bag(file)
