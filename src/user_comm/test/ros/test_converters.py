"""Core types survive the way to CDR bytes and back; what is no such value is refused by name."""

from __future__ import annotations

import array
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message
from user_msgs.msg import Observation as ObservationMessage

from user_comm.cdr import CdrLimits
from user_comm.converters import (
    CONVERTERS,
    BlobKind,
    EpisodeReport,
    Intervention,
    PolicyAnnouncement,
    RobotDescription,
    lease_from_message,
    lease_to_message,
    observation_from_message,
    observation_to_message,
    robot_description_from_message,
    robot_description_to_message,
    trajectory_chunk_from_message,
    trajectory_chunk_to_cdr,
    trajectory_chunk_to_message,
)
from user_comm.subscriptions import decode_bytes
from user_comm.topics import interface_class
from user_core.codecs import Limits
from user_core.errors import CodecError, SpecError, SuiteError
from user_core.interfaces import TeleopCommand
from user_core.specs import DTYPES, ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_core.types import (
    ActedBy,
    ActionChunk,
    AppliedAction,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Label,
    Lease,
    Observation,
    Outcome,
    TaskFeedback,
    TrajectoryAck,
    TrajectoryChunk,
)

NS = st.integers(0, (2**31 - 1) * 10**9)
UINT64, UINT32, COUNT = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**62)
NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def arrays(ndim: int | None = None, min_side: int = 0) -> st.SearchStrategy[np.ndarray]:
    low, high = (0, 3) if ndim is None else (ndim, ndim)
    return st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(
            np.dtype(dtype),
            hnp.array_shapes(min_dims=low, max_dims=high, min_side=min_side, max_side=4),
        )
    )


def journey(type_name: str, value: Any) -> Any:
    """Value, message, CDR bytes, value; by our reader, and by the middleware's as well."""
    converter, cls = CONVERTERS[type_name], interface_class(type_name)
    data = serialize_message(converter.encode(value))
    back = decode_bytes(data, cls, converter.decode, CdrLimits())
    same(back, converter.decode(deserialize_message(data, cls)))
    return back


def same(a: Any, b: Any) -> None:
    """Equal, with arrays compared by type, shape and bytes, and NaN equal to NaN."""
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif hasattr(a, "__dataclass_fields__"):
        assert type(a) is type(b)
        for name in a.__dataclass_fields__:
            same(getattr(a, name), getattr(b, name))
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b and type(a) is type(b)


OBSERVATIONS = st.builds(
    Observation,
    arrays=st.dictionaries(NAMES, arrays(), max_size=4),
    stamp_ns=NS,
    sequence=UINT64,
    episode=UINT32,
    task=st.builds(
        TaskFeedback,
        reward=NUMBERS | st.just(math.nan),
        terminated=st.booleans(),
        truncated=st.booleans(),
        success=st.sampled_from((None, True, False)),
    ),
    applied=st.none()
    | st.builds(
        AppliedAction,
        action=arrays(ndim=1),
        sequence=UINT64,
        row=UINT32,
        changed=st.booleans(),
        stamp_ns=COUNT,
    ),
)
KEYS = st.builds(EpisodeKey, producer=NAMES, incarnation=COUNT, number=UINT32)


@st.composite
def results(draw: st.DrawFn) -> EpisodeResult:
    length = draw(UINT32)
    by_person = draw(st.integers(0, length))
    return EpisodeResult(
        key=draw(KEYS), source=draw(st.sampled_from(EpisodeSource)),
        outcome=draw(st.sampled_from(Outcome)), length=length, episode_return=draw(NUMBERS),
        interventions=by_person, takeovers=draw(st.integers(0, by_person)), first_version=draw(COUNT),
        last_version=draw(COUNT), start_ns=draw(COUNT), end_ns=draw(COUNT), reason=draw(TEXTS),
        reason_code=draw(NAMES | st.just("")),
    )  # fmt: skip


