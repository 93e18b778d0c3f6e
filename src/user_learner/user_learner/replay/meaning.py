"""The meaning of a store's rows: a file beside the index, ``meaning.json``.

The index and the hash of the schema stay as they are: a store without the file is whole. Its
meaning is then that of the run it lies in, where the learner of that run has kept the robot's
spec, else unknown.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from user_core.errors import SchemaMismatch, StoreError, SuiteError
from user_core.meaning import MeaningDifference, require_same_meaning
from user_core.runtime.files import write_atomically
from user_core.specs import RobotSpec
from user_core.types import TrajectorySchema
from user_learner.replay.index import INDEX_NAME, store_at
from user_learner.replay.reader import StoreReader

MEANING_NAME = "meaning.json"
MEANING_VERSION = 1
#: What the learner of a run keeps of its robot, in its folder.
SPEC_NAME = "robot_spec.json"


@dataclass(frozen=True)
class Meaning:
    """What a store's rows mean.

    Attributes:
        spec: The robot's; None when it is not known.
        known_from: Where from: the store itself, its run, or nowhere; for people.
    """

    spec: RobotSpec | None = None
    known_from: str = "unknown: nothing was kept of the robot that the data come from"


def is_new(store: str | Path) -> bool:
    """Whether there is no store yet, or one that nothing ever came to."""
    if not (Path(store) / INDEX_NAME).exists():
        return True
    with closing(StoreReader(store, with_extents=False)) as reader:
        return reader.schema is None or not len(reader.tables.segments)


def read_meaning(store: str | Path, schema: TrajectorySchema | None = None) -> Meaning:
    """The meaning of a store, from its own file or from the run that it lies in.

    Args:
        store: Its directory.
        schema: Of its rows; a run's spec of other shapes is not theirs.

    Raises:
        StoreError: The file is damaged, or of a later version.
    """
    store = Path(store)
    path = store / MEANING_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _of_run(store, schema)
    except OSError as error:
        raise StoreError(f"meaning of store {store}", got=error.strerror) from error
    try:
        data = json.loads(text)
        if data["version"] != MEANING_VERSION:
            raise ValueError(f"version {data['version']}")
        return Meaning(RobotSpec.from_dict(data["spec"]), "the store")
    except (SuiteError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"meaning of store {store}", got=str(error),
            expected=f"version {MEANING_VERSION} of {MEANING_NAME}",
            hint="Without the file the store opens, and its meaning is unknown",
        ) from error  # fmt: skip


def find_meaning(place: str | Path) -> RobotSpec:
    """The meaning of a store, of a run (``runs/<id>``), or a spec in a JSON file.

    Raises:
        StoreError: It is none of these, or its meaning is unknown.
    """
    place = Path(place)
    try:
        if place.is_file():
            data = json.loads(place.read_text(encoding="utf-8"))
            return RobotSpec.from_dict(data.get("spec", data))
        store = store_at(place)
        if store is not None:
            with closing(StoreReader(store, with_extents=False)) as reader:
                spec = read_meaning(store, reader.schema).spec
            if spec is not None:
                return spec
        kept = place / "learner" / SPEC_NAME
        if kept.exists():
            return RobotSpec.from_dict(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(
            f"meaning of {place}", got=str(error), expected="a robot's spec"
        ) from error
    raise StoreError(
        f"meaning of {place}",
        got="unknown",
        expected="a store that says it, a run, or a spec in JSON",
    )


def write_meaning(store: str | Path, spec: RobotSpec) -> None:
    """Keep what a store's rows mean. Raises OSError."""
    data = {"version": MEANING_VERSION, "spec": spec.to_dict()}
    write_atomically(Path(store) / MEANING_NAME, json.dumps(data, indent=1))


def require_meaning(
    store: str | Path,
    schema: TrajectorySchema | None,
    wanted: RobotSpec,
    accepted: Collection[str] = (),
    how: str = "",
) -> tuple[Meaning, list[MeaningDifference]]:
    """Raise SchemaMismatch unless a store means what is wanted, or nobody knows what it means.

    Returns:
        Its meaning, and the differences that were accepted.
    """
    meaning = read_meaning(store, schema)
    if meaning.spec is None:
        return meaning, []
    found = require_same_meaning(meaning.spec, wanted, f"store {store}", accepted, how)
    return meaning, found


