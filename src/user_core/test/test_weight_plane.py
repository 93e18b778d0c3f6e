"""Versions from one process to another on a host, either of which may be killed in the middle."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from user_core.codecs.weights import content_hash
from user_core.errors import CodecError, PolicyError, TransportError
from user_core.types import PolicyVersion
from user_core.weight_plane import taking, wire
from user_core.weight_plane.offers import Offers
from user_core.weight_plane.taking import Mappings, is_offered_here, take
from user_testing import systems
from user_testing.programs import version_offers
from user_testing.waiting import wait_until

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not wire.is_there(), reason="needs abstract sockets and memfd")

PROGRAM = [sys.executable, "-m", version_offers.__name__]
ARRAYS, NUMBERS = 12, 1000


class Learner:
    """A process that offers versions."""

    def __init__(self):
        self.process = systems.start(
            [*PROGRAM, str(ARRAYS), str(NUMBERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def offer(self, number):
        return self.ask(f"offer {number}")

    def count(self):
        found = json.loads(self.ask("count"))
        return {name: n - self.before.get(name, 0) for name, n in found.items()}

    before: ClassVar = {}  # what earlier tests had of it

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def learners():
    found = []
    yield found
    for learner in found:
        learner.kill()


@pytest.fixture
def learner(learners):
    """One that lives; the next test has it too, if it does then."""
    if not learners or learners[-1].process.poll() is not None:
        learners.append(Learner())
    found = learners[-1]
    found.offer(1000)  # what was offered before is withdrawn
    found.before = {}
    found.before = {**found.count(), "files": 0}
    return found


def fresh():
    return {f"w{i:02}": torch.zeros(NUMBERS) for i in range(ARRAYS)}


def numbers_in(tensors):
    return sorted({int(n) for tensor in tensors.values() for n in tensor.unique()})


def test_a_version_arrives_whole_by_memory(learner):
    before = set(os.listdir("/dev/shm"))
    name = learner.offer(3)
    with take(name, ["gpu", "memory"]) as taking:
        got = taking.arrays()
        assert set(os.listdir("/dev/shm")) <= before
        taking.taken()
    sent = version_offers.version(3, ARRAYS, NUMBERS)
    assert content_hash(got) == name == content_hash(sent)
    assert got.update == 30
    wait_until(lambda: learner.count()["taken"] == 1, "the learner hears of it")
    assert learner.count()["failed"] == 0


def test_a_network_is_filled_where_it_is(learner):
    targets = fresh()
    places = {name: tensor.data_ptr() for name, tensor in targets.items()}
    pieces = []
    with take(learner.offer(5), ["memory"]) as taking:
        taking.fill(targets, lambda: pieces.append(1))
        taking.taken()
    assert numbers_in(targets) == [5]
    assert {name: tensor.data_ptr() for name, tensor in targets.items()} == places
    assert len(pieces) == ARRAYS


def test_when_the_learner_is_killed_in_the_middle_nothing_counts_as_there(learner, learners):
    targets, pieces = fresh(), []

    def pace():
        pieces.append(1)
        if len(pieces) == 5:
            learner.kill()

    name = learner.offer(1)
    with take(name, ["memory"]) as taking:
        with pytest.raises(TransportError, match="the learner has ended"):
            taking.fill(targets, pace)
    assert numbers_in(targets) == [0, 1]  # that is why it must not act
    assert not is_offered_here(name)
    assert take(name, ["memory"]) is None
    learners.append(Learner())
    with take(learners[-1].offer(2), ["memory"]) as taking:
        taking.fill(targets)
    assert numbers_in(targets) == [2]


def test_when_the_taker_is_killed_in_the_middle_the_learner_goes_on(learner):
    name = learner.offer(1)
    taker = systems.start([*PROGRAM, "take", name], stdout=subprocess.PIPE, text=True)
    assert taker.stdout.readline() == "1\n"
    later = learner.offer(2)
    assert learner.count()["files"] == 1  # of version 1: it is still being taken
    taker.kill()
    taker.communicate()
    wait_until(lambda: learner.count() == {"taken": 0, "failed": 1, "files": 0}, "it is given up")
    with take(later, ["memory"]) as taking:
        assert taking.arrays().number == 2
        taking.taken()


def test_a_version_that_was_withdrawn_can_be_offered_again_at_once():
    made = version_offers.version(55, 1, 1)
    name = content_hash(made)
    for _ in range(50):
        with Offers() as offers:
            offers.offer(made, name)
            assert is_offered_here(name)


def test_a_version_that_is_being_taken_stays_when_it_is_replaced(learner):
    first = learner.offer(1)
    with take(first, ["memory"]) as taking:
        second = learner.offer(2)
        wait_until(lambda: not is_offered_here(first), "it is withdrawn")
        targets = fresh()
        taking.fill(targets)
        assert numbers_in(targets) == [1]
        taking.taken()
    wait_until(lambda: learner.count()["files"] == 0, "its memory is given back")
    assert is_offered_here(second)


def test_what_was_damaged_is_refused(learner):
    with take(learner.offer(4), ["memory"]) as taking:
        sums = list(taking.offer.sums)
        sums[7] += 1
        taking.offer = replace(taking.offer, sums=tuple(sums))
        with pytest.raises(TransportError, match="1 of 12 pieces with other checksums"):
            taking.fill(fresh())


def test_a_network_that_does_not_fit_is_left_as_it_is(learner):
    with take(learner.offer(4), ["memory"]) as taking:
        targets = fresh()
        targets["w03"] = torch.zeros(NUMBERS, dtype=torch.float64)
        targets["other"] = targets.pop("w05")
        with pytest.raises(PolicyError, match="w03.*float64") as found:
            taking.fill(targets)
        assert {"w03", "w05", "other"} <= {*found.value.got, *found.value.expected}
        assert numbers_in(targets) == [0]


def test_a_way_that_the_learner_cannot_go_is_refused_with_the_reason(learner):
    with pytest.raises(TransportError, match="on no GPU"):
        take(learner.offer(4), ["gpu"])


@pytest.fixture
def hanging():
    """The hash of a version whose learner hangs: the kernel takes calls for it, and nobody answers."""
    name = content_hash(version_offers.version(77, 1, 1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(wire.address(name))
        listening.listen(2)
        yield name


def test_a_learner_that_hangs_holds_nobody_up_who_looks_for_a_version(hanging):
    thread = threading.Thread(target=lambda: [is_offered_here(hanging) for _ in range(9)])
    thread.daemon = True
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not is_offered_here(hanging)  # more than its queue holds


def test_an_answer_is_waited_for_only_while_the_version_is_wanted(hanging, monkeypatch):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(TransportError, match="while they are wanted"):
        take(hanging, ["memory"], cancelled)
    assert len(asked) == 3
    monkeypatch.setattr(taking, "_ANSWER_S", 0.0)
    with pytest.raises(TransportError, match="timed out"):
        take(hanging, ["memory"])


def test_a_learner_that_can_open_no_more_files_serves_as_soon_as_it_can(learner):
    name = learner.offer(8)
    pid = learner.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    timer = threading.Timer(1.0, resource.prlimit, (pid, resource.RLIMIT_NOFILE, before))
    try:
        with pytest.raises(TransportError, match="Too many open files"):
            take(name, ["memory"])
        timer.start()
        with take(name, ["memory"]) as taking:  # called while there is no file even for the call
            assert taking.arrays().update == 80
            taking.taken()
    finally:
        timer.cancel()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_another_user_gets_nothing(learner):
    name = learner.offer(4)
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(0 if take(name, ["memory"]) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    with take(name, ["memory"]) as taking:  # its own user does
        taking.taken()
    wait_until(lambda: learner.count()["taken"] == 1, "it is taken")


def test_odd_shapes_and_types_come_as_they_are():
    arrays = {
        "empty": np.zeros((0, 3), np.float32), "scalar": np.array(2.5), "bytes": np.arange(7, dtype=np.uint8),
        "flags": np.array([True, False, True]), "half": np.arange(5, dtype=np.uint16),
    }  # fmt: skip
    made = PolicyVersion(1, arrays, version_offers.CONFIG_HASH, created_ns=version_offers.RUN)
    with Offers() as offers:
        offers.offer(made, content_hash(made))
        with take(content_hash(made), ["memory"]) as taking:
            got = taking.arrays().arrays
            targets = {name: torch.zeros(a.shape, dtype=getattr(torch, a.dtype.name)) for name, a in arrays.items()}  # fmt: skip
            targets["half"] = torch.zeros(5, dtype=torch.bfloat16)  # the same bytes
            targets["scalar"] = torch.zeros((), dtype=torch.float64)
            taking.fill(targets)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert (
            targets[name].numpy(force=True).tobytes() == array.tobytes() if name != "half" else True
        )
    assert targets["half"].view(torch.uint16).tolist() == [0, 1, 2, 3, 4]


def test_a_network_whose_numbers_do_not_lie_in_order_is_filled_all_the_same():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    made = PolicyVersion(1, {"w": array}, version_offers.CONFIG_HASH, created_ns=version_offers.RUN)
    with Offers() as offers:
        offers.offer(made, content_hash(made))
        with take(content_hash(made), ["memory"]) as taking:
            target = torch.zeros(4, 3).T
            taking.fill({"w": target})
    np.testing.assert_array_equal(target.numpy(), array)


# --- what is mapped of another process's GPU; which needs one, so only when it is mapped and unmapped


class Mapped:
    def __init__(self, handle, index):
        self.handle, self.index, self.open = handle, index, True

    def close(self):
        self.open = False


def test_what_is_mapped_stays_from_version_to_version_and_ends_with_its_learner(learner):
    made = []

    def make(handle, index):
        made.append(Mapped(handle, index))
        return made[-1]

    with Mappings(make, most=2) as mappings:
        for handle in ("a", "b", "a"):
            with mappings.mapped(handle, 0) as memories:
                assert [one.open for one in memories] == [True]
        assert len(made) == 2
        with mappings.mapped("c", 0):
            assert [one.open for one in made] == [False, True, True]
        with take(learner.offer(1), ["memory"]) as taking:
            wire.send(taking._connection, {"taken": True, "stays": True})
            mappings.follow(taking.offer.owner, taking._connection.dup())
        wait_until(lambda: learner.count()["taken"] == 1, "it is taken")
        learner.offer(2)
        wait_until(lambda: learner.count()["files"] == 0, "the version is not kept for that")
        assert [one.open for one in made] == [False, True, True]  # the learner lives
        learner.kill()
        wait_until(lambda: not any(one.open for one in made), "they are unmapped")
        with pytest.raises(ZeroDivisionError), mappings.mapped("d", 0):
            raise ZeroDivisionError
        assert not made[-1].open


def test_the_gpu_where_weights_lie_sends_them_if_it_can():
    made = []

    def make(handle, index, to=None):
        made.append((handle, index, to))
        if handle == "unreachable" and to is not None:
            raise TransportError("cuCtxEnablePeerAccess", got="CUDA_ERROR_PEER_ACCESS_UNSUPPORTED")
        return Mapped(handle, index)

    def engines(memories):
        return [one.index for one in memories]

    with Mappings(make) as mappings:
        with mappings.mapped("a", 1, 0) as memories:
            assert engines(memories) == [1, 0]
        with mappings.mapped("a", 1, 0):  # it is there
            assert len(made) == 2
        with mappings.mapped("unreachable", 1, 0) as memories:
            assert engines(memories) == [1]
        with mappings.mapped("b", 1, 0) as memories:  # that is not tried again
            assert engines(memories) == [1]
    assert made[2:] == [("unreachable", 1, None), ("unreachable", 0, 1), ("b", 1, None)]


def test_where_sending_fails_the_next_version_is_fetched_but_not_because_the_learner_has_ended():
    with Mappings(lambda handle, index, to=None: Mapped(handle, index)) as mappings:
        for what, count in (("weights of this host", 2), ("cuMemcpyAsync", 1)):
            with pytest.raises(TransportError), mappings.mapped("a", 1, 0):
                raise TransportError(what)
            with mappings.mapped("a", 1, 0) as memories:
                assert len(memories) == count


def test_a_learner_that_ends_in_order_waits_until_its_memory_is_unmapped():
    made = version_offers.version(1, 2, 10)
    mapped = []
    with Mappings(
        lambda handle, index: mapped.append(Mapped(handle, index)) or mapped[-1]
    ) as mappings:
        with Offers() as offers:
            offers.offer(made, content_hash(made))
            with take(content_hash(made), ["memory"]) as taking:
                with mappings.mapped("a", 0):
                    pass
                wire.send(taking._connection, {"taken": True, "stays": True})
                mappings.follow(taking.offer.owner, taking._connection.dup())
            wait_until(lambda: offers._lines, "it stays in touch")
        assert not mapped[0].open


# --- what comes is not trusted


def offered(**changes):
    entries = wire.lay_out([("a", "float32", (4,)), ("b", "uint8", (3,))])
    layout = wire.Layout(entries, wire.PIECE_BYTES, joined=False)
    offer = wire.Offer(1, "h" * 64, "c", 1, 1, 1, "memory", layout, (0, 0))
    return {**json.loads(json.dumps(offer.fields())), **changes}


def entry(name="a", dtype="float32", shape=(4,), offset=0):
    return [name, dtype, list(shape), offset]


def test_an_offer_survives_its_journey():
    offer = wire.Offer.parse(offered(), "h" * 64)
    assert json.loads(json.dumps(offer.fields())) == offered()
    short = json.loads(json.dumps(offer.fields(known=offer.layout.name)))
    assert "entries" not in short
    assert wire.Offer.parse(short, "h" * 64, offer.layout) == offer
    with pytest.raises(CodecError, match="entries"):
        wire.Offer.parse(short, "h" * 64)
    with pytest.raises(CodecError, match="layout"):
        wire.Offer.parse(short, "h" * 64, wire.Layout(offer.entries[:1], wire.PIECE_BYTES, False))


@pytest.mark.parametrize(
    "changes",
    [
        {"content_hash": "x" * 64}, {"number": -1}, {"number": True}, {"number": "1"}, {"sums": [0]}, {"sums": 3},
        {"piece": 0}, {"piece": 7}, {"entries": None}, {"entries": [entry()] * 2, "sums": [0, 0]},
        {"entries": [entry(), entry(name="b")], "sums": [0, 0]},  # one lies in the other
        {"entries": [entry(dtype="object")], "sums": [0]}, {"entries": [entry(shape=[-4])], "sums": [0]},
        {"entries": [entry(shape=[1 << 62, 1 << 62])], "sums": [0]}, {"entries": [entry(shape=[1] * 9)], "sums": [0]},
        {"entries": [entry(offset=4)], "sums": [0]}, {"entries": [entry(name="")], "sums": [0]}, {"entries": [3]},
        {"entries": [entry()[:3]]}, {"layout": "x"}, {"joined": True},
    ],
)  # fmt: skip
def test_an_offer_that_makes_no_sense_is_refused_before_anything_is_copied(changes):
    with pytest.raises(CodecError):
        wire.Offer.parse(offered(**changes), "h" * 64)


def test_ends_of_different_releases_say_so_before_anything_is_copied(learner):
    """Their checksums would differ: each version would be copied, be taken for damaged, and come over the network."""
    for changes in ({"form": 1}, {"form": None}):
        with pytest.raises(CodecError, match="with the same release"):
            wire.Offer.parse(offered(**changes), "h" * 64)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as older:
        older.settimeout(30)
        older.connect(wire.address(learner.offer(6)))
        wire.send(older, {"ways": ["memory"], "layout": ""})
        said, _ = wire.receive(older)
    assert "with the same release" in said["refused"]
    counted = learner.count()
    assert (counted["taken"], counted["failed"]) == (0, 0)


def test_a_file_that_could_shrink_under_its_reader_is_refused():
    name = "f" * 64
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(wire.address(name))
    listening.listen()

    def answer():
        connection, _ = listening.accept()
        with connection:
            wire.receive(connection)
            file = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
            os.ftruncate(file, 4096)
            wire.send(connection, offered(content_hash=name), file)
            os.close(file)
            connection.recv(1)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with take(name, ["memory"]) as taking:
            with pytest.raises(TransportError, match="bytes that stay"):
                taking.arrays()
    finally:
        thread.join()
        listening.close()


@pytest.mark.parametrize(
    "said", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00[1]", b"\x02\x00\x00\x00{", b""]
)
def test_nonsense_in_place_of_an_answer_is_an_error_and_leaves_no_file(said):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TransportError):
            wire.receive(ours, files=1)
        assert len(os.listdir("/proc/self/fd")) == files


# --- snapshots: here in the host's memory, on a GPU in memory that others map


class Memory:
    handle = "here"

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def bytes_of(arrays):
    """As they lie one behind the other."""
    room = bytearray(wire.Layout(arrays.layout.entries, wire.PIECE_BYTES, True).total)
    for one in arrays.layout.entries:
        room[one.offset : one.end] = arrays[one.name].tobytes()
    return np.frombuffer(room, np.uint8)


@pytest.fixture
def snapshots():
    from user_core.weight_plane.tensors import Snapshots

    made = []

    def make(nbytes, device):
        made.append(Memory())
        return made[-1], torch.zeros(nbytes, dtype=torch.uint8, device=device)

    found = Snapshots(make, most=2)
    found.made = made
    return found


def test_a_snapshot_is_what_the_weights_were(snapshots):
    weights = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(3, dtype=torch.bfloat16)}
    taken = snapshots.take(weights)
    for tensor in weights.values():
        tensor.zero_()
    np.testing.assert_array_equal(taken["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert taken["h"].dtype == np.uint16  # bfloat16 on the host
    sums = taken.sums()
    assert sums == (wire.checksum(bytes_of(taken)),)
    taken.release()
    assert taken["w"][1, 2] == 5  # on the host it stays
    with pytest.raises(PolicyError):
        taken.sums()


def test_a_snapshot_is_rounded_as_versions_are(snapshots):
    from user_core.codecs.policy_blob import to_bfloat16

    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    taken = snapshots.take({"w": torch.from_numpy(values)}, rounded=True)
    np.testing.assert_array_equal(taken["w"], to_bfloat16(values))


def test_numbers_that_are_not_finite_are_found_where_they_are(snapshots):
    weights = {
        "a": torch.ones(3), "b": torch.tensor([1.0, float("nan")]), "c": torch.arange(3), "d": torch.zeros(0),
        "e": torch.tensor([float("inf")], dtype=torch.bfloat16),
    }  # fmt: skip
    assert snapshots.take(weights).not_finite() == ["b", "e"]
    weights["b"][1] = weights["e"][0] = 0
    paced = []
    taken = snapshots.take(weights)
    taken.pace = lambda: paced.append(1)
    assert taken.not_finite() == []
    assert len(paced) == 4


def test_memory_of_snapshots_is_used_again_and_given_back(snapshots):
    weights = {"w": torch.arange(6.0)}
    first, second = snapshots.take(weights), snapshots.take(weights)
    assert snapshots.take(weights) is None  # both are in use
    first.release()
    first.release()
    third = snapshots.take(weights)
    assert third is not None
    assert len(snapshots.made) == 2
    del second  # nobody has published it
    assert snapshots.take({"w": torch.arange(600.0)}) is not None
    assert [memory.closed for memory in snapshots.made] == [False, True, False]
    snapshots.close()
    assert snapshots.take(weights) is None
    third.release()
    assert snapshots.made[0].closed


# --- from GPU to GPU small arrays travel together: here from a snapshot in the host's memory


MANY = wire.JOINED_BYTES // 4 + 1


@pytest.fixture
def mixed():
    """Large and small arrays of several types, some of which do not divide by four, as a network names them."""
    numbers = torch.Generator().manual_seed(0)
    found = {}
    for layer in range(3):
        found[f"{layer}.weight"] = torch.randn(MANY + layer, generator=numbers)
        found[f"{layer}.bias"] = torch.randn(7, generator=numbers)
        found[f"{layer}.half"] = torch.randn(5, 3, generator=numbers).bfloat16()
        found[f"{layer}.count"] = torch.tensor(layer)
        found[f"{layer}.none"] = torch.zeros(0, 4)
        found[f"{layer}.flags"] = torch.tensor([True, False, layer == 1])
    found["large.half"] = torch.randn(2 * MANY + 1, generator=numbers).bfloat16()
    return found


class FromFlat:
    """What a GPU's copies do."""

    engines = (None, None)

    def __init__(self, flat, at_once=1):
        self.flat, self.copies, self.at_once = flat, [], at_once

    def copy(self, offset, target, stream):
        self.copies.append((offset, len(target)))
        target.copy_(self.flat[offset : offset + len(target)])


