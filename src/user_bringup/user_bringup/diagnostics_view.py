"""How diagnostics are grouped for people: parameters of ``diagnostic_aggregator``, by robot and host."""

from __future__ import annotations

from typing import Any

from user_fleet.deployment import Deployment

#: Our nodes speak once a second; silence of this long is stale.
_TIMEOUT_S = 5.0


def aggregator_parameters(deployment: Deployment) -> dict[str, Any]:
    """Parameters of ``aggregator_node``, for any name of it, as a ROS parameter file has them.

    Each namespace with a robot is a group of its own, with one group for each of its nodes; all other nodes
    are groups of the group ``host``. Names of diagnostics are ``<node>: <item>``.
    """
    robots = {p.namespace for p in deployment.processes if p.executable == "hal_node"}
    groups: dict[str, dict[str, Any]] = {}
    for process in deployment.processes:
        if not process.ros:
            continue
        owner = process.namespace if process.namespace in robots else "host"
        name = owner.strip("/").replace("/", "_")
        group = groups.setdefault(
            name,
            {
                "type": "diagnostic_aggregator/AnalyzerGroup",
                "path": owner.strip("/"),
                "analyzers": {},
            },
        )
        group["analyzers"][process.name] = {
            "type": "diagnostic_aggregator/GenericAnalyzer",
            "path": process.name,
            "startswith": [f"{process.node_name.lstrip('/')}: "],
            "timeout": _TIMEOUT_S,
        }
    return {"/**": {"ros__parameters": {"path": "USER", "pub_rate": 1.0, **groups}}}
