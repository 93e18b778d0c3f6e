"""Real Zenoh sessions, in this process and in others; no ROS."""

import json
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
from dataclasses import replace

import numpy as np
import pytest

from user_comm.converters import BlobKind, PolicyAnnouncement
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs import server
from user_comm.policy_blobs.pieces import pack_note, parse_piece_key
from user_comm.policy_blobs.puller import PolicyPuller, PullPace, RelayPatience
from user_comm.policy_blobs.server import PolicyServer, ServerProbe
from user_core.errors import ConfigError, PolicyError, TransportError
from user_core.policies import policy_made_for
from user_core.specs import ArraySpec, RobotSpec, digest
from user_core.types import PolicyVersion
from user_core.weight_plane.offers import Offers
from user_core.weight_plane.taking import take
from user_testing.ports import free_endpoint
from user_testing.waiting import wait_until

CONFIG_HASH = "c" * 64


def router(endpoint):
    return ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)


def client(endpoint):
    config = ZenohConfig(connect=(endpoint,), shared_memory=False)
    return lambda stop: open_session(config, stop, retry_s=0.05)


def version(number, size=100_000, seed=0):
    weights = np.random.default_rng(seed + number).standard_normal(size).astype(np.float32)
    return PolicyVersion(number, {"w": weights, "b": weights[:3].copy()}, CONFIG_HASH, number * 10)


@pytest.fixture
def endpoint():
    return free_endpoint()


@pytest.fixture
def served(endpoint):
    """A server whose announcements are collected."""
    announced = []
    with open_session(router(endpoint)) as session:
        with PolicyServer(session, "run1/policy", announced.append) as server:
            server.announced = announced
            yield server