def offer_of(snapshot):
    return wire.Offer(1, "h" * 64, "c", 1, 1, 1, "gpu", snapshot.layout, snapshot.sums())


def filled(
    snapshot, targets, pace=lambda: None, gone=lambda: False, flat=None, at_once=1, known=None
):
    from user_core.weight_plane.tensors import Known, check_targets, fill

    offer, source = offer_of(snapshot), FromFlat(snapshot._flat if flat is None else flat, at_once)
    fill(offer, source, targets, known or Known(check_targets(offer, targets)), pace, gone)
    return source


@pytest.mark.parametrize(("at_once", "times"), [(1, 5), (3 << 20, 2), (1 << 30, 1)])
def test_small_arrays_travel_together_and_arrive_where_they_belong(
    snapshots, mixed, at_once, times
):
    taken = snapshots.take(mixed)
    targets = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    targets["1.half"] = torch.zeros(3, 5, dtype=torch.bfloat16).T  # small, and not in order
    targets["2.weight"] = torch.zeros(MANY + 2, 2)[:, 0]  # large, and not in order
    places = {name: tensor.data_ptr() for name, tensor in targets.items()}
    waited = []
    source = filled(taken, targets, lambda: waited.append(1), at_once=at_once)
    assert len(waited) == times
    for name, tensor in mixed.items():
        assert torch.equal(targets[name], tensor), name
    assert {name: tensor.data_ptr() for name, tensor in targets.items()} == places
    assert len(source.copies) == 5  # four large ones, and the rest at once
    assert sum(size for _, size in source.copies) <= taken.layout.total


