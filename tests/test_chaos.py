"""`user chaos` on a run that trains: 20 kills and more, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess

import pytest

from user_bringup.chaos.verdict import count_steps, judge
from user_testing.ports import claim_domain, free_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SEED = 7


def test_twenty_kills_lose_nothing(tmp_path, start_process, ros_domain):
    words = [
        "user", "chaos", "sim_single", "task:=reach", "speed:=2.0",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "c",
        "--minutes", "2.5", "--kills", "20", "--seed", str(SEED),
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-6000:]
    folder = tmp_path / "c"
    result = json.loads((folder / "chaos.json").read_text())
    hits = [blow for blow in result["blows"] if blow["hit_s"] is not None]
    assert sum(blow["fault"]["kind"] == "kill" for blow in hits) == 20
    assert all(blow["recovery_s"] is not None or blow["overtaken"] for blow in hits)
    assert all(check["good"] for check in result["checks"])
    assert len(result["checks"]) == 12

    # The judge does not only say yes.
    steps = count_steps(folder)
    assert steps.committed == steps.stored + steps.waiting > 200
    assert broken(folder) == set()
    torn = shutil.copytree(folder, tmp_path / "torn")
    segment = max((torn / "replay").rglob("*"), key=lambda f: f.stat().st_size * f.is_file())
    data = bytearray(segment.read_bytes())
    data[8] ^= 1
    segment.write_bytes(data)
    assert "the store is sound" in broken(torn)
    lost = shutil.copytree(folder, tmp_path / "lost")
    (outbox,) = (lost / "outbox").glob("*/outbox.sqlite")
    with sqlite3.connect(outbox) as connection:
        connection.execute("UPDATE meta SET value = value + 3 WHERE key = 'steps'")
    connection.close()
    (check,) = [c for c in judge(lost, {}, {}) if "stored once" in c.name]
    assert not check.good
    assert re.search(r"\b3 lost", check.detail)
    (checkpoint, *_) = (lost / "learner" / "checkpoints").glob("*.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    assert "checkpoints can be loaded" in broken(lost)


def test_two_hosts_whose_network_is_cut_lose_nothing(tmp_path, start_process, ros_domain):
    router = free_endpoint()
    learner_domain = claim_domain().number
    words = [
        "user", "chaos", "two_hosts", "speed:=2.0", f"router:={router}",
        f"robot_domain:={ros_domain}", f"learner_domain:={learner_domain}",
        "--runs", str(tmp_path), "--run", "c", "--minutes", "1", "--kills", "5", "--suspends", "0",
        "--disks", "0", "--networks", "3", "--memories", "1", "--seed", "4",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-6000:]
    result = json.loads((tmp_path / "c" / "chaos.json").read_text())
    kinds = [blow["fault"]["kind"] for blow in result["blows"] if blow["hit_s"] is not None]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "kill": 5, "network": 3, "memory": 1,
    }  # fmt: skip
    assert count_steps(tmp_path / "c").stored > 100


def broken(folder) -> set[str]:
    return {check.name for check in judge(folder, {}, {}) if not check.good}