def join_meaning(
    target: str | Path,
    schema: TrajectorySchema | None,
    spec: RobotSpec | None,
    what: str,
    accepted: Collection[str] = (),
    how: str = "",
) -> list[str]:
    """Before other data come into a store: compare what both mean; a new store takes it over.

    Args:
        target: The store, which exists.
        schema: Of its rows before; None for a new store.
        spec: What the data mean; None when that is not known.
        what: The data, for messages.
        accepted: Differences that a person has accepted.
        how: How to accept one.

    Returns:
        What a person should know, in words.

    Raises:
        SchemaMismatch: They mean other things.
        StoreError: What the store means cannot be read.
        OSError: It cannot be kept.
    """
    if schema is None:
        if spec is None:
            return [f"meaning of {what} is unknown, and so is that of {target} from now on"]
        write_meaning(target, spec)
        return []
    there = read_meaning(target, schema)
    if spec is None:
        return [f"meaning of {what} is unknown: it is taken as that of {target}"]
    if there.spec is None:
        return [f"meaning of {target} is unknown: {what} comes beside it without a comparison"]
    found = require_same_meaning(spec, there.spec, what, accepted, how)
    return [f"{what}: {one.key} {one.got}, not {one.expected}, was accepted" for one in found]


class ProducerMeanings:
    """What the chunks of each producer mean, compared with the store that they come to.

    Args:
        store: Its directory.
        accepted: Differences that a person has accepted, by name.
    """

    def __init__(self, store: Path, accepted: Collection[str] = ()) -> None:
        self._store, self._accepted = store, accepted
        self._specs: dict[str, tuple[RobotSpec, ...]] = {}
        self._judged: dict[str, SchemaMismatch | None] = {}
        #: What could not be compared or kept, for people.
        self.notes: list[str] = []

    def expect(self, producer: str, *specs: RobotSpec) -> None:
        """Say what a producer's numbers mean: one spec, or several of which each may be it.
        ``robot0.*`` are all producers of the namespace ``robot0``."""
        if self._specs.get(producer) != specs:
            self._specs[producer] = specs
            self._judged.clear()

    def require(self, producer: str, schema: TrajectorySchema, is_empty: bool) -> None:
        """Raise SchemaMismatch where what a producer sends means something else.

        Args:
            producer: Who sends; one of whom nothing is known is not refused.
            schema: Of the store's rows; specs of other shapes are not looked at.
            is_empty: The store has no rows: it takes over the meaning.
        """
        if producer not in self._judged:
            self._judged[producer] = self._judge(producer, schema, is_empty)
        if (error := self._judged[producer]) is not None:
            raise error

    def _judge(
        self, producer: str, schema: TrajectorySchema, is_empty: bool
    ) -> SchemaMismatch | None:
        *namespace, _ = producer.split(".")
        every = ".".join([*namespace, "*"])
        for spec in self._specs.get(producer, self._specs.get(every, ())):
            if TrajectorySchema.of(spec).hash != schema.hash:
                continue
            how = "store.accept_differences: "
            try:
                there = read_meaning(self._store, schema)
                if is_empty and there.known_from != "the store":
                    write_meaning(self._store, spec)
                    continue
                told = None if there.spec is None else schema
                self.notes += (
                    join_meaning(self._store, told, spec, producer, self._accepted, how)
                    if told is not None
                    else [f"meaning of {self._store} is unknown: {producer} sends to it uncompared"]
                )
            except SchemaMismatch as error:
                return error
            except (StoreError, OSError) as error:  # a damaged file must not stop what comes
                self.notes.append(f"{producer} sends to {self._store} uncompared: {error}")
        return None


def _of_run(store: Path, schema: TrajectorySchema | None) -> Meaning:
    """From the specs that learners have kept beside the store, when they agree."""
    if schema is None:
        return Meaning()
    folder = store.absolute().parent
    specs: dict[str, tuple[RobotSpec, Path]] = {}
    for path in sorted((*folder.glob(SPEC_NAME), *folder.glob(f"*/{SPEC_NAME}"))):
        try:
            spec = RobotSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (SuiteError, OSError, ValueError):
            continue
        if TrajectorySchema.of(spec).hash == schema.hash:
            specs[json.dumps(spec.to_dict(), sort_keys=True)] = (spec, path)
    if len(specs) != 1:
        return Meaning()
    [(spec, path)] = specs.values()
    return Meaning(spec, f"its run ({path})")
