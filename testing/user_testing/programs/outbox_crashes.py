"""Kill an outbox thousands of times, and count what arrives.

A child process collects as fast as it can, and is killed with SIGKILL at a random moment, or
by itself in front of a random SQL statement; then the next child goes on in the same folder.
This process is the store at the other end of a bad link: it forgets answers, repeats them and
gives old ones again. At the end one child delivers in peace, and everything is compared.

    python -m user_testing.programs.outbox_crashes --kills 3000 --seed 1
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from user_actor.outbox import Outbox, OutboxConfig
from user_core.codecs import decode_chunk, encode_chunk
from user_core.command_line import Parser
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryAck,
    TrajectoryChunk,
)

SPEC = RobotSpec("r", {"state": ArraySpec((8,), "float64")}, ArraySpec((2,)))
PRODUCER = "actor"
_LENGTH = struct.Struct("<cI")
_ACTION = np.zeros(2, np.float32)


def send_message(stream: socket.socket, kind: bytes, body: bytes) -> None:
    stream.sendall(_LENGTH.pack(kind, len(body)) + body)


def receive_exactly(stream: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            part = stream.recv(count - len(data))
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return data


def receive_message(stream: socket.socket) -> tuple[bytes, bytes] | None:
    head = receive_exactly(stream, _LENGTH.size)
    if head is None:
        return None
    kind, length = _LENGTH.unpack(head)
    body = receive_exactly(stream, length)
    return None if body is None else (kind, body)


class Collector:
    """The child: an actor that does nothing but fill its outbox."""

    def __init__(self, folder: Path, stream: socket.socket, life: int, seed: int) -> None:
        self.stream, self.life = stream, life
        self.writing = threading.Lock()
        self.random = random.Random(seed)
        config = OutboxConfig(
            directory=folder, chunk_s=0.003, chunk_bytes=6 * 1024, resend_min_s=0.02,
            resend_max_s=0.05,
        )  # fmt: skip
        self.rows = 0
        self.outbox = Outbox(config, PRODUCER, SPEC, on_commit=self.committed)
        self.outbox.deliver_to(lambda chunk: self.tell(b"D", encode_chunk(chunk)))
        threading.Thread(target=self.listen, daemon=True).start()

    def tell(self, kind: bytes, body: bytes) -> None:
        with self.writing:
            send_message(self.stream, kind, body)

    def committed(self, entries: object) -> None:
        rows = self.outbox._writer.committed_rows
        self.tell(b"C", struct.pack("<qq", self.life, rows))

    def listen(self) -> None:
        while message := receive_message(self.stream):
            self.outbox.acknowledge(TrajectoryAck(**json.loads(message[1])))

    def die_at_statement(self, number: int) -> None:
        """Be gone in front of a certain SQL statement of the writer."""
        left = [number]

        def count(statement: str) -> None:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        self.outbox._database.connection.set_trace_callback(count)

    def collect(self) -> None:
        """Episodes without end, every row marked with this life and its number in it."""
        while True:
            key = self.outbox.begin_episode(EpisodeSource.ONLINE)
            length = self.random.randint(1, 40)
            for _ in range(length):
                self.append(lambda state, stamp: Step(state, _ACTION, _ACTION, 1.0, stamp_ns=stamp))
            self.append(FinalObservation)
            self.outbox.end_episode(
                EpisodeResult(key, EpisodeSource.ONLINE, Outcome.SUCCESS, length, float(length))
            )

    def append(self, make: object) -> None:
        if self.rows % 5 == 0:
            time.sleep(0.0003)
        stamp = self.life * 10**9 + self.rows
        self.outbox.append(make({"state": np.full(8, stamp, np.float64)}, stamp))  # type: ignore[operator]
        self.rows += 1

    def deliver(self) -> None:
        """Wait until the store has everything."""
        while self.outbox.status().pending_chunks:
            time.sleep(0.01)
        self.outbox.close()
        self.tell(b"E", b"")


@dataclass
class Store:
    """The other end: keeps each chunk once, answers when it likes."""

    random: random.Random
    chunks: dict[int, bytes] = field(default_factory=dict)
    incarnations: set[int] = field(default_factory=set)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)
    answers: list[TrajectoryAck] = field(default_factory=list)
    up_to: int = 0
    reliable: bool = False

    def take(self, block: bytes) -> list[TrajectoryAck]:
        chunk = decode_chunk(block)
        sequence = chunk.id.sequence
        self.incarnations.add(chunk.id.incarnation)
        if sequence in self.chunks:
            self.repeated += 1
            if self.chunks[sequence] != block:
                self.problems.append(f"chunk {sequence} came with other content")
        elif self.reliable or self.random.random() > 0.1:  # else it was lost on its way
            self.chunks[sequence] = block
        while self.up_to + 1 in self.chunks:
            self.up_to += 1
        ack = TrajectoryAck(PRODUCER, chunk.id.incarnation, self.up_to, "store")
        self.answers.append(ack)
        if self.reliable:
            return [ack]
        chance = self.random.random()
        if chance < 0.3:
            return []
        if chance < 0.5:
            return [self.random.choice(self.answers), ack, ack]
        return [ack]


def run_child(folder: Path, life: int, seed: int, mode: str, stream: socket.socket) -> None:
    status = 1
    try:
        dice = random.Random(seed)
        collector = Collector(folder, stream, life, seed)
        if mode == "statement":
            collector.die_at_statement(dice.randint(1, 60))
        if mode == "deliver":
            collector.deliver()
            status = 0
        else:
            collector.collect()
    except BaseException as error:
        print(f"life {life}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def live(folder: Path, life: int, seed: int, mode: str, store: Store, dice: random.Random) -> int:
    """Let one child live; return how many of its rows it had committed for sure."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        run_child(folder, life, seed, mode, theirs)
    theirs.close()
    end_s = time.monotonic() + (dice.uniform(0.001, 0.06) if mode == "moment" else 30.0)
    committed, killed = 0, False
    while True:
        wait_s = end_s - time.monotonic()
        if wait_s <= 0 and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        ready = select.select([ours], [], [], 5.0 if killed else max(0.0, wait_s))[0]
        if not ready:
            continue
        message = receive_message(ours)
        if message is None:
            break
        kind, body = message
        if kind == b"C":
            committed = struct.unpack("<qq", body)[1]
        elif kind == b"D":
            for ack in store.take(body):
                try:
                    send_message(ours, b"A", json.dumps(asdict(ack)).encode())
                except (BrokenPipeError, ConnectionResetError):
                    break
        elif kind == b"E":
            break
    ours.close()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != (0 if mode == "deliver" else -signal.SIGKILL):
        store.problems.append(f"life {life} ({mode}) ended with {status}")
    return committed