def test_what_was_found_out_about_a_network_serves_the_next_version(snapshots, mixed):
    targets = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    targets["2.weight"] = torch.zeros(MANY + 2, 2)[:, 0]
    other = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    with Mappings() as mappings:
        for change in range(3):
            version = {name: tensor + (tensor.is_floating_point() and change) for name, tensor in mixed.items()}  # fmt: skip
            taken = snapshots.take(version)
            for network in (targets, other):
                offer = offer_of(taken)
                known = mappings.known(offer, network)
                assert len(known.places) == (0 if not change else 3 if network is targets else 4)
                filled(taken, network, known=known)
                for name, tensor in version.items():
                    assert torch.equal(network[name], tensor), name
            taken.release()
        moved = {**targets, "0.weight": targets["0.weight"].clone()}
        assert not mappings.known(offer, moved).places
        turned = {**targets, "1.half": torch.zeros(3, 5, dtype=torch.bfloat16).T}
        assert not mappings.known(offer, turned).places
        with pytest.raises(PolicyError, match=r"0\.weight"):
            mappings.known(offer, {**targets, "0.weight": targets["0.weight"][1:]})
        assert len(mappings._known) == 2


def test_what_is_known_of_a_network_outlives_a_version_that_came_half(snapshots, mixed):
    taken = snapshots.take(mixed)
    targets = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    pieces = []
    with Mappings() as mappings:
        for end in (2, 99, 3, 99):
            known = mappings.known(offer_of(taken), targets)
            pieces.clear()
            try:
                filled(taken, targets, lambda: pieces.append(1), lambda end=end: len(pieces) > end, known=known)  # fmt: skip
            except TransportError:
                assert end < 99
            else:
                assert end == 99
    for name, tensor in mixed.items():
        assert torch.equal(targets[name], tensor), name