def test_a_version_arrives_whole(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        sent = version(1)
        served.publish(sent)
        assert served.announced[0].size > 10 * 32768
        puller.announced(served.announced[0])
        wait_until(lambda: puller.newest(0), "version 1")
        got = puller.newest(0)
        assert got.number == 1
        assert got.update == 10
        assert got.arrays.keys() == sent.arrays.keys()
        for name, array in sent.arrays.items():
            assert np.array_equal(got.arrays[name], array)
        assert puller.newest(after=1) is None
        assert puller.stats.refused == 0


def test_on_the_learners_host_no_byte_of_a_version_goes_over_the_network(endpoint):
    announced, came = [], []

    def take_here(announcement, cancelled):
        taking = take(announcement.content_hash, ["memory"])
        if taking is None:
            return False
        with taking:
            came.append(taking.arrays())
            taking.taken()
        return True

    with open_session(router(endpoint)) as session, Offers() as offers:
        with PolicyServer(session, "p", announced.append, offer=offers.offer) as server:
            with PolicyPuller(client(endpoint), CONFIG_HASH, take_here=take_here) as puller:
                server.publish(version(1))
                puller.announced(announced[0])
                wait_until(lambda: came, "version 1")
                assert np.array_equal(came[0].arrays["w"], version(1).arrays["w"])
                wait_until(lambda: puller.stats.here == puller.stats.versions == 1, "it is counted")
                assert server.served_bytes == 0
                offers.close()  # as if it were on another host
                server.publish(version(2))
                puller.announced(announced[1])
                wait_until(lambda: puller.newest(1), "version 2")
                assert (puller.stats.here, puller.stats.keyframes, len(came)) == (1, 1, 1)
                assert puller.stats.refused == 0


def test_a_version_that_is_too_large_for_robots_is_encoded_when_one_asks(
    served, endpoint, monkeypatch
):
    monkeypatch.setattr(server, "_ENCODED_BYTES", 1000)
    served.publish(version(1))
    assert served.announced[0].size == 4 * 100_003
    assert not served._library._blobs
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        puller.announced(served.announced[0])
        wait_until(lambda: puller.newest(0), "version 1")
        served.publish(version(2))
        puller.announced(served.announced[1])
        wait_until(lambda: puller.newest(1), "version 2")
        assert (puller.stats.deltas, puller.stats.refused) == (1, 0)


def test_a_version_that_was_replaced_before_it_came_here_is_passed_over(served, endpoint):
    asked, waits = [], threading.Event()

    def take_here(announcement, cancelled):
        asked.append(announcement.number)
        waits.wait(60)
        return False

    with PolicyPuller(client(endpoint), CONFIG_HASH, take_here=take_here) as puller:
        for number in (1, 2):
            served.publish(version(number))
        puller.announced(served.announced[0])
        wait_until(lambda: asked == [1], "the first is looked for")
        puller.announced(served.announced[1])
        waits.set()
        wait_until(lambda: puller.newest(1), "version 2")
        assert (puller.stats.superseded, puller.stats.versions, asked) == (1, 1, [1, 2])


def test_a_robot_that_was_there_first_waits_for_the_learner(endpoint):
    announced, failed = [], []
    config = ZenohConfig(connect=(endpoint,), shared_memory=False)

    class Noting:
        """What `open_session` waits on between two attempts."""

        def __init__(self, stop):
            self.stop = stop

        def wait(self, timeout_s):
            failed.append(timeout_s)
            return self.stop.wait(timeout_s)

    def connect(stop):
        return open_session(config, Noting(stop), retry_s=0.05)

    with PolicyPuller(connect, CONFIG_HASH) as puller:
        wait_until(lambda: len(failed) > 1, "some attempts to connect fail")
        with open_session(router(endpoint)) as session:
            with PolicyServer(session, "p", announced.append) as server:
                server.publish(version(1))
                puller.announced(announced[0])
                wait_until(lambda: puller.newest(0), "version 1")


def test_the_newest_wins_and_old_announcements_are_ignored(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        for number in range(1, 6):
            served.publish(version(number))
        for announcement in served.announced:
            puller.announced(announcement)
        wait_until(lambda: puller.newest(4), "version 5")
        pulled = puller.stats.versions
        puller.announced(served.announced[0])
        assert puller.stats.refusals["replayed"] == 1
        puller.announced(replace(served.announced[4], content_hash="0" * 64))
        assert puller.stats.refusals["conflicting"] == 1
        puller.announced(served.announced[4])  # the same again is no crime
        assert puller.stats.refused == 2
        served.publish(version(6))
        puller.announced(served.announced[5])
        # It pulls one after the other: what it was told before this it has not pulled any more.
        wait_until(lambda: puller.newest(5), "version 6")
        assert puller.stats.versions == pulled + 1
        assert puller.stats.refused == 2
        assert puller.stats.last_error == ""


def test_a_version_that_is_gone_is_given_up_for_a_newer_one(served, endpoint, monkeypatch):
    with PolicyPuller(client(endpoint), CONFIG_HASH, piece_timeout_s=0.2) as puller:
        served.publish(version(1))
        asked, find = [], served._find
        monkeypatch.setattr(served, "_find", lambda *query: asked.append(query) or find(*query))
        gone = replace(served.announced[0], key="run1/policy/1/0000000000000000")
        puller.announced(gone)
        wait_until(lambda: asked, "it asks in vain")
        served.publish(version(2))
        puller.announced(served.announced[1])
        wait_until(lambda: puller.newest(1), "version 2")
        assert puller.stats.versions == 1
        assert puller.stats.superseded == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"content_hash": "0" * 64}, "hash"),
        ({"config_hash": "d" * 64}, "configuration"),
        ({"size": 2**40}, "at most"),
        ({"piece_size": 1}, "pieces"),
    ],
)
def test_a_wrong_version_is_refused_with_the_reason_and_the_next_one_taken(
    served, endpoint, change, word
):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        served.publish(version(1))
        puller.announced(replace(served.announced[0], **change))
        wait_until(lambda: puller.stats.refused, "the refusal")
        assert word in puller.stats.last_error
        assert puller.newest(0) is None
        served.publish(version(2))
        puller.announced(served.announced[1])
        wait_until(lambda: puller.newest(0), "version 2")
        assert puller.stats.last_error == ""


SERVER = """
import sys
import numpy as np
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.server import PolicyServer
from user_core.types import PolicyVersion

config = ZenohConfig(mode="router", listen=(sys.argv[1],), shared_memory=False)
with open_session(config) as session:
    with PolicyServer(session, "p", lambda a: print(a.content_hash, a.key, a.size, flush=True)) as s:
        weights = np.random.default_rng(0).standard_normal(8_000_000, np.float32)
        s.publish(PolicyVersion(int(sys.argv[2]), {"w": weights}, "c" * 64))
        sys.stdin.read()
"""


def test_versions_that_are_refused_for_weeks_keep_no_memory():
    theirs, mine = {"policy": "other"}, {"policy": "mine"}
    announced = PolicyAnnouncement(1, "a" * 64, digest(theirs), "p/1/a", 10, 10)

    class Learner:
        def ask(self, key, timeout_s):
            return json.dumps(theirs).encode()

    puller = PolicyPuller(lambda ending: None, mine)
    puller.close()

    def frames():
        with pytest.raises(PolicyError, match="another policy") as refused:
            puller._check_configuration(Learner(), announced)
        return len(list(traceback.walk_tb(refused.value.__traceback__)))

    assert len({frames() for _ in range(5)}) == 1


