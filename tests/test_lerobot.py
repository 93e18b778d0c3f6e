"""Data of ours, a training of LeRobot, its policy on our arm, learned on here, and opened by LeRobot again: by the
commands that users have.

Skips where LeRobot is not installed (USER_EXTRA=lerobot make setup).
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from user_testing.ports import free_endpoint
from user_testing.worlds.fleets.deployment import DeploymentRun

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REACH = [
    "hal.robot.params.task:=reach", "hal.robot.params.real_time:=false", "hal.robot.params.cameras:=[front]",
    "hal.robot.params.image_height:=48", "hal.robot.params.image_width:=48",
]  # fmt: skip
SMALL = {
    "chunk_size": 8, "n_action_steps": 8, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "latent_dim": 4,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1,
}  # fmt: skip


def run(*words: object, folder: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Demonstrations, a data set of them, and what lerobot-train made of it."""
    folder = tmp_path_factory.mktemp("lerobot")
    run(
        "user",
        "demos",
        "record",
        "panda_sim",
        *REACH,
        "--out",
        "demos",
        "--episodes",
        10,
        "--noise",
        0.2,
        folder=folder,
    )
    run("user", "data", "export", "demos", "dataset", "--images", "png", folder=folder)
    run(
        "lerobot-train", "--dataset.repo_id=me/reach", "--dataset.root=dataset", "--policy.type=act",
        "--policy.device=cpu", "--policy.push_to_hub=false", "--policy.pretrained_backbone_weights=null",
        *(f"--policy.{name}={value}" for name, value in SMALL.items()), "--batch_size=4", "--steps=10",
        "--num_workers=0", "--wandb.enable=false", "--output_dir=out", folder=folder,
    )  # fmt: skip
    algorithm = {
        "algorithm": {"plugin": "bc", "params": {"learning_rate": 1e-4}},
        "policy": {
            "plugin": "lerobot",
            "params": {"checkpoint": str(folder / "out/checkpoints/last/pretrained_model")},
        },
        "sampler": {"window": 8, "pad_windows": True, "strata": [{"sources": ["demonstration"]}]},
        "training": {"batch_size": 4, "utd": {"target": None, "learning_starts": 0}},
    }
    (folder / "act.yaml").write_text(yaml.safe_dump(algorithm))
    return folder


def test_a_policy_that_lerobot_trained_acts_on_our_arm_and_what_is_learned_lerobot_opens(
    folder, start_process, ros_domain
):
    words = [
        "user", "up", "sim_images", "speed:=1.0", f"algorithm:={folder}/act.yaml", "learner.training.max_updates:=3",
        f"demonstrations:={folder}/demos", f"policy_endpoint:={free_endpoint()}", "--runs", str(folder), "--run", "r",
        "--no-table",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    world = DeploymentRun(folder / "r", process)
    world.until(lambda: world.number("actor_version") >= 1, "the actor has the policy")
    steps = world.number("stored_steps")
    world.until(
        lambda: world.number("stored_steps") > steps + 20, "it acts, and what it does is stored"
    )
    world.until(lambda: world.number("update") >= 3, "it learns on")
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    run("user", "policy", "save", "r", "saved", folder=folder)

    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(folder / "saved")
    assert config.type == "act" and config.chunk_size == 8
    get_policy_class("act").from_pretrained(folder / "saved", config=config, strict=True)
    before, _ = make_pre_post_processors(config, pretrained_path=str(folder / "saved"))
    assert before.state_dict()


def test_a_robot_without_its_camera_is_refused_before_anything_starts(folder):
    done = subprocess.run(
        ["user", "up", "sim_single", "task:=reach", f"algorithm:={folder}/act.yaml", "--runs", str(folder / "none")],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "observation.images.image_front" in done.stderr and "no images" in done.stderr