@st.composite
def chunks(draw: st.DrawFn) -> TrajectoryChunk:
    rows = draw(st.integers(1, 4))
    columns = {
        name: np.zeros((rows, *draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))), dtype)
        for name, dtype in draw(st.dictionaries(NAMES, st.sampled_from(DTYPES), max_size=3)).items()
    }
    columns["reward"] = np.arange(rows, dtype=np.float32)
    return TrajectoryChunk(
        id=ChunkId(draw(NAMES), draw(COUNT), draw(st.integers(1, 2**64 - 1))),
        episode=draw(KEYS), source=draw(st.sampled_from(EpisodeSource)), first_row=draw(UINT32),
        columns=columns, schema_hash=draw(HASHES), result=draw(st.none() | results()),
        robot=draw(NAMES), task=draw(NAMES),
    )  # fmt: skip


@settings(deadline=None)
@given(OBSERVATIONS)
def test_observations_survive(observation: Observation) -> None:
    same(observation, journey("user_msgs/msg/Observation", observation))


@settings(deadline=None)
@given(
    st.builds(
        ActionChunk, actions_ta=arrays(ndim=2, min_side=1), period_ns=st.integers(1, 2**62),
        start_ns=COUNT, sequence=UINT64, lease_token=UINT64, acted_by=st.sampled_from(ActedBy),
        policy_version=COUNT,
    )
)  # fmt: skip
def test_action_chunks_survive(chunk: ActionChunk) -> None:
    same(chunk, journey("user_msgs/msg/ActionChunk", chunk))


@settings(deadline=None)
@given(chunks())
def test_trajectory_chunks_survive(chunk: TrajectoryChunk) -> None:
    same(chunk, journey("user_msgs/msg/TrajectoryChunk", chunk))


@settings(deadline=None)
@given(chunks())
def test_trajectory_chunks_that_are_serialised_at_once_are_the_same(chunk: TrajectoryChunk) -> None:
    name = "user_msgs/msg/TrajectoryChunk"
    message = deserialize_message(trajectory_chunk_to_cdr(chunk), interface_class(name))
    assert message == trajectory_chunk_to_message(chunk)


@settings(deadline=None)
@given(
    st.builds(
        TrajectoryAck, producer=NAMES, incarnation=COUNT, sequence=UINT64, store=NAMES,
        refused=UINT64, error_code=NAMES, error=TEXTS, arrived_ns=COUNT, held_ns=COUNT,
    )
)  # fmt: skip
def test_acks_survive(ack: TrajectoryAck) -> None:
    same(ack, journey("user_msgs/msg/TrajectoryAck", ack))


@settings(deadline=None)
@given(st.builds(EpisodeReport, result=results(), robot=NAMES, task=NAMES))
def test_episode_results_survive(report: EpisodeReport) -> None:
    same(report, journey("user_msgs/msg/EpisodeResult", report))


@st.composite
def announcements(draw: st.DrawFn) -> PolicyAnnouncement:
    number = draw(st.integers(2, 2**62))
    kind = draw(st.sampled_from(BlobKind))
    return PolicyAnnouncement(
        number=number, content_hash=draw(HASHES), config_hash=draw(HASHES),
        key="user/policy/" + str(number), size=draw(st.integers(1, 2**33)),
        piece_size=draw(st.integers(1, 2**32 - 1)), kind=kind,
        base=0 if kind is BlobKind.KEYFRAME else draw(st.integers(1, number - 1)),
        keyframe=draw(st.integers(0, number)), update=draw(COUNT),
        environment_steps=draw(COUNT), created_ns=draw(NS),
    )  # fmt: skip


@settings(deadline=None)
@given(announcements())
def test_policy_announcements_survive(announcement: PolicyAnnouncement) -> None:
    same(announcement, journey("user_msgs/msg/PolicyVersion", announcement))


