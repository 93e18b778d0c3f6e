"""The report of inputs: ranges, what is constant, outside its bounds, or far out."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from user_core.codecs.weights import encode_version
from user_core.errors import StoreError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeSource,
    PolicyVersion,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.cli.inputs import main
from user_learner.quality.inputs import report_inputs
from user_learner.replay import StoreWriter
from user_learner.replay.meaning import write_meaning
from user_testing.worlds.replay import QUICK

SPEC = RobotSpec(
    "r",
    {
        "image_front": ArraySpec((4, 4, 3), "uint8"),
        "joint": ArraySpec((2,), low=-1.0, high=1.0, names=("shoulder", "elbow")),
        "sensor": ArraySpec(()),
    },
    ArraySpec((1,), low=-0.05, high=0.05),
)
ROWS = 2000


@pytest.fixture
def run(tmp_path):
    """A run whose sensor was 0 for most of the time, then 3 in 5 % of the rows."""
    schema = TrajectorySchema.of(SPEC)
    columns = {n: np.zeros((ROWS, *c.shape), c.dtype) for n, c in schema.columns.items()}
    columns["observation.joint"][:, 0] = np.linspace(-2, 1, ROWS)
    columns["observation.sensor"][-ROWS // 20 :] = 3
    columns["action"][::4] = 117
    columns["final"][-1], columns["truncated"][-2] = True, True
    columns["action"][-1] = 0
    chunk = TrajectoryChunk(
        ChunkId("a", 1, 1), EpisodeKey("a", 1, 1), EpisodeSource.ONLINE, 0, columns, schema.hash
    )
    with StoreWriter(tmp_path / "replay", config=QUICK) as writer:
        assert writer.append(chunk).status == "staged"
    write_meaning(tmp_path / "replay", SPEC)
    return tmp_path


def test_every_number_has_its_range_and_shares(run):
    policy = {"input.offset": np.float32([0, 0, 0]), "input.scale": np.float32([1, 1, 100])}
    found = {one.name: one for one in report_inputs(run / "replay", policy)}
    assert list(found) == ["joint[shoulder]", "joint[elbow]", "sensor", "action", "reward"]
    shoulder, elbow, sensor, action, reward = found.values()
    assert reward.constant and reward.rows == ROWS - 1 and reward.far is None
    assert (shoulder.low, shoulder.high) == (-2, 1) and not shoulder.constant
    assert shoulder.outside == pytest.approx(1 / 3, abs=0.01) and shoulder.far == 0
    assert elbow.constant and elbow.outside == 0
    assert sensor.outside is None and sensor.far == pytest.approx(0.05, abs=0.001)
    assert action.outside == pytest.approx(0.25, abs=0.001) and action.rows == ROWS - 1
    assert all(one.not_finite == 0 for one in found.values())


def shown(*arguments):
    console = Console(file=StringIO(), width=200)
    assert main(["inputs", *map(str, arguments)], console) == 0
    return console.file.getvalue()


def test_the_command_finds_store_and_policy_of_a_run(run):
    assert "constant" in shown(run)
    arrays = {"input.offset": np.zeros(3, np.float32), "input.scale": np.float32([1, 1, 100])}
    (run / "learner").mkdir()
    (run / "learner" / "policy.safetensors").write_bytes(encode_version(PolicyVersion(1, arrays)))
    text = shown(run)
    assert "5 %" in text and "1 with more than 1 % beyond ten times" in text
    told = json.loads(shown(run / "replay", "--json"))
    assert told[2]["far"] == pytest.approx(0.05, abs=0.001) and told[1]["constant"]


def test_a_folder_without_data_is_told(tmp_path):
    with pytest.raises(StoreError, match="no replay store"):
        main(["inputs", str(tmp_path)])
