"""The safety gate: what stands between any command and any robot."""

from user_hal.safety.config import SafetyConfig
from user_hal.safety.gate import SafetyGate, Verdict
from user_hal.safety.rules import Refused

__all__ = ["Refused", "SafetyConfig", "SafetyGate", "Verdict"]
