"""Clients that neither read nor answer any more: the router closes them, and nobody else waits."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import zenoh

from user_comm.net.sessions import ZenohConfig, open_session
from user_testing.ports import free_endpoint

ROUTER = """
    import threading, time, zenoh
    from user_comm.net.sessions import ZenohConfig, open_session
    session = open_session(ZenohConfig(mode="router", listen=({endpoint!r},), shared_memory=False))
    last, longest = None, 0.0  # from the first message on: until then processes start
    def take(sample):
        global last, longest
        now = time.monotonic()
        longest = max(longest, now - (last or now))
        last = now
    session.declare_subscriber("good/**", zenoh.handlers.Callback(take, None, indirect=False))
    def push():
        while True:
            session.put("bad/down", bytes(100_000), congestion_control=zenoh.CongestionControl.DROP)
            time.sleep(0.01)
    threading.Thread(target=push, daemon=True).start()
    print("ready", flush=True)
    input()
    print(max(longest, time.monotonic() - last), flush=True)
"""
BAD = """
    import time
    from user_comm.net.sessions import ZenohConfig, open_session
    session = open_session(ZenohConfig(connect=({endpoint!r},), shared_memory=False))
    held = session.declare_subscriber("bad/down", lambda sample: None)
    print("ready", flush=True)
    time.sleep(60)
"""


def start(code, endpoint):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code).format(endpoint=endpoint)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_nobody_waits_for_clients_that_are_frozen():
    endpoint = free_endpoint()
    processes = [start(ROUTER, endpoint)]
    try:
        processes += [start(BAD, endpoint) for _ in range(4)]
        config = ZenohConfig(connect=(endpoint,), shared_memory=False)
        with open_session(config) as good:
            begun_s = time.monotonic()
            while (now_s := time.monotonic()) < begun_s + 10:
                good.put("good/up", b"here", congestion_control=zenoh.CongestionControl.DROP)
                if processes[1].poll() is None and now_s > begun_s + 1:
                    for process in processes[1:]:
                        os.kill(process.pid, signal.SIGSTOP)
                time.sleep(0.02)
            longest_s = float(processes[0].communicate("\n", timeout=30)[0])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    # A socket with unsent bytes lingers for 10 s; whoever waits for that waits longer than this.
    assert longest_s < 8
