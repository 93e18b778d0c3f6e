"""Keys that say what a recording on topics is: its episodes, actions, rewards and results."""

from __future__ import annotations

from typing import Any, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError


class EventConfig(Config):
    """Something that happens in a recording: a message, a value in it, or the call of a service."""

    topic: str = setting("", doc="Topic, for instance /episode.")
    field: str = setting(
        "", doc="Path to the value in its messages, for instance data. Empty: any message will do."
    )
    equals: Any = setting(
        None,
        doc="Value, or list of values, that the field must have. Empty with a field: any value "
        "that is true. The event is when it becomes so.",
    )
    every: bool = setting(
        False, doc="Each message with that value is an event, not only the first in a row."
    )
    service: str = setting(
        "",
        doc="Instead: a service whose calls are recorded (service introspection, as "
        "NAME/_service_event); each call is an event.",
    )

    def validate(self) -> None:
        """Refuse what names nothing, or two things."""
        if bool(self.topic) == bool(self.service):
            raise ConfigError(
                "event", got="both topic and service" if self.topic else "neither topic nor service",
                expected="one of the two",
            )  # fmt: skip
        if self.equals is not None and not self.field:
            raise ConfigError("event", got="equals without field", expected="field beside it")

    @property
    def heard_on(self) -> str:
        """The topic that tells of it."""
        return self.topic or f"{self.service.rstrip('/')}/_service_event"


class NumberConfig(Config):
    """A number, or text, in the messages of a topic."""

    topic: str = setting(doc="Topic.", min_length=1)
    field: str = setting("data", doc="Path to it in the messages.", min_length=1)


class RecordingConfig(Config):
    """What a recording on topics is."""

    start: EventConfig | None = setting(
        None, doc="Begins an episode. Empty: the recording does, and what comes after an end."
    )
    end: EventConfig | None = setting(
        None, doc="Ends an episode. Empty: the next start does, and the end of the recording."
    )
    gap_s: float = setting(
        0.0,
        doc="Silence of a topic of the observation that ends an episode; the next begins after it. "
        "0: what the contract takes for silence (max_age_s).",
        unit="s",
        ge=0,
    )
    least_s: float = setting(0.5, doc="Shorter episodes are none.", unit="s", ge=0)
    success: EventConfig | None = setting(
        None, doc="Within an episode, or at its end: it succeeded."
    )
    failure: EventConfig | None = setting(None, doc="Likewise: it failed.")
    terminated: Literal["success", "never"] = setting(
        "success",
        doc="Whether an episode that succeeded (or failed) ended there for good, so that nothing is "
        "expected beyond. never: it was only cut off.",
    )
    reward: NumberConfig | None = setting(
        None, doc="Reward: the last number within each step. Empty: 1 at a success, else 0."
    )
    task: str = setting("", doc="Name of the task, of all episodes.")
    task_from: NumberConfig | None = setting(None, doc="Topic that says it: the last text counts.")
    actions: Literal["commanded", "measured"] = setting(
        "commanded",
        doc="commanded: what stands on the contract's topics of commands. measured: what the robot "
        "did, where it was led by hand or its commands were not recorded.",
    )
    source: Literal["demonstration", "online", "evaluation"] = setting(
        "demonstration", doc="What the episodes count as."
    )
    acted_by: Literal["human", "policy", "script"] = setting(
        "human", doc="Who decided the actions."
    )

    def validate(self) -> None:
        """Refuse two answers to one question."""
        if self.task and self.task_from is not None:
            raise ConfigError("task", got="task beside task_from", expected="one of the two")

    @property
    def events(self) -> dict[str, EventConfig]:
        """The events that are asked for, by key."""
        keys = ("start", "end", "success", "failure")
        return {key: event for key in keys if (event := getattr(self, key)) is not None}
