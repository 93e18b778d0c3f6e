"""The inference node as a process: it answers what it can read, with the newest version."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
sys.path.insert(0, str(Path(__file__).parent))

from acting_world import Process, Witness  # noqa: E402

from user_comm import topics  # noqa: E402
from user_comm.converters import RobotDescription  # noqa: E402
from user_comm.policy_blobs import PolicyServer, ZenohConfig, open_session  # noqa: E402
from user_core.codecs.observation import encode_observation  # noqa: E402
from user_core.policies import policy_config_hash  # noqa: E402
from user_core.specs import ActionKind, ArraySpec, RobotSpec  # noqa: E402
from user_core.types import ActionChunk, Observation, PolicyVersion  # noqa: E402

pytestmark = pytest.mark.ros
SPEC = RobotSpec(
    "arm",
    {"x": ArraySpec((2,), low=-1.0, high=1.0), "image_front": ArraySpec((48, 48, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
    ActionKind.EE_DELTA,
    period_s=0.05,
)
HASH = policy_config_hash("linear_gaussian", {}, SPEC)


def version(number: int, offset: float) -> PolicyVersion:
    """Its actions are ``offset``, whatever is seen."""
    gain = np.zeros((2, 3))
    gain[:, 2] = offset
    return PolicyVersion(number, {"gain": gain, "std": np.zeros(2)}, HASH, created_ns=1)


def seen(number: int, **changes: Any) -> Observation:
    arrays = {
        "x": np.zeros(2, np.float32),
        "image_front": np.full((48, 48, 3), number % 256, np.uint8),
    }
    coded = encode_observation({**arrays, **changes}, "zstd")
    return Observation(coded, stamp_ns=time.time_ns(), sequence=number, episode=1)


def test_it_answers_with_the_newest_version_and_refuses_what_is_not_of_its_robot(
    tmp_path: Path, ros_domain: int
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
    witness = Witness()
    node = Process(
        "user_actor.nodes.inference",
        {
            "policy": {"plugin": "linear_gaussian"},
            "before_first_version": "wait",
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        },
        tmp_path,
    )
    answers: list[ActionChunk] = []
    witness.hear(topics.REMOTE_ACTION, answers.append)
    ask, announce = witness.speaker(topics.REMOTE_OBSERVATION), witness.speaker(topics.POLICY)
    config = ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)
    asked: dict[int, int] = {}

    def answered(wanted: int) -> bool:
        observation = seen(len(asked) + 1)
        asked[observation.sequence] = observation.stamp_ns
        ask(observation)
        time.sleep(0.02)
        return bool(answers) and answers[-1].policy_version == wanted

    try:
        with (
            open_session(config) as session,
            PolicyServer(session, "user/policy", announce) as server,
        ):
            node.start()
            witness.speaker(topics.ROBOT_SPEC)(RobotDescription(SPEC, "task", "base", stamp_ns=1))
            for number, offset in ((1, 0.25), (2, -0.5)):
                server.publish(version(number, offset))
                witness.until(lambda n=number: answered(n), f"an answer of version {number}")
                assert answers[-1].actions_ta.tolist() == [[offset, offset]]
            for chunk in answers:  # each names its observation
                assert asked[chunk.sequence] == chunk.start_ns
                assert chunk.period_ns == 50_000_000
            # what is no observation of this robot is refused, and the node goes on
            count = len(answers)
            ask(seen(7001, image_front=np.zeros((64, 64, 3), np.uint8)))
            ask(replace(seen(7002), arrays={"x": np.zeros(2, np.float32)}))
            witness.until(lambda: "was not answered" in node.log, "the refusal is said")
            assert not any(chunk.sequence > 7000 for chunk in answers[count:])
            witness.until(lambda: answered(2) and len(answers) > count, "it answers again")
    finally:
        node.close()
        witness.close()
