"""hal, actor and replay as processes: nothing lost, nothing twice, whatever dies or says no."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger
from user_msgs.msg import ActorStatus

from user_comm import topics
from user_comm.converters import Intervention
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.server import PolicyServer
from user_core import fakes
from user_core.interfaces import TeleopCommand
from user_core.policies import policy_config_hash
from user_core.types import Outcome, PolicyVersion
from user_learner.replay.reader import StoreReader
from user_testing.ports import free_endpoint
from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe, committed_steps

HAL = "user_hal.nodes.hal"
ACTOR = "user_actor.nodes.actor"
REPLAY = "user_learner.nodes.replay"


class Lab:
    """One robot, its actor, and a store."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.store, self.outbox = folder / "store", folder / "outbox"
        self.probe = GraphProbe()
        self.hal = NodeProcess(HAL, {"robot": {"plugin": "fake"}}, folder)
        self.replay = NodeProcess(REPLAY, {"path": str(self.store)}, folder)
        self.actor = NodeProcess(ACTOR, self.actor_params(), folder)

    def actor_params(self, **changes: object) -> dict[str, object]:
        return {
            "policy": {"plugin": "linear_gaussian"},
            "outbox": {"directory": str(self.outbox), "rebind_after_s": 3.0},
            "loop": {"exploration": {"before_first_version": "initial"}, "retry_s": 0.2},
            "zenoh": {"connect": [self.endpoint]},
            **changes,
        }

    def acts(self) -> None:
        """Wait until it acts and the store has of it."""
        probe = self.probe
        probe.until(lambda: probe.replay and probe.actor, "both say how they are")
        steps = probe.replay.steps
        probe.until(lambda: probe.replay.steps > steps + 40, "the store grows")

    def settle(self) -> None:
        """Stop acting in good order, and deliver the rest."""
        assert self.actor.interrupt() == 0, self.actor.log[-3000:]
        idle = NodeProcess(ACTOR, self.actor_params(hal="nobody"), self.folder, "idle")
        idle.start()
        try:
            self.probe.until(lambda: committed_steps(self.outbox)[1] == 0, "all delivered")
        finally:
            idle.interrupt()
            idle.close()

    def close(self) -> None:
        for process in (self.actor, self.replay, self.hal):
            process.close()
        self.probe.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all, for starting three processes takes seconds; it ends well or not at all."""
    lab = Lab(tmp_path_factory.mktemp("lab"), free_endpoint())
    try:
        lab.hal.start()
        lab.replay.start()
        lab.actor.start()
        yield lab
    finally:
        lab.close()


def check_store(lab: Lab) -> StoreReader:
    """Everything committed is in the store, once, in whole episodes."""
    steps, chunks = committed_steps(lab.outbox)
    assert chunks == 0
    reader = StoreReader(lab.store)
    rows = finals = 0
    for episode in reader.episodes():
        assert episode.gaps == 0
        assert episode.result is not None
        rows += episode.rows
        finals += episode.result.outcome is not Outcome.UNFINISHED
        whole = episode.result.outcome is not Outcome.UNFINISHED
        assert episode.rows == episode.result.length + whole
    assert rows - finals == steps
    return reader


def test_an_emergency_stop_ends_the_episode_and_a_reset_lets_it_go_on(
    lab: Lab, request: pytest.FixtureRequest
) -> None:
    probe = lab.probe
    request.addfinalizer(lambda: probe.call("hal/reset_emergency_stop", Trigger))

    def stopped() -> bool:
        return any(
            result.outcome is Outcome.ABORTED and "emergency stop" in result.reason
            for result in probe.results
        )

    for _ in range(5):  # it may come between two episodes, and then ends none
        lab.acts()
        probe.results.clear()
        probe.call("hal/emergency_stop", Trigger)
        probe.until(
            lambda: probe.actor.state == ActorStatus.WAITING and "emergency" in probe.actor.detail,
            "the actor waits and says why",
        )
        time.sleep(0.5)
        probe.call("hal/reset_emergency_stop", Trigger)
        if stopped():
            break
    assert stopped()
    lab.acts()


def test_it_can_be_deactivated_cleaned_up_and_brought_back(lab: Lab) -> None:
    lab.acts()
    probe = lab.probe

    def change(transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        answer = probe.call("actor/change_state", ChangeState, transition=request.transition)
        assert answer.success

    begun = len(probe.results)
    for round_ in ([Transition.TRANSITION_DEACTIVATE],
                   [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                    Transition.TRANSITION_CONFIGURE]):  # fmt: skip
        for transition in round_:
            change(transition)
        probe.until(lambda: "activation" in probe.actor.detail, "it says that it waits")
        change(Transition.TRANSITION_ACTIVATE)
        lab.acts()
    stopped = [r for r in probe.results[begun:] if "deactivated" in r.reason]
    assert all(result.outcome is Outcome.ABORTED for result in stopped)


def test_a_person_takes_over_and_labels(lab: Lab) -> None:
    lab.acts()
    probe = lab.probe
    say = probe.speaker(topics.INTERVENTION)

    def wish(label: str = "") -> Intervention:
        said = {label: True} if label else {}
        action = np.array([0.25, -0.25], np.float32)
        return Intervention(TeleopCommand(True, action, time.time_ns(), **said), "joy")

    def taken_over() -> bool:
        say(wish())
        return any(result.interventions > 2 for result in probe.results)

    probe.until(taken_over, "an episode with interventions")
    probe.results.clear()

    def failed() -> bool:
        say(wish("failure"))
        say(wish())
        return any("a person called it a failure" in r.reason for r in probe.results)

    probe.until(failed, "an episode that a person ended")


def test_policy_versions_swap_in_while_it_acts(lab: Lab) -> None:
    spec = fakes.FakeRobot(fakes.FakeRobot.Config()).spec
    probe = lab.probe
    lab.acts()
    right = policy_config_hash("linear_gaussian", {}, spec)
    policy = fakes.LinearGaussianPolicy(fakes.LinearGaussianPolicy.Config(), spec)
    session = open_session(ZenohConfig(mode="router", listen=(lab.endpoint,)))
    with session, PolicyServer(session, "user/policy", probe.speaker(topics.POLICY)) as server:
        for number, config_hash in ((1, right), (2, "0" * 64), (3, right)):
            arrays = {**policy.arrays(), "std": np.full(2, 0.1 * number)}
            server.publish(PolicyVersion(number, arrays, config_hash, created_ns=time.time_ns()))
            if number == 2:
                probe.until(lambda: "configuration" in str(probe.actor.warnings), "refused")
                assert probe.actor.policy_version == 1
            else:
                probe.until(
                    lambda number=number: probe.actor.policy_version == number, f"v{number} acts"
                )
        probe.until(
            lambda: any(result.first_version == 3 for result in probe.results),
            "an episode of version 3",
        )
    assert 0 < probe.actor.policy_age_s < 60


def test_kill_9_of_any_of_them_loses_and_doubles_nothing(lab: Lab) -> None:
    dice = random.Random(4)
    lab.acts()
    for victim in (lab.actor, lab.replay, lab.actor, lab.hal, lab.actor):
        time.sleep(dice.uniform(0.0, 0.7))
        victim.kill()
        if victim is lab.replay:
            pending = lab.probe.actor.outbox_chunks
            lab.probe.until(
                lambda pending=pending: lab.probe.actor.outbox_chunks > pending + 2,
                "the actor goes on collecting",
            )
        lab.probe.forget()
        victim.start()
        lab.acts()
    lab.settle()
    check_store(lab)  # of this test and all before it


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_it_ends_in_good_order_when_the_robot_has_gone(lab: Lab, how: signal.Signals) -> None:
    """Also within its time: whoever takes longer ends with exit code 1."""
    for process in (lab.hal, lab.actor):
        if process.process.poll() is not None:
            process.start()
    lab.probe.forget()
    lab.acts()
    hal, actor = lab.hal.process, lab.actor.process
    hal.send_signal(how)
    try:
        lab.probe.until(lambda: lab.probe.actor.state == ActorStatus.WAITING, "it waits")
        actor.send_signal(signal.SIGTERM)
        assert actor.wait(timeout=60) == 0, lab.actor.log[-3000:]
    finally:
        lab.hal.kill()
    assert "state: finalized" in lab.actor.log.splitlines()[-1]
    lab.hal.start()
    lab.actor.start()
    lab.probe.forget()
    lab.acts()


def test_a_robot_with_another_spec_is_refused_by_the_store_and_the_actor_says_so(
    lab: Lab,
) -> None:
    if lab.actor.process.poll() is not None:
        lab.actor.start()
    lab.acts()
    lab.hal.close()
    lab.hal = NodeProcess(
        HAL, {"robot": {"plugin": "fake", "params": {"image_size": 16}}}, lab.folder
    ).start()
    probe = lab.probe
    probe.until(
        lambda: probe.actor.state == ActorStatus.PAUSED and "refused" in probe.actor.detail,
        "collecting stops and says why",
    )
    assert "image_front" in probe.actor.detail
    probe.until(lambda: probe.replay.refused > 0, "the store counts it")


def test_without_a_store_it_collects_until_the_quota_and_goes_on_afterwards(
    tmp_path: Path, ros_domain: int
) -> None:
    lab = Lab(tmp_path, free_endpoint())
    lab.hal = NodeProcess(
        HAL, {"robot": {"plugin": "fake", "params": {"image_size": 48}}}, tmp_path
    )
    outbox = {"directory": str(lab.outbox), "quota_bytes": 4 * 2**20, "memory_bytes": 2**20}
    lab.actor = NodeProcess(ACTOR, lab.actor_params(outbox=outbox), tmp_path)
    probe = lab.probe
    try:
        lab.hal.start()
        lab.actor.start()
        probe.until(
            lambda: (
                probe.actor is not None
                and probe.actor.state == ActorStatus.PAUSED
                and "no store has acknowledged" in probe.actor.detail  # a slow disk pauses it, too
            ),
            "the quota is reached",
        )
        steps = probe.actor.steps
        lab.replay.start()
        probe.until(lambda: probe.actor.steps > steps + 100, "it goes on")
    finally:
        lab.close()
