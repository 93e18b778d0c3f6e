"""A program that commands the robot until it is killed: ``python commander.py NAMESPACE``."""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from user_msgs.msg import ActionChunk as ActionChunkMessage

from user_comm import topics
from user_comm.converters import action_chunk_to_message
from user_comm.topics import profile
from user_core.types import ActionChunk

if __name__ == "__main__":
    rclpy.init()
    node = Node("commander", namespace=sys.argv[1])
    out = node.create_publisher(ActionChunkMessage, "action", profile(topics.ACTION.quality))
    row = np.zeros((1, 7), np.float32)
    row[0, 0] = 0.0001
    sequence = 0
    while True:
        sequence += 1
        out.publish(action_chunk_to_message(ActionChunk(row, 20_000_000, sequence=sequence)))
        time.sleep(0.02)
