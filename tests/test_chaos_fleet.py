"""`user chaos --fleet`: agents, schedulers and what they run are killed, sites are cut off, and it goes on."""

from __future__ import annotations

import json
import subprocess

import pytest

from user_testing.ports import claim_domain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_fleet_survives_kills_and_cuts(tmp_path, start_process):
    domains = [str(claim_domain().number) for _ in range(5)]
    words = [
        "user", "chaos", "three_arms", "--fleet", "--domains", *domains, "--runs", str(tmp_path),
        "--run", "f", "--minutes", "1", "--kills", "6", "--suspends", "0", "--networks", "2",
        "--seed", "2",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=580)
    assert process.returncode == 0, output[-6000:]
    result = json.loads((tmp_path / "f" / "chaos.json").read_text())
    kinds = [blow["fault"]["kind"] for blow in result["blows"] if blow["hit_s"] is not None]
    assert (kinds.count("kill"), kinds.count("network")) == (6, 2)
    kept = {check["name"] for check in result["checks"] if check["good"]}
    assert "every robot obeyed one holder at a time" in kept
    assert "every committed step is stored once" in kept
    assert "the experiment went on by itself" in kept
