"""Jobs of a Ray cluster, through the REST interface of its head, as `ray job submit` does it; Ray itself is not needed
here."""

from __future__ import annotations

import json
import shlex
import time
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException
from typing import Any

from user_core.config import setting
from user_core.errors import ConfigError, EngineError, EngineSilent
from user_core.jobs import Engine, EngineConfig, Job, JobState, Phase
from user_core.reasons import JOB_FAILED, JOB_GONE, JOB_WAITS, NO_REASON, Reason

_PHASES: dict[str, Phase] = {
    "PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "done", "FAILED": "failed", "STOPPED": "cancelled",
}  # fmt: skip
_ASK_S = 15.0
_LOGS_S = 2.0


class RayConfig(EngineConfig):
    """Where the cluster is, and what is asked of it."""

    address: str = setting(
        "http://127.0.0.1:8265", doc="The head's dashboard, where jobs are submitted."
    )
    headers: dict[str, str] = setting(
        factory=dict, doc="Headers of requests, for a proxy before it."
    )
    gpus: float | None = setting(None, doc="GPUs; null: as many as the role was granted.", ge=0)
    cores: float = setting(0.0, doc="Cores.", ge=0)
    memory_gb: float = setting(0.0, doc="Memory.", unit="GiB", ge=0)
    resources: dict[str, float] = setting(
        factory=dict, doc="Other resources of the cluster, for instance {learner: 1}."
    )
    runtime_env: dict[str, Any] = setting(
        factory=dict, doc="Ray's runtime environment, for instance {working_dir: s3://...}."
    )

    def validate(self) -> None:
        super().validate()
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError("address", got=repr(self.address), expected="http://HOST:8265")


class RayEngine(Engine):
    """``ray job submit``. Cancelling sends SIGTERM; a cluster kills after ``RAY_JOB_STOP_WAIT_TIME_S``, 3 s, unless it
    is told otherwise."""

    Config = RayConfig
    logs_late_s = 2.5

    def __init__(self, config: RayConfig) -> None:
        super().__init__(config)
        self._text, self._text_s, self._of = b"", -_LOGS_S, ""

    def submit(self, job: Job) -> str:
        """Hand it over. Raises EngineError where Ray refuses."""
        config: RayConfig = self.config
        gpus = config.gpus if config.gpus is not None else job.resources.get("gpus", 0.0)
        number = f"{job.name}-{uuid.uuid4().hex[:8]}"
        request: dict[str, Any] = {
            "submission_id": number,
            "entrypoint": shlex.join(["/bin/sh", "-c", self.script(job)]),
            "runtime_env": config.runtime_env,
            "metadata": {"started_by": "user", "name": job.name},
        }
        asked = {
            "entrypoint_num_gpus": gpus, "entrypoint_num_cpus": config.cores,
            "entrypoint_memory": int(config.memory_gb * 2**30), "entrypoint_resources": config.resources,
        }  # fmt: skip
        self._ask("POST", "", request | {key: value for key, value in asked.items() if value})
        return number

    def state(self, number: str) -> JobState:
        """What the head says."""
        found = self._ask("GET", number)
        if found is None:
            return JobState("gone", Reason(JOB_GONE, f"ray knows no job {number}"))
        phase = _PHASES.get(str(found.get("status")), "running")
        text = f"ray job {number}: {' '.join(str(found.get('message') or '').split())}"[:400]
        reason = NO_REASON
        if phase in ("waiting", "failed"):
            reason = Reason(JOB_WAITS if phase == "waiting" else JOB_FAILED, text)
        where = str(found.get("driver_agent_http_address") or "")
        return JobState(phase, reason, where.removeprefix("http://").partition(":")[0])

    def cancel(self, number: str) -> None:
        """Ask the head to stop it."""
        self._ask("POST", f"{number}/stop", {})

    def logs(self, number: str, offset: int = 0) -> bytes:
        """The head gives all of it at a time, so that it is asked every two seconds only."""
        now_s = time.monotonic()
        if number != self._of or now_s - self._text_s >= _LOGS_S:
            found = self._ask("GET", f"{number}/logs")
            self._text = str((found or {}).get("logs") or "").encode()
            self._text_s, self._of = now_s, number
        return self._text[offset:]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; None where there is no such job. Raises EngineError or EngineSilent."""
        config: RayConfig = self.config
        url = f"{config.address.rstrip('/')}/api/jobs/{path}"
        headers = {"Content-Type": "application/json", **config.headers}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ASK_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace").strip().splitlines()
            if error.code == 404 and path:
                return None
            what = EngineSilent if error.code >= 502 or error.code == 429 else EngineError
            raise what(f"ray at {config.address}", got=f"{error.code}: {(text or [''])[-1][:300]}") from error  # fmt: skip
        except (OSError, HTTPException, ValueError) as error:
            raise EngineSilent(f"ray at {config.address}", got=str(error)[:300]) from error