def examine(store: Store, committed: dict[int, int]) -> None:
    """Compare what arrived with what was committed."""
    problems = store.problems
    if sorted(store.chunks) != list(range(1, len(store.chunks) + 1)):
        problems.append("the numbers have gaps")
    if len(store.incarnations) != 1:
        problems.append(f"{len(store.incarnations)} incarnations")
    seen: dict[int, int] = defaultdict(int)
    episodes: dict[object, list[TrajectoryChunk]] = defaultdict(list)
    for _, block in sorted(store.chunks.items()):
        chunk = decode_chunk(block)
        for stamp in chunk.columns["stamp_ns"].tolist():
            seen[stamp] += 1
        episodes[chunk.episode].append(chunk)
    doubled = [stamp for stamp, count in seen.items() if count > 1]
    if doubled:
        problems.append(f"rows {doubled[:5]} arrived more than once")
    for life, rows in committed.items():
        lost = [row for row in range(rows) if life * 10**9 + row not in seen]
        if lost:
            problems.append(f"life {life}: committed rows {lost[:5]} never arrived")
    for key, chunks in episodes.items():
        check_episode(key, chunks, problems)


def check_episode(key: object, chunks: list[TrajectoryChunk], problems: list[str]) -> None:
    rows = 0
    for chunk in chunks:
        if chunk.first_row != rows:
            problems.append(f"episode {key}: row {chunk.first_row} follows {rows}")
        rows += len(chunk)
    results = [chunk.result for chunk in chunks if chunk.result is not None]
    if len(results) != 1 or chunks[-1].result is None:
        problems.append(f"episode {key} has {len(results)} results, or rows behind it")
        return
    finals = sum(int(chunk.columns["final"].sum()) for chunk in chunks)
    whole = results[0].outcome is Outcome.SUCCESS
    if finals != int(whole) or results[0].length != rows - finals:
        problems.append(f"episode {key}: {results[0]}, but {rows} rows, {finals} of them final")


def campaign(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill ``kills`` times; return what was seen."""
    dice = random.Random(seed)
    store = Store(dice)
    committed = {}
    for life in range(kills):
        mode = "statement" if life % 2 else "moment"
        committed[life] = live(folder, life, dice.randrange(2**32), mode, store, dice)
    store.reliable = True
    live(folder, kills, 0, "deliver", store, dice)
    examine(store, committed)
    return {
        "kills": kills,
        "lives_that_committed": sum(rows > 0 for rows in committed.values()),
        "rows_committed": sum(committed.values()),
        "chunks": len(store.chunks),
        "repeated": store.repeated,
        "problems": store.problems[:20],
    }


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seen = campaign(arguments.folder or Path(scratch), arguments.kills, arguments.seed)
    print(json.dumps(seen))
    sys.exit(bool(seen["problems"]))


if __name__ == "__main__":
    main()
