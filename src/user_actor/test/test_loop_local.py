"""The acting half in one process: a fake robot behind its gate, the real outbox, real time."""

import threading

import pytest

from user_actor.loop import ActorLoop, ActorLoopConfig, EpisodeLoop, PolicyHolder
from user_actor.loop.config import ExplorationConfig
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_actor.outbox import Outbox
from user_core import fakes, plugins
from user_core.interfaces import TeleopCommand
from user_core.types import EpisodeSource, Label, Outcome, TrajectorySchema
from user_hal.local import LocalHal
from user_testing.waiting import wait_until
from user_testing.worlds.outbox import MemoryStore, config_for


def parts(config, sink, image_size=0, teleop=None):
    robot = plugins.build("robots", "fake", {"image_size": image_size, "episode_steps": 12})
    spec = robot.spec
    hal = LocalHal(robot)
    hal.open()
    mailbox = fakes.PolicyMailbox()
    holder = PolicyHolder(
        lambda: plugins.build("policies", "linear_gaussian", {}, spec), spec, mailbox
    )
    reward = plugins.build("rewards", "task")
    port = LocalTeleop(teleop) if teleop is not None else None
    episodes = EpisodeLoop(hal, holder, reward, sink, config, teleop=port)
    return spec, holder, ActorLoop(episodes)


@pytest.mark.parametrize("image_size", [0, 32])
def test_from_a_robot_through_the_outbox_to_a_store(tmp_path, image_size):
    spec = plugins.build("robots", "fake", {"image_size": image_size}).spec
    outbox, store = Outbox(config_for(tmp_path), "actor", spec, "fake", "go"), MemoryStore()
    outbox.deliver_to(store.serve(outbox))
    try:
        _, _, loop = parts(ActorLoopConfig(max_episodes=6), outbox, image_size)
        thread = threading.Thread(target=loop.run)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        wait_until(lambda: outbox.flush(1) and not outbox.status().pending_chunks, "all delivered")
    finally:
        outbox.close()
    schema = TrajectorySchema.of(spec, plans=True)
    chunks = [chunk for _, chunk in sorted(store.chunks.items())]
    assert all(schema.check(chunk.columns) == len(chunk) for chunk in chunks)
    results = [chunk.result for chunk in chunks if chunk.result]
    assert [result.key.number for result in results] == list(range(6))
    steps = sum(len(c) - int(c.columns["final"].sum()) for c in chunks)
    assert steps == sum(result.length for result in results) == loop.stats.steps
    for result in results:
        mine = [chunk for chunk in chunks if chunk.episode == result.key]
        ends = [c.columns["terminated"][:-1] | c.columns["truncated"][:-1] for c in mine[-1:]]
        assert ends[0].tolist()[-1:] in ([True], [])
        assert mine[-1].columns["final"][-1]
        assert result.outcome in (Outcome.SUCCESS, Outcome.TIMEOUT)


def test_random_warm_up_goes_on_where_the_last_process_stopped(tmp_path):
    spec = plugins.build("robots", "fake").spec
    store = MemoryStore()
    for _ in range(2):
        outbox = Outbox(config_for(tmp_path), "actor", spec)
        outbox.deliver_to(store.serve(outbox))
        config = ActorLoopConfig(
            max_episodes=1,
            max_episode_steps=5,
            exploration=ExplorationConfig(random_steps=8, before_first_version="initial"),
        )
        _, _, loop = parts(config, outbox)
        loop.run()
        assert outbox.flush(5)
        wait_until(lambda box=outbox: not box.status().pending_chunks, "all delivered")
        outbox.close()
    columns = [chunk.columns for _, chunk in sorted(store.chunks.items())]
    acted = [by for c in columns for by in c["acted_by"][~c["final"]].tolist()]
    assert acted == [3] * min(8, len(acted)) + [0] * max(0, len(acted) - 8)


def test_a_scripted_person_demonstrates():
    teleop = plugins.build("teleops", "fake", {"engage_every": 1})
    sink = MemorySink()
    spec, _, loop = parts(
        ActorLoopConfig(mode="demonstration", max_episodes=5), sink, teleop=teleop
    )
    teleop.connect(spec)
    loop.run()
    assert len(sink.results) == 5
    assert {result.source for result in sink.results} == {EpisodeSource.DEMONSTRATION}
    assert {result.outcome for result in sink.results} == {Outcome.SUCCESS}


def test_labels_count_once_when_they_appear():
    class Button:
        pressed = ""

        def read(self, observation):
            said = {self.pressed: True} if self.pressed else {}
            return TeleopCommand(False, None, 0, **said)

    button = Button()
    port = LocalTeleop(button)
    assert port.read(None).label is Label.NONE
    button.pressed = "success"
    assert [port.read(None).label for _ in range(3)] == [Label.SUCCESS, Label.NONE, Label.NONE]
    button.pressed = ""
    assert port.read(None).label is Label.NONE
    button.pressed = "failure"
    assert port.read(None).label is Label.FAILURE
    button.pressed = "abort"
    assert port.read(None).label is Label.ABORT
