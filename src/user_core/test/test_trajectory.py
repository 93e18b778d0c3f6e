import numpy as np
import pytest

from user_core.errors import SpecError
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.specs import ArraySpec
from user_core.types import ActedBy, FinalObservation, RewardSource, Step, TrajectorySchema

SPEC = FakeRobot(FakeRobotConfig(image_size=8)).spec
SCHEMA = TrajectorySchema.of(SPEC)
RNG = np.random.default_rng(0)


def observation():
    return {k: v.sample(RNG) for k, v in SPEC.observation.items()}


def step(**changes):
    values = {
        "observation": observation(),
        "action": np.array([0.5, -0.5], np.float32),
        "proposed_action": np.array([1, -1], np.float32),
        "reward": 0.25,
        "terminated": True,
        "acted_by": ActedBy.HUMAN,
        "policy_version": 7,
        "reward_source": RewardSource.FUNCTION,
        "stamp_ns": 5,
        "action_stamp_ns": 6,
    }
    return Step(**{**values, **changes})


def test_steps_become_columns():
    steps = [step(terminated=False), step(), FinalObservation(observation(), 9)]
    columns = SCHEMA.rows(steps)
    assert SCHEMA.check(columns) == 3
    assert columns["final"].tolist() == [False, False, True]
    assert columns["terminated"].tolist() == [False, True, False]
    assert columns["truncated"].tolist() == [False] * 3
    assert columns["acted_by"].tolist() == [1, 1, 0]
    assert columns["policy_version"].tolist() == [7, 7, 0]
    assert columns["stamp_ns"].tolist() == [5, 5, 9]
    assert columns["action"].tolist() == [[0.5, -0.5], [0.5, -0.5], [0, 0]]
    assert columns["proposed_action"][0].tolist() == [1, -1]
    for name in SPEC.observation:
        for row, s in enumerate(steps):
            assert np.array_equal(columns[f"observation.{name}"][row], s.observation[name])
    assert sum(c.nbytes for c in columns.values()) == 3 * SCHEMA.row_nbytes


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"observation": {}}, "missing"),
        ({"action": np.zeros(3, np.float32)}, "action"),
        ({"proposed_action": np.full(2, np.nan, np.float32)}, "proposed_action"),
        ({"reward": float("nan")}, "reward"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(changes, word):
    with pytest.raises(SpecError, match=word):
        SCHEMA.rows([step(**changes)])


def test_columns_that_do_not_fit_are_refused():
    columns = SCHEMA.rows([step(), step()])
    for wrong in (
        {k: v for k, v in columns.items() if k != "final"},
        {**columns, "more": np.zeros(2)},
        {**columns, "reward": np.zeros(3, np.float32)},
        {**columns, "reward": np.float32(3)},
        {**columns, "action": columns["action"].astype(np.float64)},
    ):
        with pytest.raises(SpecError):
            SCHEMA.check({k: np.asarray(v) for k, v in wrong.items()})


def test_a_schema_survives_json_and_knows_its_like():
    again = TrajectorySchema.from_dict(SCHEMA.to_dict())
    assert again == SCHEMA
    assert again.hash == SCHEMA.hash
    other = {**SCHEMA.columns, "action": ArraySpec((3,))}
    assert TrajectorySchema(other).hash != SCHEMA.hash
    tighter = {**SCHEMA.columns, "action": ArraySpec((2,), "float32", -0.5, 0.5)}
    assert TrajectorySchema(tighter).hash == SCHEMA.hash
