"""What a received message costs a driver: by looking for it often, beside rclpy's executor.

A publisher in another process sends joint states at 500 Hz. They are received in this process by
``user_comm.topic_io.RosTopicIo`` (which looks for messages every 4 ms and takes what has come) and
by a bare ``create_subscription`` that a SingleThreadedExecutor serves. The two take turns in one
run, so that a busy machine slows both alike; what counts is the ratio of the processor times per
message of the receiving threads.

    python benchmarks/control/topic_reception.py [--rounds 3] [--seconds 4] [--rate 500]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from user_comm.topic_io import RosTopicIo
from user_core.command_line import Parser
from user_testing import systems

TOPIC = "/benchmark/joint_states"


def publish(rate_hz: float) -> None:
    rclpy.init()
    node = Node("publisher")
    publisher = node.create_publisher(JointState, TOPIC, qos_profile_sensor_data)
    message = JointState(name=[f"joint{i}" for i in range(7)])
    message.position = message.velocity = message.effort = [0.1] * 7
    due_s = time.monotonic()
    while os.getppid() != 1:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        due_s += 1.0 / rate_hz
        time.sleep(max(0.0, due_s - time.monotonic()))


def thread_cpu_s(name: str) -> float:
    """Processor time of a thread of this process, from /proc."""
    [thread] = [t for t in threading.enumerate() if t.name == name]
    fields = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
    return int(fields[0]) / 1e9


def measure(name: str, seconds: float, count: Callable[[], int]) -> tuple[float, float]:
    """Processor time per message in microseconds, and messages a second."""
    first, cpu_s, began_s = count(), thread_cpu_s(name), time.monotonic()
    time.sleep(seconds)
    messages = count() - first
    rate_hz = messages / (time.monotonic() - began_s)
    return (thread_cpu_s(name) - cpu_s) / messages * 1e6, rate_hz


def by_looking(node: Node, seconds: float) -> tuple[float, float]:
    got = [0]

    def callback(_: Any) -> None:
        got[0] += 1

    subscription = RosTopicIo(node).subscribe(
        TOPIC, "sensor_msgs/msg/JointState", callback, depth=32
    )
    wait_for(lambda: got[0] > 10)
    result = measure(f"topics of {node.get_name()}", seconds, lambda: got[0])
    subscription.close()
    return result


def by_executor(node: Node, seconds: float) -> tuple[float, float]:
    got = [0]

    def callback(_: Any) -> None:
        got[0] += 1

    subscription = node.create_subscription(JointState, TOPIC, callback, qos_profile_sensor_data)
    executor, stopping = SingleThreadedExecutor(), threading.Event()
    executor.add_node(node)

    def spin() -> None:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.2)

    thread = threading.Thread(target=spin, name="executor")
    thread.start()
    wait_for(lambda: got[0] > 10)
    result = measure("executor", seconds, lambda: got[0])
    stopping.set()
    thread.join()
    executor.shutdown()
    node.destroy_subscription(subscription)
    return result


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("no messages")
        time.sleep(0.01)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        publish(args.rate)
        return
    command = [sys.executable, __file__, "--publish", "--rate", str(args.rate)]
    publisher = systems.start(command)
    try:
        rclpy.init()
        node = Node("receiver")
        looking, executor = [], []
        for _ in range(args.rounds):
            looking.append(by_looking(node, args.seconds))
            executor.append(by_executor(node, args.seconds))
        for label, results in (("looking", looking), ("executor", executor)):
            cost_us = statistics.median(cost for cost, _ in results)
            rate_hz = statistics.median(rate for _, rate in results)
            print(f"{label:9s} {cost_us:6.0f} us a message, {rate_hz:5.0f} messages a second")
        ratio = statistics.median(a[0] / b[0] for a, b in zip(looking, executor))
        print(f"ratio     {ratio:6.2f}")
        rclpy.shutdown()
    finally:
        publisher.kill()
        publisher.wait()


if __name__ == "__main__":
    main()
