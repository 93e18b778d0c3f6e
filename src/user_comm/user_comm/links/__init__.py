"""Zenoh sessions: who connects to whom, with which certificate, and the router between them."""

from user_comm.links.session import Credentials, ZenohConfig, open_session

__all__ = ["Credentials", "ZenohConfig", "open_session"]