def test_a_learner_with_another_policy_is_told_with_what_each_side_has(served, endpoint):
    server, announcements = served, served.announced
    spec = RobotSpec("arm", {"x": ArraySpec((3,))}, ArraySpec((2,), low=-1.0, high=1.0))
    wide, slim = ({"hidden": hidden} for hidden in ([256, 256], [64]))
    theirs = policy_made_for("tanh_gaussian", wide, spec)
    server.describe(theirs)

    def said(mine, made_for=theirs):
        with PolicyPuller(client(endpoint), mine) as puller:
            server.publish(replace(version(len(announcements) + 1), config_hash=digest(made_for)))
            puller.announced(announcements[-1])
            wait_until(lambda: puller.stats.last_error, "a refusal")
            assert puller.stats.bytes == 0 and puller.newest(0) is None
            return puller.stats.last_error

    text = said(policy_made_for("tanh_gaussian", slim, spec))
    assert "hidden [256, 256] at the learner, expected hidden [64], as here" in text
    assert "the same `algorithm:=`" in text
    other = replace(spec, action=ArraySpec((3,), low=-1.0, high=1.0))
    text = said(policy_made_for("tanh_gaussian", wide, other))
    assert "learns for another robot" in text
    assert "action.shape [2] at the learner, expected of the robot action.shape [3]" in text
    unsaid = policy_made_for("tanh_gaussian", {"hidden": [32]}, spec)
    text = said(theirs, unsaid)  # of a learner of before, or one that does not answer
    assert digest(unsaid)[:12] in text and digest(theirs)[:12] in text and "algorithm:=" in text


