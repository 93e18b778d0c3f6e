"""The manifest of a job, held against what Kubernetes' own tool reads of it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from user_core import plugins
from user_core.jobs import Job
from user_fleet.engines.kubernetes import KubernetesEngine, k8s_name, state_of_pod

OPTIONS = {
    "image": "registry.example.org/user:1", "gpus": 2, "cores": 4, "memory_gb": 16, "claim": "runs",
    "node_selector": {"gpu": "a100"}, "environment": {"OMP_NUM_THREADS": "1"}, "pod": {"serviceAccountName": "lab"},
}  # fmt: skip
JOB = Job("peg_insertion.learner", ["user", "up", "cloud", "name:=\"x y\""], Path(), {"ROS_DOMAIN_ID": "7"})  # fmt: skip


def engine() -> KubernetesEngine:
    made: KubernetesEngine = plugins.build("engines", "kubernetes", OPTIONS)
    return made


def test_a_manifest_asks_for_what_was_said_and_is_never_started_again() -> None:
    manifest = engine().manifest(JOB)
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert manifest["spec"]["backoffLimit"] == 0 and spec["restartPolicy"] == "Never"
    assert container["resources"]["limits"] == {
        "nvidia.com/gpu": "2",
        "cpu": "4",
        "memory": "16384Mi",
    }
    assert container["command"][-1] == "exec user up cloud 'name:=\"x y\"'"
    assert {"name": "ROS_DOMAIN_ID", "value": "7"} in container["env"]
    assert spec["serviceAccountName"] == "lab"
    assert manifest["metadata"]["name"] == "user-peg-insertion-learner" == k8s_name(JOB.name)


def test_kubectl_reads_all_of_it() -> None:
    """What its types do not know, it would drop."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    manifest = engine().manifest(JOB)
    words = ["kubectl", "set", "env", "--local", "-f", "-", "-o", "json", "SEEN=yes"]
    done = subprocess.run(
        words, input=json.dumps(manifest), capture_output=True, text=True, check=True
    )
    read = json.loads(done.stdout)
    env = read["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "SEEN", "value": "yes"} in env
    env.remove({"name": "SEEN", "value": "yes"})
    assert lacks(manifest, read) == []


def lacks(ours: object, theirs: object, path: str = "") -> list[str]:
    """What of ours is not in theirs, or otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            x for key, value in ours.items() for x in lacks(value, theirs.get(key), f"{path}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [x for a, b in zip(ours, theirs, strict=True) for x in lacks(a, b, path)]
    same = ours == theirs or (ours, theirs) == ("16384Mi", "16Gi")  # as it writes the same
    return [] if same else [f"{path}: {ours} != {theirs}"]


def test_without_kubectl_it_is_written_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", "")
    made = engine()
    number = made.submit(Job(JOB.name, JOB.command, tmp_path))
    (file,) = tmp_path.glob("*.json")
    state = made.state(number)
    assert state.phase == "waiting" and str(file) in state.reason.text
    assert json.loads(file.read_text())["kind"] == "Job"
    made.cancel(number)
    assert made.logs(number) == b""


def test_why_a_pod_waits_is_told() -> None:
    pending = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}],
    }  # fmt: skip
    state = state_of_pod("j", pending)
    assert state.phase == "waiting" and "Insufficient nvidia.com/gpu" in state.reason.text
    pulling = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    assert "ImagePullBackOff" in state_of_pod("j", pulling).reason.text
    running = state_of_pod("j", {"phase": "Running", "podIP": "10.1.2.3"})
    assert (running.phase, running.where) == ("running", "10.1.2.3")
