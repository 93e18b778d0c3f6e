"""ROS arguments of commands: what follows ``--ros-args`` goes to the node that they make."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_ROS_ARGS = "--ros-args"
ROS_ARGS_HELP = "ROS arguments follow --ros-args, for instance -r __ns:=/r0 -p use_sim_time:=true."


def split_ros_arguments(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Our words, and the ROS arguments with ``--ros-args`` in front, if there are any.

    As in every ROS program, ``--`` ends the ROS arguments, and ours may follow it.

    Args:
        argv: The words of the command; None: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if _ROS_ARGS not in words:
        return words, []
    begin = words.index(_ROS_ARGS)
    end = words.index("--", begin) if "--" in words[begin:] else len(words)
    return words[:begin] + words[end + 1 :], words[begin:end]