def test_a_network_that_lies_oddly_is_summed_up_all_the_same(snapshots):
    values = torch.arange(2 * wire.JOINED_BYTES + 5, dtype=torch.int64).to(torch.uint8)
    taken = snapshots.take({"w": values, "v": values[:-1]})
    room = torch.zeros(2 * len(values) + 3, dtype=torch.uint8)
    targets = {"w": room[3 : 3 + len(values)], "v": room[3 + len(values) : -1]}
    assert any(t.data_ptr() % 8 for t in targets.values())
    filled(taken, targets)
    assert torch.equal(targets["w"], values)
    flat = taken._flat.clone()
    flat[len(values) - 1] += 1
    with pytest.raises(TransportError, match="1 of 2 pieces with other checksums"):
        filled(taken, targets, flat=flat)


def test_both_ends_sum_up_alike():
    from user_core.weight_plane.tensors import _numbers, _Sums

    bits = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    bits[:16] = [*[0xFF] * 7, 0x7F] * 2  # twice the largest number
    for start in range(9):
        for size in range(40):
            piece = bits[start : start + size].copy()
            sums = _Sums(1, torch.device("cpu"))
            sums.add(*_numbers(torch.from_numpy(bits.copy())[start : start + size]))
            assert sums.values() == (wire.checksum(piece),)
            for place in range(size):
                changed = piece.copy()
                changed[place] ^= 1 << (place % 8)
                assert wire.checksum(changed) != wire.checksum(piece)


