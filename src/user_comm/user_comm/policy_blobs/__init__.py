"""Policy versions over Zenoh: announced on a topic, pulled in small pieces.

Why pulled and not pushed: one slow or dead robot must not hold up the others, and a pull can
be retried piece by piece; ``docs/explanation/policy_sync.md`` and the measurements behind it say more.
"""
