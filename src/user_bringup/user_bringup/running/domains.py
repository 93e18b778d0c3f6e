"""The ROS domains of a deployment: where it runs several hosts on one machine, there are several."""

from __future__ import annotations

import os

from user_fleet.deployment import Deployment

_VARIABLE = "ROS_DOMAIN_ID"


def ros_domains(deployment: Deployment) -> list[int]:
    """The domains of its processes, each once, that of the learner last.

    A process that names none has that of the deployment, or else of our own environment.
    """
    usual = deployment.environment.get(_VARIABLE) or os.environ.get(_VARIABLE) or "0"
    learner_last = sorted(deployment.processes, key=lambda p: p.executable == "learner_node")
    found: dict[int, None] = {}
    for process in learner_last:
        if process.ros:
            domain = int(process.environment.get(_VARIABLE) or usual)
            found.pop(domain, None)  # the last to name it decides its place
            found[domain] = None
    return list(found)
