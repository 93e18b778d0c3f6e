"""Scripted experts: one per simulated task, also the simulated human teleoperator."""

from __future__ import annotations

from user_hal.sim.experts.expert import ScriptedExpert

__all__ = ["ScriptedExpert"]
