"""Acting: the episode loop and what it is made of. No ROS, no disk, no network in here."""

from user_actor.loop.acting.policy import FixedPolicy, PolicyHolder
from user_actor.loop.actor_loop import ActorLoop
from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.episode import EpisodeLoop

__all__ = ["ActorLoop", "ActorLoopConfig", "EpisodeLoop", "FixedPolicy", "PolicyHolder"]