@settings(deadline=None)
@given(arrays(ndim=1, min_side=1), NS, st.booleans(), st.integers(0, 3), NAMES, UINT64)
def test_interventions_survive(
    action: np.ndarray, stamp_ns: int, scripted: bool, label: int, device: str, sequence: int
) -> None:
    value = Intervention(
        TeleopCommand(True, action, stamp_ns, label == 1, label == 2, label == 3),
        device, scripted, sequence, "base",
    )  # fmt: skip
    same(value, journey("user_msgs/msg/Intervention", value))


def test_a_hand_that_is_off_carries_no_action() -> None:
    value = Intervention(TeleopCommand(False, np.ones(3, np.float32), 5), "spacemouse")
    back = journey("user_msgs/msg/Intervention", value)
    assert not back.command.engaged and back.command.action.size == 0


@pytest.mark.parametrize(
    ("success", "failure", "abort", "expected"),
    [(True, True, True, "abort"), (True, True, False, "failure"), (True, False, False, "success")],
)
def test_of_several_labels_the_gravest_travels(
    success: bool, failure: bool, abort: bool, expected: str
) -> None:
    command = TeleopCommand(False, np.zeros(1), 0, success, failure, abort)
    back = journey("user_msgs/msg/Intervention", Intervention(command, "keyboard")).command
    assert {n for n in ("success", "failure", "abort") if getattr(back, n)} == {expected}


SPEC = RobotSpec(
    "panda",
    {
        "joint_position": ArraySpec((2,), low=-1, high=(1, 2.5), unit="rad", names=("a", "b")),
        "one": ArraySpec((1,), "float64", low=(0,), high=1),
        "image_front": ArraySpec((4, 4, 3), "uint8", frame="front_optical"),
        "flag": ArraySpec((), "bool"),
    },
    ArraySpec((3,), low=-1, high=1),
    ActionKind.JOINT_DELTA,
    period_s=1,
    task_reward=True,
)


def test_grippers_of_a_robot_survive_and_rubbish_about_them_is_refused() -> None:
    description = RobotDescription(replace(SPEC, grippers=(0, 2)))
    back = journey("user_msgs/msg/RobotSpec", description)
    assert back.spec.grippers == (0, 2) and back.spec_hash == description.spec_hash
    for rubbish in ([7], [0, 0], list(range(5000))):
        message = robot_description_to_message(RobotDescription(SPEC))
        message.grippers = rubbish
        with pytest.raises((CodecError, SpecError)):
            robot_description_from_message(message)


def test_choices_of_a_robot_survive_and_rubbish_about_them_is_refused() -> None:
    action = replace(SPEC.action, low=(-1.0, 0.0, 2.0), high=(1.0, 2.0, 3.0), categorical=(1, 2))
    description = RobotDescription(replace(SPEC, action=action, hold_choices=(1, 2)))
    back = journey("user_msgs/msg/RobotSpec", description)
    assert back.spec.action.categorical == (1, 2) and back.spec.hold_choices == (1, 2)
    assert back.spec_hash == description.spec_hash
    for categorical, held in (
        ([7], []), ([2, 1], []), ([0, 1], []), ([1], [5]), ([1], [1, 1]), (list(range(5000)), []),
    ):  # fmt: skip
        message = robot_description_to_message(RobotDescription(replace(SPEC, action=action)))
        message.action.categorical, message.hold_choices = categorical, held
        with pytest.raises((CodecError, SpecError)):
            robot_description_from_message(message)


def test_action_groups_survive_and_rubbish_about_them_is_refused() -> None:
    delta, base = ActionKind.JOINT_DELTA, ActionKind.BASE_TWIST
    groups = (ActionGroup("arm", delta, 1), ActionGroup("base", base, 2))
    spec = replace(SPEC, action_kind=ActionKind.MIXED, action_groups=groups)
    description = RobotDescription(spec)
    back = journey("user_msgs/msg/RobotSpec", description)
    assert back.spec.action_groups == groups and back.spec_hash == description.spec_hash
    assert back.spec.action_kind is ActionKind.MIXED
    for field, rubbish in (("kind", "telepathy"), ("kind", "mixed"), ("size", 7), ("name", "")):
        message = robot_description_to_message(description)
        setattr(message.action_groups[0], field, rubbish)
        with pytest.raises((CodecError, SpecError)):
            robot_description_from_message(message)