def test_what_comes_in_float32_is_rounded_where_the_network_has_bfloat16(snapshots, mixed):
    taken = snapshots.take(mixed)
    targets = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    for name in ("0.weight", "1.bias"):
        targets[name] = targets[name].bfloat16()
    filled(taken, targets, at_once=1 << 30)
    for name, tensor in mixed.items():
        assert torch.equal(targets[name], tensor.to(targets[name].dtype)), name
    targets["large.half"] = targets[
        "large.half"
    ].float()  # which would need numbers that nobody has
    with pytest.raises(PolicyError, match=r"large\.half"):
        filled(taken, targets)


def test_damage_is_found_wherever_it_is(snapshots, mixed):
    taken = snapshots.take(mixed)
    places = [piece.offset + piece.nbytes - 1 for piece in taken.layout.pieces]
    for place in [0, *places]:
        flat = taken._flat.clone()
        flat[place] += 1
        with pytest.raises(TransportError, match="1 of 5 pieces with other checksums"):
            filled(taken, {n: torch.zeros_like(t) for n, t in mixed.items()}, flat=flat)


@pytest.mark.parametrize("last", range(5))
def test_who_offers_may_end_between_any_two_pieces(snapshots, mixed, last):
    taken, pieces = snapshots.take(mixed), []
    with pytest.raises(TransportError, match="the learner has ended"):
        filled(
            taken, {n: torch.zeros_like(t) for n, t in mixed.items()},
            pace=lambda: pieces.append(1), gone=lambda: len(pieces) > last,
        )  # fmt: skip
    assert len(pieces) == last + 1


def test_many_small_arrays_make_pieces_that_are_not_too_large():
    entries = wire.lay_out([(f"w{i}", "float32", (MANY // 2,)) for i in range(9)])
    pieces = wire.cut(entries, 2 * wire.JOINED_BYTES, joined=True)
    assert [len(piece.entries) for piece in pieces] == [4, 4, 1]
    assert all(piece.nbytes <= 2 * wire.JOINED_BYTES for piece in pieces)
    assert wire.cut(entries[::2], 4 * wire.JOINED_BYTES, joined=True) == wire.cut(
        entries[::2], 4 * wire.JOINED_BYTES, joined=False
    )  # with others between
