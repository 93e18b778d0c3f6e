"""What takes the place of a process that was killed hears those who knew the dead one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from rclpy.node import Node
from std_srvs.srv import Trigger

from user_comm.services import ServiceClient
from user_core.errors import TransportError
from user_core.runtime.dds.files import FOLDER, PORT
from user_core.runtime.dds.replaced_ports import OwnPorts
from user_core.runtime.dds.retired_ports import LOOKED_AT, SentPorts, port_flags
from user_testing.spinning import spinning
from user_testing.waiting import wait_until

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared memory here")

#: In the memory of a port, behind its flags: what its first listener does. Bits: there is one, it waits, it processes.
LISTENER = 20588
THERE, WAITS, PROCESSES = 1, 2, 4

SERVER = """
import rclpy
from std_srvs.srv import Trigger
from user_comm.start import start_rclpy
{start}()
node = rclpy.create_node("server")
node.create_service(Trigger, "ask", lambda request, answer: answer)
rclpy.spin(node)
"""


@pytest.fixture
def node(ros_domain: int) -> Iterator[Node]:
    with spinning(partial(Node, "tester")) as (node,):
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[ServiceClient]:
    client = ServiceClient(node, "/ask", Trigger)
    yield client
    client.destroy()


def is_answered(client: ServiceClient) -> bool:
    try:
        client.call(Trigger.Request(), 1.0)
    except TransportError:
        return False
    return True


def kill_between_two_looks(process: subprocess.Popen[str]) -> None:
    """As it happens in one of some thousand kills: the listeners neither wait nor process."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    links = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
    ports = [Path(link.removesuffix("_el")) for link in links if PORT.search(link)]
    if not ports:
        pytest.skip("this middleware has no shared memory")
    for port in ports:
        with port.open("r+b", buffering=0) as file:
            at, flags = port_flags(file.read(LOOKED_AT), port.name)
            if not flags:
                pytest.skip("another release of FastDDS, with other ports")
            state = os.pread(file.fileno(), 1, at + LISTENER)[0]
            assert state & THERE and not state & ~(THERE | WAITS | PROCESSES), hex(state)
            os.pwrite(file.fileno(), bytes([THERE]), at + LISTENER)
    process.kill()
    process.wait()


def test_a_process_that_starts_as_ours_do(
    client: ServiceClient, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    words = [sys.executable, "-c", SERVER.format(start="start_rclpy")]
    first = start_process(words)
    wait_until(lambda: is_answered(client), "an answer of the first")
    kill_between_two_looks(first)
    start_process(words)
    wait_until(lambda: is_answered(client), "an answer of the second")


def test_a_process_that_is_none_of_ours(
    client: ServiceClient, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    words = [sys.executable, "-c", SERVER.format(start="rclpy.init")]
    first = start_process(words)
    wait_until(lambda: is_answered(client), "an answer of the first")
    own, sent = OwnPorts(), SentPorts()
    own.replaced()
    assert sent.retire_removed(own.names) == []
    kill_between_two_looks(first)
    start_process(words)
    wait_until(client.client.service_is_ready)
    assert not is_answered(client), (
        "FastDDS sees it by itself now, and this test and what it tests can go"
    )
    # Any process of ours that starts meanwhile on this host, of another test too, may have done it before.
    wait_until(lambda: sent.retire_removed(own.names) or is_answered(client), "a removed port")
    wait_until(lambda: is_answered(client), "an answer of the second")
    wait_until(lambda: not sent.retire_removed(own.names), "nothing more is found")
