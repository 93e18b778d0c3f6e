"""The network of robots and learners: Zenoh sessions, who belongs to it, and what they may do."""
