"""Episode keys and results to and from ``user_msgs/EpisodeKey`` and ``EpisodeResult``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from user_msgs.msg import EpisodeKey as EpisodeKeyMessage
from user_msgs.msg import EpisodeResult as EpisodeResultMessage

from user_comm.converters import checks
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, Outcome


@dataclass(frozen=True)
class EpisodeReport:
    """An episode's result, and on what it was obtained: the content of ``episode_result``.

    Attributes:
        result: What came of it.
        robot: Name of the robot.
        task: Name of the task.
    """

    result: EpisodeResult
    robot: str = ""
    task: str = ""


def episode_key_to_message(key: EpisodeKey) -> Any:
    """Encode an episode key."""
    message = EpisodeKeyMessage()
    message.producer = key.producer
    message.incarnation = int(key.incarnation)
    message.number = int(key.number)
    return message


def episode_key_from_message(message: Any, where: str = "episode") -> EpisodeKey:
    """Decode an episode key; raises CodecError."""
    return EpisodeKey(
        producer=checks.name(message.producer, f"{where}.producer"),
        incarnation=checks.integer(message.incarnation, f"{where}.incarnation", 0),
        number=message.number,
    )


def episode_result_to_message(result: EpisodeResult, robot: str = "", task: str = "") -> Any:
    """Encode what came of an episode."""
    message = EpisodeResultMessage()
    message.key = episode_key_to_message(result.key)
    message.robot, message.task = robot, task
    message.source = int(result.source)
    message.outcome = int(result.outcome)
    message.length = int(result.length)
    message.episode_return = float(result.episode_return)
    message.interventions = int(result.interventions)
    message.first_version = int(result.first_version)
    message.last_version = int(result.last_version)
    message.start_ns = int(result.start_ns)
    message.end_ns = int(result.end_ns)
    message.reason = result.reason
    return message


def episode_result_from_message(message: Any, where: str = "episode result") -> EpisodeResult:
    """Decode what came of an episode; raises CodecError."""
    return EpisodeResult(
        key=episode_key_from_message(message.key, f"{where}.key"),
        source=checks.enum(EpisodeSource, message.source, f"{where}.source"),
        outcome=checks.enum(Outcome, message.outcome, f"{where}.outcome"),
        length=message.length,
        episode_return=checks.number(message.episode_return, f"{where}.episode_return"),
        interventions=checks.integer(
            message.interventions, f"{where}.interventions", 0, message.length
        ),
        first_version=checks.integer(message.first_version, f"{where}.first_version", 0),
        last_version=checks.integer(message.last_version, f"{where}.last_version", 0),
        start_ns=checks.integer(message.start_ns, f"{where}.start_ns", 0),
        end_ns=checks.integer(message.end_ns, f"{where}.end_ns", 0),
        reason=checks.text(message.reason, f"{where}.reason"),
    )


def episode_report_to_message(report: EpisodeReport) -> Any:
    """Encode an episode report."""
    return episode_result_to_message(report.result, report.robot, report.task)


def episode_report_from_message(message: Any) -> EpisodeReport:
    """Decode an episode report; raises CodecError."""
    return EpisodeReport(
        result=episode_result_from_message(message),
        robot=checks.name(message.robot, "episode result.robot", empty=True),
        task=checks.name(message.task, "episode result.task", empty=True),
    )
