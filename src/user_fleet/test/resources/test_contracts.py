"""Robots in a ROS graph, known by their contracts."""

from pathlib import Path

import yaml

from user_fleet.resources.contracts import Contract, offers, read_contracts

JOINTS = "pkg/msg/JointState"
TRAJECTORY = "pkg/msg/JointTrajectory"
FOLLOW = "pkg/action/FollowJointTrajectory"


def _contract(name: str, topics: dict[str, str], services: tuple[str, ...] = ()) -> Contract:
    return Contract(name, Path(f"{name}.yaml"), topics, services)


UR = _contract(
    "ur",
    {"/joint_states": JOINTS, "/tcp": "pkg/msg/PoseStamped", "/scaled/traj": TRAJECTORY},
    ("/zero",),
)
PANDA = _contract("panda", {"/joint_states": JOINTS, "/arm/follow": FOLLOW})
KINOVA = _contract("kinova", {"/joint_states": JOINTS, "/twist": "pkg/msg/Twist"})
ALL = [UR, PANDA, KINOVA]
WHOLE_UR = {
    "/joint_states": [JOINTS],
    "/tcp": ["pkg/msg/PoseStamped"],
    "/scaled/traj": [TRAJECTORY],
}


def test_a_robot_whose_topics_are_all_there_is_offered():
    (offer,) = offers(ALL, WHOLE_UR, ["/zero"])
    assert (offer.name, offer.why_incomplete().text) == ("ur", "")


def test_what_is_missing_is_said():
    (offer,) = offers(ALL, {**WHOLE_UR, "/tcp": ["pkg/msg/Pose"]})
    assert offer.name == "ur"
    text = offer.why_incomplete().text
    assert "/tcp as pkg/msg/PoseStamped (it is pkg/msg/Pose)" in text
    assert "service /zero" in text


def test_joint_states_alone_are_no_robot_that_is_known():
    assert offers(ALL, {"/joint_states": [JOINTS], "/chatter": ["pkg/msg/String"]}) == []
    assert offers(ALL, {}) == []


def test_robots_in_namespaces_are_offered_apart():
    graph = {f"{space}{name}": kinds for space in ("/left", "/cell/b") for name, kinds in WHOLE_UR.items()}  # fmt: skip
    found = offers(ALL, graph, ["/left/zero", "/cell/b/zero"])
    assert [offer.name for offer in found] == ["ur@cell.b", "ur@left"]
    assert not any(offer.missing for offer in found)


def test_an_action_is_known_by_its_feedback():
    feedback = {"/arm/follow/_action/feedback": [f"{FOLLOW}_FeedbackMessage"]}
    (offer,) = offers(ALL, {"/joint_states": [JOINTS], **feedback})
    assert (offer.name, offer.missing) == ("panda", ())


def test_contracts_are_read_from_robot_files_and_bad_ones_are_named(tmp_path):
    params = {
        "observation": {"q": {"topic": "/joint_states", "type": JOINTS}},
        "action": {"command": {"topic": "arm/follow", "type": FOLLOW}},
        "home": [{"service": "/go"}],
    }
    texts = {
        "arm": yaml.safe_dump({"robot": {"plugin": "ros2", "params": params}}),
        "sim": yaml.safe_dump({"robot": {"plugin": "mujoco"}}),
        "odd": "[",
    }
    files = {name: tmp_path / f"{name}.yaml" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    (found,), (problem,) = read_contracts(files)
    assert found.topics == {"/joint_states": JOINTS, "/arm/follow": FOLLOW}
    assert found.services == ("/go",)
    assert problem.what.endswith("odd.yaml")
