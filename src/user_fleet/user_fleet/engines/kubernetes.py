"""Jobs of Kubernetes: a manifest that is written and, where `kubectl` is there, applied."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import Any

from user_core.config import setting
from user_core.errors import EngineError, EngineSilent
from user_core.jobs import Engine, EngineConfig, Job, JobState
from user_core.reasons import JOB_FAILED, JOB_GONE, JOB_WAITS, Reason
from user_core.runtime.files import write_atomically

_ASK_S = 20.0
_NAME_LENGTH = 63


class KubernetesConfig(EngineConfig):
    """The pod that runs the learner. What is not here goes into ``pod``."""

    image: str = setting(doc="Container image with USER.", min_length=1)
    namespace: str = setting("default", doc="Namespace.", min_length=1)
    context: str = setting("", doc="Context of kubectl; empty: the one that is chosen there.")
    gpus: int | None = setting(None, doc="GPUs; null: as many as the role was granted.", ge=0)
    gpu_resource: str = setting("nvidia.com/gpu", doc="What the cluster calls a GPU.")
    cores: float = setting(0.0, doc="Cores.", ge=0)
    memory_gb: float = setting(0.0, doc="Memory.", unit="GiB", ge=0)
    claim: str = setting("", doc="PersistentVolumeClaim for runs; empty: they end with the pod.")
    node_selector: dict[str, str] = setting(factory=dict, doc="Labels that a node must have.")
    stop_s: int = setting(60, doc="Time to end before it is killed.", unit="s", ge=0)
    pod: dict[str, Any] = setting(
        factory=dict, doc="Laid over the pod's spec, for instance {serviceAccountName: lab}."
    )


class KubernetesEngine(Engine):
    """A Job of one pod, never started again by Kubernetes: that is the scheduler's to decide.

    Without ``kubectl`` on the path the manifest is written, and the job waits until somebody has applied it and says
    `user fleet finish`.
    """

    Config = KubernetesConfig
    logs_late_s = 1.0

    def submit(self, job: Job) -> str:
        """Write the manifest, and apply it."""
        manifest = self.manifest(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        file = job.folder / f"{job.name}.job.k8s.json"
        write_atomically(file, json.dumps(manifest, indent=1))
        if shutil.which("kubectl") is not None:
            self._kubectl("apply", "-f", str(file))
        return f"{manifest['metadata']['name']}:{file}"

    def manifest(self, job: Job) -> dict[str, Any]:
        """The Job as Kubernetes reads it."""
        config: KubernetesConfig = self.config
        gpus = config.gpus if config.gpus is not None else int(job.resources.get("gpus", 0))
        limits = {
            **({config.gpu_resource: str(gpus)} if gpus else {}),
            **({"cpu": f"{config.cores:g}"} if config.cores else {}),
            **({"memory": f"{config.memory_gb * 1024:.0f}Mi"} if config.memory_gb else {}),
        }
        variables = {**job.variables, **config.environment}
        variables.pop("CUDA_VISIBLE_DEVICES", None)  # the device plugin says which
        lines = [config.setup] if config.setup else []
        container: dict[str, Any] = {
            "name": "learner",
            "image": config.image,
            "command": ["/bin/sh", "-c", "\n".join([*lines, f"exec {shlex.join(job.command)}"])],
            "env": [{"name": name, "value": value} for name, value in sorted(variables.items())],
            **({"resources": {"limits": limits, "requests": limits}} if limits else {}),
        }
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": config.stop_s,
            "containers": [container],
            **({"nodeSelector": config.node_selector} if config.node_selector else {}),
        }
        if config.claim:
            pod["volumes"] = [
                {"name": "runs", "persistentVolumeClaim": {"claimName": config.claim}}
            ]
            container["volumeMounts"] = [{"name": "runs", "mountPath": config.runs or "/runs"}]
        name = k8s_name(job.name)
        labels = {"app.kubernetes.io/managed-by": "user", "user/job": name}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": config.namespace, "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "template": {"metadata": {"labels": labels}, "spec": {**pod, **config.pod}},
            },
        }

    def state(self, number: str) -> JobState:
        """From the Job and, while it waits, from its pod."""
        name, _, file = number.partition(":")
        if shutil.which("kubectl") is None:
            text = f"kubectl is not on the path: apply {file} by hand, and `user fleet finish` when it is done"
            return JobState("waiting", Reason(JOB_WAITS, text))
        text = self._kubectl("get", "job", name, "-o", "json", missing_ok=True)
        if not text:
            return JobState("gone", Reason(JOB_GONE, f"kubernetes knows no job {name}"))
        status = json.loads(text).get("status") or {}
        for condition in status.get("conditions") or ():
            if condition.get("status") != "True":
                continue
            if condition.get("type") in ("Complete", "SuccessCriteriaMet"):
                return JobState("done")
            if condition.get("type") in ("Failed", "FailureTarget"):
                why = f"{condition.get('reason', '')}: {condition.get('message', '')}"
                return JobState("failed", Reason(JOB_FAILED, f"kubernetes job {name}: {why}"))
        pods = self._kubectl("get", "pods", "-l", f"job-name={name}", "-o", "json", missing_ok=True)
        items = (json.loads(pods).get("items") or []) if pods else []
        return state_of_pod(name, items[0].get("status") or {} if items else {})

    def cancel(self, number: str) -> None:
        """Delete it; its pod gets SIGTERM and ``stop_s``."""
        if shutil.which("kubectl") is not None:
            self._kubectl(
                "delete", "job", number.partition(":")[0], "--wait=false", missing_ok=True
            )

    def logs(self, number: str, offset: int = 0) -> bytes:
        """What kubectl shows of its pod."""
        if shutil.which("kubectl") is None:
            return b""
        name = number.partition(":")[0]
        return self._kubectl("logs", f"job/{name}", missing_ok=True).encode()[offset:]

    def _kubectl(self, *words: str, missing_ok: bool = False) -> str:
        config: KubernetesConfig = self.config
        where = ["--namespace", config.namespace] + (["--context", config.context] if config.context else [])  # fmt: skip
        try:
            done = subprocess.run(
                ["kubectl", *where, *words], capture_output=True, text=True, timeout=_ASK_S, check=False
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineSilent("kubectl", got=str(error)[:300]) from error
        if done.returncode == 0:
            return done.stdout
        text = " ".join(done.stderr.split())[-400:]
        if missing_ok and ("NotFound" in text or "not found" in text or "is waiting to start" in text):  # fmt: skip
            return ""
        silent = ("refused", "timeout", "no such host", "Unable to connect", "TLS handshake")
        raise (EngineSilent if any(word in text for word in silent) else EngineError)(
            f"kubectl {words[0]}", got=text
        )


def state_of_pod(job: str, status: dict[str, Any]) -> JobState:
    """Where a job is by the status of its pod."""
    if status.get("phase") == "Running":
        return JobState("running", where=str(status.get("podIP") or ""))
    why = [
        f"{c.get('reason', '')}: {c.get('message', '')}"
        for c in status.get("conditions") or ()
        if c.get("status") == "False" and c.get("type") == "PodScheduled"
    ]
    why += [
        f"{w.get('reason', '')}: {w.get('message', '')}"
        for c in status.get("containerStatuses") or ()
        if (w := (c.get("state") or {}).get("waiting"))
    ]
    text = f"kubernetes job {job}: {'; '.join(why) or 'no pod yet'}"
    return JobState("waiting", Reason(JOB_WAITS, text[:400]))


def k8s_name(text: str) -> str:
    """A text as a name in Kubernetes: lower case, digits and ``-``."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-") or "job"
    return f"user-{name}"[:_NAME_LENGTH].rstrip("-")