def test_robot_specs_survive_and_mean_the_same() -> None:
    description = RobotDescription(SPEC, "reach", "base", 7)
    back = journey("user_msgs/msg/RobotSpec", description)
    assert back.spec_hash == description.spec_hash
    assert (back.task, back.base_frame, back.stamp_ns) == ("reach", "base", 7)
    assert back.spec.action_kind is ActionKind.JOINT_DELTA and back.spec.task_reward
    assert list(back.spec.observation) == list(SPEC.observation)
    for name, spec in SPEC.observation.items():
        other = back.spec.observation[name]
        assert (other.shape, other.dtype, other.unit, other.frame, other.names) == (
            spec.shape, spec.dtype, spec.unit, spec.frame, spec.names,
        )  # fmt: skip
        np.testing.assert_array_equal(other.low_array, spec.low_array)
        np.testing.assert_array_equal(other.high_array, spec.high_array)


def test_leases_survive() -> None:
    lease = Lease("panda-1", "actor-1", 2**40, 5.0)
    assert lease_from_message(lease_to_message(lease, 3.5)) == (lease, 3.5)


def test_arrays_are_views_of_the_message_and_not_to_be_written_to() -> None:
    message = observation_to_message(Observation({"a": np.zeros((2, 2), np.float32)}, 0))
    got = observation_from_message(message).arrays["a"]
    assert not got.flags.writeable and not got.flags.owndata
    assert np.shares_memory(got, np.frombuffer(message.tensors[0].data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1.0


def test_an_image_is_never_copied_on_its_way_from_the_bytes() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    numbers = {f"v{i}": np.arange(3, dtype="f8") for i in range(8)}
    sent = Observation({**numbers, "image": image}, 0)
    data = serialize_message(observation_to_message(sent))
    got = decode_bytes(data, ObservationMessage, observation_from_message, CdrLimits())
    assert np.shares_memory(got.arrays["image"], np.frombuffer(data, np.uint8))
    for name, value in got.arrays.items():
        assert value.flags.aligned and not value.flags.writeable, name
        np.testing.assert_array_equal(value, sent.arrays[name])


def test_the_sender_s_arrays_may_change_after_encoding() -> None:
    source = np.zeros(3, np.float32)
    message = observation_to_message(Observation({"a": source}, 0))
    source[:] = 1.0
    assert not observation_from_message(message).arrays["a"].any()


# --- refusals: one field after the other ---------------------------------------------------

GOOD: dict[str, Any] = {
    "Observation": Observation({"a": np.zeros(3, np.float32)}, 5, applied=AppliedAction(np.zeros(2), 1)),
    "ActionChunk": ActionChunk(np.zeros((2, 3)), 10**8),
    "TrajectoryChunk": TrajectoryChunk(
        ChunkId("actor", 1, 1), EpisodeKey("actor", 1, 0), EpisodeSource.ONLINE, 0,
        {"reward": np.zeros(2, np.float32), "action": np.zeros((2, 3))}, "ab" * 32,
        EpisodeResult(EpisodeKey("actor", 1, 0), EpisodeSource.ONLINE, Outcome.SUCCESS, 2, 1.0),
    ),
    "TrajectoryAck": TrajectoryAck("actor", 1, 3, "store"),
    "PolicyVersion": PolicyAnnouncement(3, "ab" * 32, "cd" * 32, "user/policy/3", 10, 5),
    "Intervention": Intervention(TeleopCommand(True, np.zeros(3), 5), "spacemouse"),
    "RobotSpec": RobotDescription(SPEC, "reach"),
    "EpisodeResult": EpisodeReport(
        EpisodeResult(EpisodeKey("actor", 1, 0), EpisodeSource.ONLINE, Outcome.SUCCESS, 2, 1.0)
    ),
}  # fmt: skip


def change(path: str, value: Any) -> Callable[[Any], None]:
    """A function that sets one field of a message; integers in the path are indices."""

    def apply(message: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            message = message[int(step)] if step.isdigit() else getattr(message, step)
        setattr(message, last, value)

    return apply


def twice(field: str) -> Callable[[Any], None]:
    def apply(message: Any) -> None:
        setattr(message, field, [*getattr(message, field), getattr(message, field)[0]])

    return apply


NAN, INF = math.nan, math.inf
BAD: list[tuple[str, Callable[[Any], None], str]] = [
    ("Observation", change("success", 3), "success"),
    ("Observation", change("reward", INF), "reward"),
    ("Observation", change("header.stamp.sec", -1), "stamp"),
    ("Observation", change("header.stamp.nanosec", 10**9), "stamp"),
    ("Observation", change("applied_stamp_ns", -1), "applied_stamp_ns"),
    ("Observation", change("applied_action.0.shape", array.array("I", [2, 1])), "applied_action"),
    ("Observation", change("tensors.0.dtype", 12), "dtype"),
    ("Observation", change("tensors.0.name", ""), "name"),
    ("Observation", change("tensors.0.name", "x" * 200), "name"),
    ("Observation", change("tensors.0.shape", array.array("I", [4])), "bytes"),
    ("Observation", change("tensors.0.shape", array.array("I", [2**32 - 1] * 4)), "bytes"),
    ("Observation", change("tensors.0.shape", array.array("I", [0, 2**32 - 1])), "bytes"),
    ("Observation", change("tensors.0.shape", array.array("I", [1] * 9)), "dimensions"),
    ("Observation", change("tensors.0.data", array.array("B", bytes(11))), "bytes"),
    ("Observation", twice("tensors"), "twice"),
    ("ActionChunk", change("acted_by", max(ActedBy) + 1), "acted_by"),
    ("ActionChunk", change("period_ns", 0), "period_ns"),
    ("ActionChunk", change("start_ns", -1), "start_ns"),
    ("ActionChunk", change("policy_version", -1), "policy_version"),
    ("ActionChunk", change("actions.shape", array.array("I", [6])), "shape"),
    ("TrajectoryChunk", change("source", 9), "source"),
    ("TrajectoryChunk", change("sequence", 0), "sequence"),
    ("TrajectoryChunk", change("producer", ""), "producer"),
    ("TrajectoryChunk", change("producer", "a\nb"), "producer"),
    ("TrajectoryChunk", change("incarnation", -5), "incarnation"),
    ("TrajectoryChunk", change("schema_hash", "xyz"), "schema_hash"),
    ("TrajectoryChunk", change("columns", []), "columns"),
    ("TrajectoryChunk", change("columns.0.name", "rewards"), "columns"),
    ("TrajectoryChunk", change("columns.1.shape", array.array("I", [3, 2])), "columns"),
    ("TrajectoryChunk", twice("columns"), "twice"),
    ("TrajectoryChunk", change("result.0.outcome", 7), "outcome"),
    ("TrajectoryChunk", change("result.0.episode_return", NAN), "episode_return"),
    ("TrajectoryChunk", change("result.0.interventions", 3), "interventions"),
    ("TrajectoryChunk", change("result.0.takeovers", 3), "takeovers"),
    ("TrajectoryAck", change("producer", ""), "producer"),
    ("TrajectoryAck", change("held_ns", -1), "held_ns"),
    ("TrajectoryAck", change("error", "x" * 5000), "error"),
    ("PolicyVersion", change("number", 0), "number"),
    ("PolicyVersion", change("kind", 2), "kind"),
    ("PolicyVersion", change("base", 1), "base"),
    ("PolicyVersion", change("keyframe", 4), "keyframe"),
    ("PolicyVersion", change("content_hash", "AB" * 32), "content_hash"),
    ("PolicyVersion", change("key", "user/**"), "key"),
    ("PolicyVersion", change("key", "/user"), "key"),
    ("PolicyVersion", change("size", 2**60), "size"),
    ("PolicyVersion", change("piece_size", 0), "piece_size"),
    ("Intervention", change("label", 4), "label"),
    ("Intervention", change("action", []), "action"),
    ("Intervention", change("action.0.shape", array.array("I", [3, 1])), "action"),
    ("RobotSpec", change("action_kind", "telepathy"), "action_kind"),
    ("RobotSpec", change("spec_hash", "ab" * 32), "spec_hash"),
    ("RobotSpec", change("period_s", NAN), "period_s"),
    ("RobotSpec", change("period_s", 0.0), "period_s"),
    ("RobotSpec", change("observation", []), "observation"),
    ("RobotSpec", twice("observation"), "twice"),
    ("RobotSpec", change("observation.0.dtype", 200), "dtype"),
    ("RobotSpec", change("observation.0.low", array.array("d", [NAN])), "low"),
    ("RobotSpec", change("observation.0.low", array.array("d", [1, 2, 3])), "low"),
    ("RobotSpec", change("observation.0.shape", array.array("I", [2**31] * 2)), "values"),
    ("RobotSpec", change("observation.2.shape", array.array("I", [2**31] * 2)), "size"),
    ("RobotSpec", change("action.shape", array.array("I", [2**30])), "size"),
    ("EpisodeResult", change("source", 3), "source"),
    ("EpisodeResult", change("key.incarnation", -1), "incarnation"),
    ("EpisodeResult", change("reason", "x" * 5000), "reason"),
]  # fmt: skip


@pytest.mark.parametrize("name", list(GOOD))
def test_what_the_refusals_start_from_is_good(name: str) -> None:
    journey(f"user_msgs/msg/{name}", GOOD[name])


@pytest.mark.parametrize(
    ("name", "spoil", "word"), BAD, ids=[f"{n}-{w}-{i}" for i, (n, _, w) in enumerate(BAD)]
)
def test_what_is_wrong_is_refused_and_named(
    name: str, spoil: Callable[[Any], None], word: str
) -> None:
    converter = CONVERTERS[f"user_msgs/msg/{name}"]
    message = converter.encode(GOOD[name])
    spoil(message)
    with pytest.raises((CodecError, SpecError), match=word):
        converter.decode(message)


def test_limits_and_specs_hold() -> None:
    message = observation_to_message(
        Observation({"a": np.zeros(100, np.uint8), "b": np.zeros(100, np.uint8)}, 0)
    )
    for limits in (Limits(tensors=1), Limits(tensor_bytes=99), Limits(total_bytes=199)):
        with pytest.raises(CodecError):
            observation_from_message(message, limits=limits)
    specs = {"a": ArraySpec((100,), "uint8"), "b": ArraySpec((100,), "int8")}
    with pytest.raises(SpecError, match=r"observation\.b"):
        observation_from_message(message, specs=specs)


def test_a_bool_that_is_neither_is_refused() -> None:
    message = observation_to_message(Observation({"a": np.ones(2, bool)}, 0))
    message.tensors[0].data = array.array("B", [1, 2])
    with pytest.raises(CodecError, match="0 or 1"):
        observation_from_message(message)


def test_encoding_refuses_what_has_no_place_on_the_wire() -> None:
    with pytest.raises(CodecError, match="dtype"):
        observation_to_message(Observation({"a": np.zeros(2, "complex64")}, 0))
    with pytest.raises(CodecError, match="stamp"):
        observation_to_message(Observation({"a": np.zeros(2)}, 2**31 * 10**9))
    spec = RobotSpec("r", {"a": ArraySpec((2,), low=-INF)}, ArraySpec((1,)))
    with pytest.raises(SuiteError, match="finite"):
        CONVERTERS["user_msgs/msg/RobotSpec"].encode(RobotDescription(spec))


def test_numpy_numbers_are_taken_as_numbers() -> None:
    observation = Observation(
        {"a": np.zeros(2)}, np.int64(5), np.int64(6), np.uint8(7),  # type: ignore[arg-type]
        TaskFeedback(np.float32(0.5), np.bool_(True), np.bool_(False), np.bool_(True)),  # type: ignore[arg-type]
    )  # fmt: skip
    back = journey("user_msgs/msg/Observation", observation)
    assert (back.stamp_ns, back.sequence, back.episode, back.task.reward) == (5, 6, 7, 0.5)
    assert back.task.success is True


def test_big_endian_and_strided_arrays_arrive_as_what_they_mean() -> None:
    source = np.arange(12, dtype=">f4").reshape(3, 4).T[::2]
    chunk = TrajectoryChunk(
        ChunkId("a", 0, 1), EpisodeKey("a", 0, 0), EpisodeSource.ONLINE, 0,
        {"reward": np.zeros(2, np.float32), "x": source}, "ab" * 32,
    )  # fmt: skip
    back = trajectory_chunk_from_message(trajectory_chunk_to_message(chunk)).columns["x"]
    np.testing.assert_array_equal(back, source)
    assert back.dtype == np.dtype("<f4")


@pytest.mark.parametrize("coding", ["zstd", "jpeg90"])
def test_images_travel_coded_and_arrive_as_images(coding: str) -> None:
    if coding != "zstd":
        pytest.importorskip("cv2")
    y, x, c = np.ogrid[:48, :64, :3]
    image = (100 + x + y + 10 * c).astype(np.uint8)
    chunk = TrajectoryChunk(
        ChunkId("a", 0, 1), EpisodeKey("a", 0, 0), EpisodeSource.ONLINE, 0,
        {"reward": np.zeros(2, np.float32), "observation.rgb": np.stack([image, image])}, "ab" * 32,
        codings={"observation.rgb": coding},
    )  # fmt: skip
    message = trajectory_chunk_to_message(chunk)
    assert sum(len(tensor.data) for tensor in message.columns) < 0.5 * chunk.nbytes
    back = trajectory_chunk_from_message(message)
    assert back.codings == chunk.codings
    error = np.abs(back.columns["observation.rgb"].astype(int) - chunk.columns["observation.rgb"])
    assert error.max() <= (0 if coding == "zstd" else 8)


def test_coded_images_that_are_too_many_too_large_or_twice_are_refused() -> None:
    rows = np.zeros((2, 40, 40, 3), np.uint8)
    chunk = TrajectoryChunk(
        ChunkId("a", 0, 1), EpisodeKey("a", 0, 0), EpisodeSource.ONLINE, 0,
        {"reward": np.zeros(2, np.float32), "o": rows}, "ab" * 32, codings={"o": "zstd"},
    )  # fmt: skip
    message = trajectory_chunk_to_message(chunk)
    with pytest.raises(CodecError, match="image column"):
        trajectory_chunk_from_message(message, limits=Limits(total_bytes=5000))
    message.columns = [
        *message.columns,
        *trajectory_chunk_to_message(replace(chunk, codings={})).columns[1:],
    ]
    with pytest.raises(CodecError, match="twice"):
        trajectory_chunk_from_message(message)
    message.columns = message.columns[:2]
    message.columns[1].name = "o@gif"
    with pytest.raises(CodecError, match="known coding"):
        trajectory_chunk_from_message(message)


def test_labels_have_the_numbers_of_the_message() -> None:
    message = interface_class("user_msgs/msg/Intervention")
    assert {label.name: int(label) for label in Label} == {
        name: getattr(message, name) for name in ("NONE", "SUCCESS", "FAILURE", "ABORT")
    }
