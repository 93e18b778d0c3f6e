"""Who belongs to a network of robots and learners, how they prove it, and what they may do."""

from user_comm.net.network import Network

__all__ = ["Network"]
