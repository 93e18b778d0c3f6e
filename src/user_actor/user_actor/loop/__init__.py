"""Acting: the control loop and what it is made of. No ROS, no disk, no network in here."""

from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.control_loop import ControlLoop
from user_actor.loop.policy_holder import PolicyHolder

__all__ = ["ActorLoopConfig", "ControlLoop", "PolicyHolder"]
