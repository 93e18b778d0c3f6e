"""The inference node as a process: it answers what it can read, with the newest version."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from user_comm import topics
from user_comm.converters import RobotDescription
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.server import PolicyServer
from user_core import fakes
from user_core.codecs.images import encode_observation
from user_core.config import from_mapping
from user_core.policies import policy_config_hash
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import ActionChunk, Observation, PolicyVersion
from user_core.weight_plane.offers import Offers
from user_hal.node_configs import HalConfig
from user_hal.robot_file import build_robot, spec_of
from user_testing.ports import free_endpoint
from user_testing.processes import NodeProcess
from user_testing.waiting import wait_until
from user_testing.worlds.acting import GraphProbe

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


def at(topic: topics.Topic, robot: str) -> topics.Topic:
    return replace(topic, name=f"/{robot}/{topic.name}")


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
    endpoint = free_endpoint()
    probe = GraphProbe()
    node = NodeProcess(
        "user_actor.nodes.inference",
        {
            "policy": {"plugin": "linear_gaussian"},
            "before_first_version": "wait",
            "compile": True,  # there is nothing of torch in it: it acts as it is, and that is said
            "cuda_graphs": "always",
            "precision": "bfloat16",
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        },
        tmp_path,
    )
    answers: list[ActionChunk] = []
    probe.hear(topics.REMOTE_ACTION, answers.append)
    ask, announce = probe.speaker(topics.REMOTE_OBSERVATION), probe.speaker(topics.POLICY)
    config = ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)
    asked: dict[int, int] = {}

    def answered(wanted: int) -> bool:
        observation = seen(len(asked) + 1)
        asked[observation.sequence] = observation.stamp_ns
        ask(observation)
        return bool(answers) and answers[-1].policy_version == wanted

    try:
        with (
            open_session(config) as session,
            Offers() as offers,
            PolicyServer(session, "user/policy", announce, offer=offers.offer) as here,
            PolicyServer(session, "apart/policy", announce) as elsewhere,
        ):
            node.start()
            probe.speaker(topics.ROBOT_SPEC)(RobotDescription(SPEC, "task", "base", stamp_ns=1))
            for number, offset, server, way in (
                (1, 0.25, elsewhere, "network: no learner of this host offers it"),
                (2, -0.5, here, "memory"),
            ):
                server.publish(version(number, offset))
                wait_until(
                    lambda n=number: answered(n), f"an answer of version {number}", period_s=0.02
                )
                assert answers[-1].actions_ta.tolist() == [[offset, offset]]
                assert f"policy versions come by way of {way}" in node.log
            assert elsewhere.served_bytes > 0 == here.served_bytes
            assert "not compiled: policy" in node.log
            assert "cuda_graphs has no effect: the policy acts on cpu" in node.log
            assert "precision has no effect: LinearGaussianPolicy acts with numpy" in node.log
            for chunk in answers:  # each names its observation
                assert asked[chunk.sequence] == chunk.start_ns
                assert chunk.period_ns == 50_000_000
            # what is no observation of this robot is refused, and the node goes on
            count = len(answers)
            ask(seen(7001, image_front=np.zeros((64, 64, 3), np.uint8)))
            ask(replace(seen(7002), arrays={"x": np.zeros(2, np.float32)}))
            probe.until(lambda: "was not answered" in node.log, "the refusal is said")
            assert not any(chunk.sequence > 7000 for chunk in answers[count:])
            wait_until(
                lambda: answered(2) and len(answers) > count, "it answers again", period_s=0.02
            )
    finally:
        node.close()
        probe.close()


def test_one_policy_acts_for_several_robots_and_says_who_is_not_its_own(
    tmp_path: Path, ros_domain: int
) -> None:
    endpoint = free_endpoint()
    probe = GraphProbe()
    names = ("arm0", "arm1", "arm2")
    node = NodeProcess(
        "user_actor.nodes.inference",
        {
            "policy": {
                "plugin": "tanh_gaussian",
                "params": {"ignored_observations": ["image_front"]},
            },
            "robots": list(names),
            "batching": {"wait_s": 0.05, "budget_s": 10.0},
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        },
        tmp_path,
        namespace="/learner",
    )
    answers: dict[str, list[ActionChunk]] = {name: [] for name in names}
    refusals: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        probe.hear(at(topics.REMOTE_ACTION, name), answers[name].append)
        probe.hear(
            at(topics.REMOTE_REFUSAL, name), lambda m, n=name: refusals[n].append(m.data)
        )  # fmt: skip
    ask = {n: probe.speaker(at(topics.REMOTE_OBSERVATION, n)) for n in names}
    say = {n: probe.speaker(at(topics.ROBOT_SPEC, n)) for n in names}
    other = replace(SPEC, action=ArraySpec((3,), low=-1.0, high=1.0))
    number = 0

    def asked(*who: str) -> None:
        nonlocal number
        number += 1
        for name in who:
            ask[name](seen(number))

    def all_answered() -> bool:
        asked("arm0", "arm1")
        return bool(answers["arm0"]) and bool(answers["arm1"])

    def refused() -> bool:
        asked("arm2", "arm0")
        return bool(refusals["arm2"])

    config = ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)
    try:
        with open_session(config):
            node.start()
            for name in reversed(names):  # the odd one first
                spec = other if name == "arm2" else SPEC
                say[name](RobotDescription(spec, "task", "base", stamp_ns=1))
            wait_until(all_answered, "both are answered", period_s=0.02)
            wait_until(refused, "the other one is told", period_s=0.02)
            assert "equal specs" in refusals["arm2"][0] and not answers["arm2"]
            assert {len(chunk.actions_ta) for chunk in answers["arm0"]} == {1}
            assert not refusals["arm0"] and not refusals["arm1"]
            assert "has room for 3 of 3 robots" in node.log  # there are no more that could come
            made = node.log.count("has room for")
            say["arm2"](RobotDescription(SPEC, "task", "base", stamp_ns=2))  # as the others now

            def all_three() -> bool:
                asked(*names)
                return bool(answers["arm2"])

            wait_until(all_three, "it is answered", period_s=0.02)
            answered = node.log.count("answers for 'arm0'")
            say["arm0"](RobotDescription(SPEC, "another task", "base", stamp_ns=2))
            wait_until(
                lambda: node.log.count("answers for 'arm0'") > answered, "it is asked for that now"
            )
            assert node.log.count("has room for") == made, "the others went on with their policy"
    finally:
        node.close()
        probe.close()


def test_what_is_slow_while_a_version_is_prepared_costs_no_robot_its_place(
    tmp_path: Path, ros_domain: int
) -> None:
    endpoint, probe, names = free_endpoint(), GraphProbe(), ("arm0", "arm1", "arm2")
    plugin = "user_testing.worlds.remote_parts:SlowToPrepare"
    node = NodeProcess(
        "user_actor.nodes.inference",
        {
            "policy": {"plugin": plugin},
            "robots": list(names),
            "batching": {"wait_s": 0.01, "budget_s": 0.25},  # a batch takes 0.02 s, beside a piece 0.22
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        },
        tmp_path,
        namespace="/learner",
    )  # fmt: skip
    answers: dict[str, list[ActionChunk]] = {name: [] for name in names}
    refusals: list[str] = []
    items: list[dict[str, str]] = []

    def hear(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("inference: inference"):
                said = {value.key: value.value for value in status.values}
                items.append({"message": status.message, **said})

    probe.node.create_subscription(DiagnosticArray, "/diagnostics", hear, 50)
    for name in names:
        probe.hear(at(topics.REMOTE_ACTION, name), answers[name].append)
        probe.hear(at(topics.REMOTE_REFUSAL, name), lambda m: refusals.append(m.data))
    ask = {n: probe.speaker(at(topics.REMOTE_OBSERVATION, n)) for n in names}
    say = {n: probe.speaker(at(topics.ROBOT_SPEC, n)) for n in names}
    number = 0

    def all_act_with(version: int) -> bool:
        nonlocal number
        number += 1
        for name in names:
            ask[name](seen(number))
        return all(chunks and chunks[-1].policy_version == version for chunks in answers.values())

    config = ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)
    try:
        with (
            open_session(config) as session,
            PolicyServer(
                session, "learner/policy", probe.speaker(at(topics.POLICY, "learner"))
            ) as server,
        ):
            node.start()
            for name in names:
                say[name](RobotDescription(SPEC, "task", "base", stamp_ns=1))
            wait_until(lambda: all_act_with(0), "all are answered", period_s=0.1)
            made = replace(version(1, 0.25), config_hash=policy_config_hash(plugin, {}, SPEC))
            server.publish(made)
            wait_until(lambda: all_act_with(1), "all act with the version", period_s=0.1)
            wait_until(lambda: items[-1].get("policy_version") == "1", "that is said", period_s=0.1)
        assert not refusals and "lost its place" not in node.log
        said = [item for item in items if "while a policy version is prepared" in item["message"]]
        assert {item["robots"] for item in said} == {"3"}
        # on a busy machine others may be late, too
        assert 0 < int(items[-1]["late_while_prepared"]) <= int(items[-1]["late"])
    finally:
        node.close()
        probe.close()


def test_versions_that_are_to_come_by_a_gpu_to_a_policy_on_none_are_refused(
    tmp_path: Path, ros_domain: int
) -> None:
    probe = GraphProbe()
    params = {"policy": {"plugin": "linear_gaussian"}, "local_versions": "gpu"}
    node = NodeProcess("user_actor.nodes.inference", params, tmp_path)
    try:
        node.start()
        probe.speaker(topics.ROBOT_SPEC)(RobotDescription(SPEC, "task", "base", stamp_ns=1))
        probe.until(lambda: "has no weights on a GPU, in place" in node.log, "it says so")
        assert "expected auto, memory or network" in node.log
    finally:
        node.close()
        probe.close()


def test_an_actor_says_how_old_the_version_is_that_answered_it(
    tmp_path: Path, ros_domain: int
) -> None:
    endpoint = free_endpoint()
    robot = {"plugin": "user_testing.worlds.remote_parts:PictureRobot",
             "params": {"noise": False, "log_file": str(tmp_path / "driver.jsonl")}}  # fmt: skip
    described = from_mapping(HalConfig, {"robot": robot}).expand({"robot": robot})
    spec = spec_of(described, build_robot(described))
    policy = fakes.LinearGaussianPolicy(fakes.LinearGaussianPolicy.Config(), spec)
    config_hash = policy_config_hash("linear_gaussian", {}, spec)
    acts = {
        "policy": {"plugin": "linear_gaussian"},
        "zenoh": {"connect": [endpoint], "shared_memory": False},
    }
    remote = {
        "outbox": {"directory": str(tmp_path / "outbox")},
        "remote": {"enabled": True, "coding": ""},
    }
    probe = GraphProbe()
    nodes = [
        NodeProcess("user_hal.nodes.hal", {"robot": robot}, tmp_path),
        NodeProcess("user_actor.nodes.inference", {**acts, "before_first_version": "initial"}, tmp_path),
        NodeProcess("user_actor.nodes.actor", {**acts, **remote}, tmp_path),
    ]  # fmt: skip

    def acted(number: int) -> bool:
        said = probe.actor
        return said is not None and said.policy_version == number and said.steps > 0

    try:
        with (
            open_session(ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)) as s,
            PolicyServer(s, "user/policy", probe.speaker(topics.POLICY)) as server,
        ):
            for node in nodes:
                node.start()
            probe.until(lambda: acted(0), "it acts with the first weights")
            assert probe.actor is not None and probe.actor.policy_age_s == 0.0
            for number, before_s in ((1, 1000.0), (2, 100.0)):
                made_ns = time.time_ns() - int(before_s * 1e9)
                server.publish(
                    PolicyVersion(number, policy.arrays(), config_hash, created_ns=made_ns)
                )
                probe.until(lambda n=number: acted(n), f"version {number} acts")
                age_s = probe.actor.policy_age_s
                assert before_s <= age_s <= (time.time_ns() - made_ns) * 1e-9
    finally:
        for node in nodes:
            node.close()
        probe.close()