def start_server(start_process, endpoint, number):
    import subprocess

    return start_process(
        [sys.executable, "-c", textwrap.dedent(SERVER), endpoint, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def announcement_of(process, number, like):
    content_hash, key, size = process.stdout.readline().split()
    return replace(
        like, number=number, content_hash=content_hash, key=key, size=int(size), keyframe=number,
        config_hash=CONFIG_HASH,
    )  # fmt: skip


def test_a_learner_killed_in_the_middle_of_a_pull_is_waited_for(
    start_process, endpoint, served_announcement
):
    first = start_server(start_process, endpoint, 1)
    announcement = announcement_of(first, 1, served_announcement)
    with PolicyPuller(client(endpoint), CONFIG_HASH, piece_timeout_s=0.5) as puller:
        puller.announced(announcement)
        wait_until(lambda: puller.stats.bytes > 1_000_000, "the first megabyte")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert puller.newest(0) is None
        second = start_server(start_process, endpoint, 1)
        again = announcement_of(second, 1, served_announcement)
        assert again == announcement  # equal versions have equal bytes: the pull goes on
        wait_until(lambda: puller.newest(0), "version 1")
        assert puller.stats.retries > 0
        assert puller.stats.bytes < 1.2 * announcement.size


def test_a_version_that_could_not_be_used_when_it_came_is_handed_on_again(served, endpoint):
    calls = []

    def use():
        calls.append((threading.current_thread().name, puller.newest_number))
        if len(calls) == 1:
            raise RuntimeError("both policies are in use")

    with PolicyPuller(client(endpoint), CONFIG_HASH, use) as puller:
        served.publish(version(1))
        puller.announced(served.announced[0])
        wait_until(lambda: calls, "it is handed on")
        puller.call_again()
        wait_until(lambda: len(calls) == 2, "it is handed on again")
        assert puller.stats.refused == 0
    assert calls == [("policy-puller", 1)] * 2


@pytest.fixture
def served_announcement():
    return PolicyAnnouncement(1, "0" * 64, CONFIG_HASH, "p", 1, 65536)


def training(count, size=200_000, step=1e-4):
    """Versions that differ as those of a training do."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal(size) * 0.05).astype(np.float32)
    for number in range(1, count + 1):
        yield PolicyVersion(number, {"w": weights.copy()}, CONFIG_HASH, number, 0, number)
        weights += (rng.standard_normal(size) * step).astype(np.float32)


def follow(puller, server, versions):
    """Publish, and wait until it is there, bit by bit."""
    for each in versions:
        server.publish(each)
        puller.announced(server.announced[-1])
        wait_until(lambda each=each: puller.newest(each.number - 1), f"version {each.number}")
        assert puller.newest(0).arrays["w"].tobytes() == each.arrays["w"].tobytes()


def test_after_the_first_version_deltas_come(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        follow(puller, served, training(5))
        assert (puller.stats.keyframes, puller.stats.deltas) == (1, 4)
        assert puller.stats.bytes < 5 * 0.75 * 800_000
        kinds = [a.kind for a in served.announced]
        assert kinds == [BlobKind.KEYFRAME] + [BlobKind.DELTA] * 4


def test_who_missed_versions_gets_one_delta_from_what_it_has(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        versions = list(training(6))
        follow(puller, served, versions[:1])
        for each in versions[1:5]:
            served.publish(each)
        follow(puller, served, versions[5:])
        assert (puller.stats.keyframes, puller.stats.deltas) == (1, 1)


def test_who_missed_too_many_gets_a_keyframe(endpoint):
    with open_session(router(endpoint)) as session:
        announced = []
        with PolicyServer(session, "p", announced.append, keep=3) as server:
            server.announced = announced
            with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
                versions = list(training(8, 20_000))
                follow(puller, server, versions[:1])
                for each in versions[1:7]:
                    server.publish(each)
                follow(puller, server, versions[7:])
                assert (puller.stats.keyframes, puller.stats.deltas) == (2, 0)
                assert puller.stats.refused == 0


def test_another_layout_comes_as_a_keyframe(served, endpoint):
    with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
        follow(puller, served, [next(training(1))])
        larger = PolicyVersion(2, {"w": np.ones(10, np.float32)}, CONFIG_HASH)
        follow(puller, served, [larger])
        assert puller.stats.keyframes == 2


class Meddler:
    """Answers for a learner, and changes the pieces on the way."""

    def __init__(self, session, prefix, change):
        self.announced, self.change, self.times = [], change, 0
        self.server = PolicyServer(session, f"{prefix}/real", self._announce)
        self.prefix, self.session = prefix, session
        self._queryable = session.declare_queryable(f"{prefix}/served/**", self._answer)

    def _announce(self, announcement):
        key = announcement.key.replace("/real/", "/served/")
        self.announced.append(replace(announcement, key=key))

    def publish(self, version):
        self.server.publish(version)

    def _answer(self, query):
        with query:
            key = str(query.key_expr).replace("/served/", "/real/")
            version, base, index = parse_piece_key(key)
            name = version.rpartition("/")[2]
            while (data := self.server._library.blob(name, base)) is None:
                time.sleep(0.001)
            piece = data[index * 32768 :][:32768]
            piece, total = self.change(self, base, index, piece, len(data))
            if piece is not None:
                note = pack_note(total, 32768, time.monotonic_ns())
                query.reply(query.key_expr, piece, attachment=note)


def flip_first_delta(meddler, base, index, piece, total):
    if base and index == 1:
        piece = piece[:99] + bytes([piece[99] ^ 4]) + piece[100:]
    return piece, total


def shorten_once(meddler, base, index, piece, total):
    meddler.times += index == 2
    return (piece[:-1] if index == 2 and meddler.times == 1 else piece), total


def lose_often(meddler, base, index, piece, total):
    meddler.times += 1
    return (None if meddler.times % 3 == 0 else piece), total


@pytest.mark.parametrize("change", [flip_first_delta, shorten_once, lose_often])
def test_pieces_that_are_damaged_or_lost_are_fetched_again(endpoint, change):
    with open_session(router(endpoint)) as session:
        meddler = Meddler(session, "p", change)
        with PolicyPuller(client(endpoint), CONFIG_HASH, piece_timeout_s=0.3) as puller:
            follow(puller, meddler, training(2))
            stats = puller.stats
            if change is lose_often:
                assert stats.retries > 5
            else:
                assert stats.refused == 1
                assert set(stats.refusals) <= {"codec", "policy"}
        meddler.server.close()


def enormous(meddler, base, index, piece, total):
    return piece, 2**50


def always_wrong(meddler, base, index, piece, total):
    return bytes(len(piece)), total


@pytest.mark.parametrize("change", [enormous, always_wrong])
def test_what_stays_wrong_is_given_up_until_the_next_version(endpoint, change):
    with open_session(router(endpoint)) as session:
        meddler = Meddler(session, "p", change)
        with PolicyPuller(client(endpoint), CONFIG_HASH) as puller:
            first, second = training(2, 20_000)
            meddler.publish(first)
            puller.announced(meddler.announced[0])
            wait_until(lambda: puller.stats.refused == 4, "four attempts")
            assert puller.newest(0) is None
            assert puller.stats.last_error
            meddler.change = lambda _, base, index, piece, total: (piece, total)
            follow(puller, meddler, [second])
            assert puller.stats.last_error == ""
        meddler.server.close()


@pytest.mark.parametrize(
    "key",
    ["p/1/x/k/0", "p/1/0123456789abcdef/k/-1", "p/1/0123456789abcdef/d/short/0", "p/x",
     "p/1/0123456789abcdef/k/99999999999999", "p/one/0123456789abcdef/k/0"],
)  # fmt: skip
def test_strange_queries_are_refused_and_counted(endpoint, key):
    with open_session(router(endpoint)) as session, PolicyServer(session, "p") as server:
        server.publish(next(training(1, 100)))
        with open_session(ZenohConfig(connect=(endpoint,), shared_memory=False)) as other:
            replies = list(other.get(key, timeout=60.0))
        assert [r.ok for r in replies] == [None]
        assert server.refused == 1
        assert server.served_pieces == 0


def test_on_a_thin_link_versions_are_spaced_and_on_a_fast_one_not(caplog):
    caplog.set_level("INFO")
    pace = PullPace(share=0.5)
    pace.begin(10.0)
    pace.end(1_000_000, 500_000.0)
    assert pace.interval_s == 4.0
    assert pace.wait_s(11.0) == 3.0
    assert "policy versions at most every 4.0 s" in caplog.text
    pace.begin(20.0)
    pace.end(1_000_000, 500e6)
    assert pace.wait_s(20.01) == 0.0
    assert len(caplog.records) == 2
    pace.end(10**9, 1.0)
    assert pace.interval_s == 60.0


def test_a_session_that_is_half_alive_is_opened_anew(endpoint, monkeypatch):
    monkeypatch.setattr("user_comm.policy_blobs.transfer.HUNG_S", 1.0)
    announced, held, opened = [], [], []
    with open_session(router(endpoint)) as session:
        # It takes queries and says nothing.
        hole = session.declare_queryable("run1/policy/**", held.append)
        silent = PolicyServer(session, "elsewhere/policy", announced.append)

        def connect(stop):
            opened.append(1)
            if len(opened) > 1 and held:
                hole.undeclare()
                held.clear()
                server = PolicyServer(session, "run1/policy", announced.append)
                server.publish(version(2, 1000))
            return client(endpoint)(stop)

        with silent, PolicyPuller(connect, CONFIG_HASH, piece_timeout_s=0.3) as robot:
            silent.publish(version(1, 1000))
            first = replace(announced[0], key=announced[0].key.replace("elsewhere", "run1"))
            robot.announced(first)
            wait_until(lambda: robot.stats.reopened == 1, "it connects anew")
            wait_until(lambda: len(announced) == 2, "the true server is there")
            robot.announced(announced[-1])
            wait_until(lambda: robot.newest(1), "version 2")
            assert len(opened) == 2


def test_a_server_that_hears_nothing_any_more_is_found_out(endpoint):
    hung = threading.Event()
    config = ZenohConfig(connect=(endpoint,), shared_memory=False)
    held = []
    with open_session(router(endpoint)), open_session(config) as learner:
        # nobody serves, which is no reason; nor is a server that answers; silence is
        with ServerProbe(config, "run1/policy", hung.set, period_s=0.1, times=2):
            assert not hung.wait(1.0)
            with PolicyServer(learner, "run1/policy") as server:
                assert not hung.wait(1.0)
                assert server.refused == 0
            hole = learner.declare_queryable("run1/policy/**", held.append)
            assert hung.wait(60)
        hole.undeclare()


# --- a relay

RELAY = """
import sys, json, threading
from user_comm.converters import PolicyAnnouncement
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.relay import PolicyRelay

site, learner, prefix = sys.argv[1:]
config = ZenohConfig(mode="router", listen=(site,), connect=(learner,), shared_memory=False)
with PolicyRelay(lambda stop: open_session(config, stop), prefix) as relay:
    print("ready", flush=True)
    for line in sys.stdin:
        relay.announced(PolicyAnnouncement(**json.loads(line)))
"""


@pytest.fixture
def site(start_process, served, endpoint):
    """A site with a relay in a process of its own; gives its endpoint and a way to tell it."""
    import json
    import subprocess

    place = free_endpoint()
    relay = start_process(
        [sys.executable, "-c", textwrap.dedent(RELAY), place, endpoint, "site1/policy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert relay.stdout.readline()

    def tell(announcement):
        fields = {**announcement.__dict__, "kind": int(announcement.kind)}
        relay.stdin.write(json.dumps(fields) + "\n")
        relay.stdin.flush()

    relay.tell, relay.endpoint = tell, place
    return relay


def neighbours(site, count, **options):
    return [
        PolicyPuller(client(site.endpoint), CONFIG_HASH, relay="site1/policy", **options)
        for _ in range(count)
    ]


def test_eight_robots_at_a_site_cost_the_wan_no_more_than_one(served, site):
    # The relay may be slow on a busy machine; when it is passed by is another test's concern.
    robots = neighbours(site, 8, relay_patience_s=600.0)
    try:
        for each in training(4):
            served.publish(each)
            for robot in robots:  # they hear of it before their relay has it
                robot.announced(served.announced[-1])
            site.tell(served.announced[-1])
            for robot in robots:
                wait_until(lambda r=robot, n=each.number: r.newest(n - 1), f"version {each.number}")
        one = sum(a.size for a in served.announced)
        assert one <= served.served_bytes <= 1.1 * one
        assert sum(robot.stats.bytes for robot in robots) >= 7.9 * one
        assert all(robot.stats.detours == 0 for robot in robots)
        assert all(robot.stats.deltas == 3 for robot in robots)
    finally:
        for robot in robots:
            robot.close()


def test_a_dead_relay_is_passed_by(served, endpoint, site):
    robot = PolicyPuller(client(endpoint), CONFIG_HASH, relay="site1/policy", relay_patience_s=0.5)
    with robot:
        site.kill()
        site.wait()
        follow(robot, served, training(2))
        assert robot.stats.detours == 2


def test_versions_that_come_faster_than_patience_ends_do_not_wait_for_a_dead_relay(
    served, endpoint, site
):
    robot = PolicyPuller(client(endpoint), CONFIG_HASH, relay="site1/policy", relay_patience_s=1.0)
    with robot:
        site.kill()
        site.wait()
        for each in training(12, 1000):  # each takes the place of the one before
            served.publish(each)
            robot.announced(served.announced[-1])
            time.sleep(0.3)
        assert robot.newest(6)
        assert robot.stats.detours > 0


def test_a_silent_relay_is_asked_again_after_a_rest():
    patience = RelayPatience(5.0, rest_s=10.0)
    assert patience.left_s(0.0) == 5.0
    patience.asked(False, 3.0, 3.0)  # superseded meanwhile
    assert patience.left_s(3.0) == 2.0
    patience.asked(False, 2.0, 5.0)
    assert patience.left_s(5.0) == patience.left_s(14.9) == 0.0
    assert patience.left_s(15.0) == 1.0  # not as long again
    patience.asked(True, 0.1, 15.1)
    assert patience.left_s(15.1) == 5.0


def test_a_relay_that_starts_late_serves_what_it_hears_of_then(served, site):
    versions = list(training(3, 50_000))
    for each in versions:
        served.publish(each)
    (robot,) = neighbours(site, 1)
    with robot:
        robot.announced(served.announced[-1])
        wait_until(lambda: robot.stats.bytes == 0 and robot._wanted, "that it waits")
        site.tell(served.announced[-1])
        wait_until(lambda: robot.newest(2), "version 3")
        assert robot.stats.detours == 0


def test_many_robots_pull_at_a_time(served, endpoint):
    served.publish(version(1, size=500_000))
    pullers = [PolicyPuller(client(endpoint), CONFIG_HASH) for _ in range(4)]
    try:
        for puller in pullers:
            puller.announced(served.announced[0])
        wait_until(lambda: all(p.newest(0) for p in pullers), "all four")
    finally:
        for puller in pullers:
            puller.close()


def test_an_endpoint_that_is_taken_is_named(endpoint):
    with open_session(router(endpoint)):
        with pytest.raises(TransportError, match=endpoint.replace("/", ".")):
            open_session(router(endpoint))


def test_closing_does_not_wait_for_a_learner_that_never_comes(endpoint):
    puller = PolicyPuller(client(endpoint))
    closer = threading.Thread(target=puller.close)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()


def test_a_prefix_with_wildcards_is_refused(endpoint):
    with open_session(router(endpoint)) as session, pytest.raises(ConfigError, match="prefix"):
        PolicyServer(session, "run/*", print)
