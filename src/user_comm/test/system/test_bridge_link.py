"""The session of a bridge, with a real router in this process."""

import time

import pytest

from user_comm.bridge import link as bridge_link
from user_comm.bridge.link import BridgeLink
from user_comm.net.sessions import ZenohConfig, open_session
from user_testing.ports import free_endpoint
from user_testing.waiting import wait_until


@pytest.fixture
def endpoint():
    return free_endpoint()


def test_a_session_that_is_answered_stays_and_one_that_is_not_is_opened_anew(endpoint, monkeypatch):
    monkeypatch.setattr(bridge_link, "_HUNG_S", 3.0)
    monkeypatch.setattr(bridge_link, "_LOOK_S", 0.05)
    sessions, said = [], []
    with open_session(ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)):
        link = BridgeLink(
            "bulk", ZenohConfig(connect=(endpoint,), shared_memory=False), sessions.append,
            lambda: None, lambda: None, said.append, ping_period_s=0.1,
        )  # fmt: skip
        link.start()
        try:
            wait_until(lambda: link.is_up, "it is up")
            since_s = time.monotonic()
            wait_until(lambda: time.monotonic() - since_s > 3.5, "longer than without an answer")
            assert len(sessions) == 1
            assert link.round_trip_s < 3.0
            # It asks, and hears nothing.
            monkeypatch.setattr(link, "_ping", lambda session: None)
            wait_until(lambda: len(sessions) == 2, "another session")
            monkeypatch.undo()
            wait_until(lambda: link.is_up, "it is up again")
            assert any("nothing is answered" in line for line in said)
        finally:
            link.close()
