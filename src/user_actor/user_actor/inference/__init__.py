"""A policy that acts for robots on other hosts: batches, and how many robots there is room for. No ROS in here."""

from user_actor.inference.admission import Admission
from user_actor.inference.server import Client, InferenceServer

__all__ = ["Admission", "Client", "InferenceServer"]
