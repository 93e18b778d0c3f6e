"""A node in a process of its own, for the tests of the lifecycle base class.

What happens to it is printed, one JSON list a line: ``["event", detail]``.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from user_comm import topics
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run
from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceError, SafetyError
from user_core.types import ActionChunk


class GateConfig(Config):
    max_age_s: float = setting(0.2, doc="Age at which a command is stale.", unit="s", gt=0)


class WorldConfig(Config):
    speed: float = setting(1.0, doc="Speed of the arm.", unit="m/s", ge=0, le=2, read_only=False)
    mode: Literal["fast", "safe"] = setting("safe", doc="How to move.", read_only=False)
    count: int = setting(3, doc="How many.", ge=1)
    gate: GateConfig = setting(factory=GateConfig, doc="Safety gate.")
    params: dict[str, Any] = setting(factory=dict, doc="Parameters of the driver.")
    failures: int = setting(0, doc="How often configuring fails.", ge=0)
    failure: Literal["device", "config", "exit"] = setting("device", doc="By what it fails.")
    failures_file: str = setting("", doc="Where the failures are counted.")
    end: Literal["", "raise", "hang"] = setting("", doc="How to end badly.")


def say(*event: Any) -> None:
    print(json.dumps(event), flush=True)


class World(LifecycleNode):
    Config = WorldConfig

    def configure(self, stack: ExitStack) -> None:
        if self.failures_file_says_fail():
            if self.config.failure == "exit":
                sys.exit(0)
            if self.config.failure == "config":
                raise ConfigError("key 'speeed'", got="unknown", expected="speed")
            raise DeviceError("arm", got="no power", hint="Switch it on")
        say("configure", {"speed": self.config.speed, "params": self.config.params})
        stack.callback(say, "undo configure")
        self.acks = self.advertise(topics.TRAJECTORY_ACK)
        self.listen(topics.ACTION, self.on_action)
        self.serve(topics.RESET, self.reset, in_thread=True)
        self.serve(topics.EMERGENCY_STOP, self.emergency_stop, always=True)
        self.serve(topics.RESET_EMERGENCY_STOP, self.refuse)

    def activate(self, stack: ExitStack) -> None:
        say("activate")
        stack.callback(say, "undo activate")
        if self.config.end == "hang":
            stack.callback(time.sleep, 3600)
        if self.config.end == "raise":  # past our helpers, as somebody may
            self.create_timer(0.01, lambda: 1 / 0)

    def reconfigure(self, old: WorldConfig, new: WorldConfig) -> None:
        say("reconfigure", [old.speed, new.speed])

    def failures_file_says_fail(self) -> bool:
        if not self.config.failures_file:
            return False
        path = Path(self.config.failures_file)
        done = int(path.read_text()) if path.exists() else 0
        path.write_text(str(done + 1))
        say("attempt", done + 1)
        return done < self.config.failures

    def on_action(self, chunk: ActionChunk) -> None:
        say("action", chunk.actions_ta.tolist())
        if chunk.sequence == 13:
            self.fail(DeviceError("arm", got="a fault"))

    def reset(self, request: Any, response: Any) -> None:
        say("reset begins", request.seed)
        time.sleep(0.5)
        response.success = True

    def emergency_stop(self, request: Any, response: Any) -> None:
        response.success, response.message = True, "stopped"

    def refuse(self, request: Any, response: Any) -> None:
        raise SafetyError("emergency stop", got="a hand in the way", hint="Take it away")


if __name__ == "__main__":
    sys.exit(run(World, "world"))
