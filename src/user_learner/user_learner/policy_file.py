"""The newest policy version as a file: for evaluations, and for people who take it elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from user_core.codecs.weights import encode_version
from user_core.interfaces import PolicySink
from user_core.types import PolicyVersion

POLICY_FILE = "policy.safetensors"


class PolicyFile:
    """A :class:`~user_core.interfaces.PolicySink` that keeps the newest version in a file, and
    passes every version on.

    The file is replaced whole; it is not flushed to the disk, because checkpoints hold the
    same weights durably.
    """

    def __init__(self, directory: Path, sink: PolicySink) -> None:
        self.path, self._sink = Path(directory) / POLICY_FILE, sink
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def publish(self, version: PolicyVersion) -> None:
        """Write the file, then pass the version on."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(encode_version(version))
        os.replace(fresh, self.path)
        self._sink.publish(version)
