"""Samplers and readers honour edits: compared with a step-by-step computation."""

import shutil
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.types import ActedBy, EpisodeKey, EpisodeSource, Outcome, RewardSource
from user_learner.edits import Edit, EditedEpisodes, EditLog
from user_learner.edits.applied import StoreEdits
from user_learner.edits.columns import VALUE, ColumnWriter, Provenance
from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay.index import WHOLE_SEGMENT, Damage
from user_learner.sampling import History, ReplaySource, Stratum
from user_learner.sampling.catalog import open_catalog
from user_learner.sampling.takeovers import acted_by
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, STILL, Actor, Plan, fill, reward_of

GAMMA = 0.9


def key(number):
    return EpisodeKey("actor1", 1, number)


def store_of(path, plans, **kwargs):
    with StoreWriter(path, config=QUICK.replace(segment_bytes=1)) as writer:
        fill(
            writer,
            Actor(9, chunk_rows=512, **kwargs),
            [Plan(1017, source=EpisodeSource.EVALUATION)],
        )
        fill(writer, Actor(**kwargs), plans)  # 6 rows are left in the first segment
    return path


def drawn(source, count=64):
    """What was drawn: (episode, row) to the set of (reward, discount, row of the next observation)."""
    found = {}
    for _ in range(count):
        batch = source.sample(32)
        for place, reward, discount, after in zip(
            batch.observation["place"][:, 1:].tolist(),
            batch.reward.tolist(),
            batch.discount.tolist(),
            batch.next_observation["place"][:, 2].tolist(),
        ):
            found.setdefault(tuple(place), set()).add((reward, discount, after))
    return found


def sampled(path, config, count=64):
    with ReplaySource(path, config.replace(gamma=GAMMA)) as source:
        return drawn(source, count)


CASES = st.lists(
    st.tuples(
        st.integers(1, 9),  # steps
        st.booleans(),  # terminated
        st.booleans(),  # excluded
        st.none() | st.tuples(st.integers(0, 8), st.none() | st.integers(1, 4)),  # start, length
        st.none() | st.tuples(st.floats(-2, 2, width=32), st.booleans()),  # reward, terminated
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def expected(cases, n):
    found = {}
    for episode, (steps, terminated, excluded, cut, label) in enumerate(cases):
        start, stop = 0, steps
        if cut is not None:
            start = cut[0]
            stop = steps if cut[1] is None else min(steps, start + cut[1])
        if excluded:
            continue
        rewards = [reward_of(episode, row) for row in range(steps)]
        ends = [terminated and row == steps - 1 for row in range(steps)]
        if label is not None and stop > start:
            rewards[stop - 1], ends[stop - 1] = label
        for row in range(start, stop):
            total, discount, at = 0.0, 1.0, row
            while at < min(row + n, stop):
                total += discount * rewards[at]
                discount *= GAMMA
                at += 1
                if ends[at - 1]:
                    discount = 0.0
                    break
            found[episode, row] = (total, discount, at)
    return found


@pytest.mark.parametrize("n", [1, 3])
@settings(deadline=None, max_examples=20)
@given(cases=CASES)
def test_exclusions_cuts_and_labels_are_honoured(tmp_path_factory, cases, n):
    path = store_of(tmp_path_factory.mktemp("store"), [Plan(c[0], terminated=c[1]) for c in cases])
    log = EditLog(path)
    for episode, (_, _, excluded, cut, label) in enumerate(cases):
        if excluded:
            log.append(Edit.exclude([key(episode)]))
        if cut is not None:
            stop = None if cut[1] is None else cut[0] + cut[1]
            log.append(Edit.cut([key(episode)], cut[0], stop))
        if label is not None:
            log.append(Edit.relabel([key(episode)], Outcome.SUCCESS, *label))
    wanted = expected(cases, n)
    with ReplaySource(path, STILL.replace(n_step=n, gamma=GAMMA)) as source:
        assert len(source) == len(wanted)
        found = drawn(source) if wanted else {}
    assert found.keys() == wanted.keys()
    for place, values in found.items():
        assert len(values) == 1
        reward, discount, after = next(iter(values))
        assert (reward, discount) == pytest.approx(wanted[place][:2], abs=1e-5)
        if discount:  # nothing depends on what follows a step that ended the task
            assert after == wanted[place][2]


def test_windows_end_at_a_cut_and_at_a_label(tmp_path):
    path = store_of(tmp_path, [Plan(10)])
    EditLog(path).append(Edit.cut([key(0)], 1, 7))
    EditLog(path).append(Edit.relabel([key(0)], Outcome.SUCCESS, 5.0, True))
    with ReplaySource(path, STILL.replace(window=4, pad_windows=True, gamma=GAMMA)) as source:
        batch = source.sample(256)
        rows = batch.observation["place"][:, 2]
        assert set(rows.tolist()) == set(range(1, 7))
        for row, mask, reward, discount in zip(
            rows, batch.extras["mask"], batch.reward, batch.discount
        ):
            there = min(4, 7 - row)
            assert mask.sum() == there
            if row + 4 >= 7:
                assert reward[there - 1] == 5.0
                assert discount[there - 1] == 0.0


def test_who_acted_and_hindsight_tables_keep_to_what_is_left(tmp_path):
    path = store_of(
        tmp_path, [Plan(9, humans=frozenset({1, 2, 6})), Plan(5, humans=frozenset({0}))]
    )
    EditLog(path).append(Edit.cut([key(0)], 2, 6))
    human = Stratum(acted_by=(ActedBy.HUMAN,))
    assert sampled(path, STILL.replace(strata=(human,))).keys() == {(0, 2), (1, 0)}


def test_undo_brings_everything_back(tmp_path):
    path = store_of(tmp_path, [Plan(6), Plan(4)])
    with ReplaySource(path, STILL.replace(gamma=GAMMA)) as source:
        before = drawn(source)
        log = EditLog(path)
        numbers = [
            log.append(edit).number
            for edit in (
                Edit.exclude([key(0)]), Edit.cut([key(1)], 1, 3),
                Edit.relabel([key(1)], Outcome.SUCCESS, 9.0, True),
            )
        ]  # fmt: skip
        assert source.refresh()
        assert drawn(source).keys() == {(1, 1), (1, 2)}
        for number in numbers:
            log.append(Edit.undo(number))
        assert source.refresh()
        assert drawn(source) == before


def test_a_running_sampler_takes_edits_up_within_seconds(tmp_path):
    path = store_of(tmp_path, [Plan(50), Plan(50), Plan(50)])
    config = STILL.replace(refresh_period_s=0.2, prefetch=2)
    with ReplaySource(path, config) as source:
        longest, stop = [0.0], threading.Event()

        def draw():
            while not stop.is_set():
                began = time.perf_counter()
                source.sample(64)
                longest[0] = max(longest[0], time.perf_counter() - began)

        thread = threading.Thread(target=draw)
        thread.start()
        try:
            EditLog(path).append(Edit.exclude([key(1)]))
            deadline = time.monotonic() + 60
            while len(source) != 100 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(source) == 100
        finally:
            stop.set()
            thread.join()
        assert not {e for e, _ in drawn(source, 20)} & {1}


def test_a_sample_cache_stops_drawing_what_is_excluded_without_reading(tmp_path):
    """A store larger than memory: units in memory lose steps at once, and nothing is read for it."""
    plans = [Plan(60) for _ in range(60)]
    path = store_of(tmp_path, plans, schema=IMAGE_SCHEMA)
    config = STILL.replace(memory_bytes=12 * 2**20, n_step=3, read_bytes_per_s=1e5)
    with ReplaySource(path, config) as source:
        source.sample(8)
        assert source.cached
        bad = [key(number) for number in range(0, 60, 2)]
        log = EditLog(path)
        log.append(Edit.exclude(bad))
        log.append(Edit.cut([key(1)], 10, 20))
        assert source.refresh()
        deadline = time.monotonic() + 60
        wanted = False
        while not wanted and time.monotonic() < deadline:
            found = drawn(source, 20)
            wanted = all(
                e % 2 == 1 and (e != 1 or 10 <= row < 20) for e, row in found
            )  # fmt: skip
        assert wanted
        for (episode, row), values in drawn(source, 50).items():
            end = 20 if episode == 1 else 60
            assert {after for _, _, after in values} == {min(row + 3, end)}


def test_edits_of_a_history_store_are_its_own_or_in_a_file(tmp_path):
    live = store_of(tmp_path / "live", [Plan(3)])
    old = store_of(tmp_path / "old", [Plan(4), Plan(5)])
    EditLog(old).append(Edit.exclude([key(0)]))
    beside = tmp_path / "old.edits"
    EditLog(beside).append(Edit.exclude([key(1)]))
    for edits, steps in (("", 3 + 5), (str(beside), 3 + 4)):
        with ReplaySource(live, STILL, [History(path=str(old), edits=edits)]) as source:
            assert len(source) == steps


def column_of(path, name, episodes, author="test"):
    """Rewards of 100 + step; the task ends at step 2."""
    with ColumnWriter(path, Provenance(name, "task", author=author)) as writer:
        for number, steps in episodes:
            values = np.zeros(steps, VALUE)
            values["reward"] = 100 + np.arange(steps)
            values["terminated"] = np.arange(steps) == 2
            writer.add(key(number), 0, values)
        writer.commit()


def test_a_column_of_rewards_is_used_when_the_log_says_so(tmp_path):
    path = store_of(tmp_path, [Plan(6), Plan(4)])
    column_of(path, "new", [(0, 6)])
    with ReplaySource(path, STILL.replace(gamma=GAMMA, n_step=2)) as source:
        before = drawn(source)
        log = EditLog(path)
        use = log.append(Edit.rewards("new"))
        source.refresh()
        found = drawn(source)
        assert found.keys() == before.keys()
        for (episode, row), values in found.items():
            if episode:
                assert values == before[episode, row]
                continue
            reward, discount, _ = next(iter(values))
            second = 0.0 if row in (2, 5) else GAMMA * (101 + row)
            assert reward == pytest.approx(100 + row + second, abs=1e-3)
            assert discount == pytest.approx({1: 0, 2: 0, 5: GAMMA}.get(row, GAMMA**2), abs=1e-6)
        column_of(path, "new", [(1, 4)])  # the column grows: also taken up
        assert source.refresh()
        assert min(min(v)[0] for v in drawn(source).values()) > 99
        # what a person says of an episode goes over it
        log.append(Edit.relabel([key(0)], Outcome.FAILURE, -7.0, True))
        source.refresh()
        assert next(iter(drawn(source)[0, 5]))[:2] == (-7.0, 0.0)
        log.append(Edit.undo(use.number))
        source.refresh()
        assert next(iter(drawn(source)[0, 4]))[0] == pytest.approx(
            reward_of(0, 4) + GAMMA * -7.0, abs=1e-5
        )


def test_a_column_that_is_removed_and_judged_anew_is_another(tmp_path):
    """What was read of the first was taken for the beginning of the second: rewards were those of other steps."""
    path = store_of(tmp_path, [Plan(6), Plan(4)])
    column_of(path, "new", [(0, 6)])
    EditLog(path).append(Edit.rewards("new"))
    with ReplaySource(path, STILL) as source, EditedEpisodes(path) as view:
        one, other = [episode for episode in view.episodes() if episode.key in (key(0), key(1))]
        before = drawn(source)
        assert view.read(one)["reward"][0] == before[0, 0].pop()[0] == 100
        shutil.rmtree(path / "rewards" / "new")
        assert not source.refresh()
        assert drawn(source)[0, 5].pop()[0] == 105, "what was read stays until there is another"
        column_of(path, "new", [(1, 3), (1, 4)])
        assert source.refresh()
        found = drawn(source)
        for row in range(4):
            assert found[1, row].pop()[0] == view.read(other)["reward"][row] == 100 + row
        assert found[0, 5].pop()[0] == view.read(one)["reward"][5] == pytest.approx(reward_of(0, 5))
        shutil.copytree(path / "rewards" / "new", path / "copy")
        column_of(path, "new", [(0, 6)])
        assert source.refresh()
        shutil.rmtree(path / "rewards" / "new")
        (path / "copy").rename(path / "rewards" / "new")
        assert source.refresh()
        assert drawn(source)[0, 5].pop()[0] == pytest.approx(reward_of(0, 5))


def test_judged_ranges_are_part_of_a_samplers_memory_and_without_them_nothing_is_kept_free(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("user_learner.sampling.source._FEW_BYTES", 0)
    path = store_of(tmp_path, [Plan(6), Plan(4)])
    with ReplaySource(path, STILL) as source:
        source.sample(32)
        room = source._cache_bytes(32)
        column_of(path, "new", [(0, 6), (1, 4)])
        source.refresh()
        assert source._cache_bytes(32) == room, "a column that is not used takes none"
        use = EditLog(path).append(Edit.rewards("new"))
        source.refresh()
        assert room - source._cache_bytes(32) >= 2 * 200
        EditLog(path).append(Edit.undo(use.number))
        source.refresh()
        assert source._cache_bytes(32) == room


def test_a_column_that_is_missing_is_told_and_training_goes_on(tmp_path):
    path = store_of(tmp_path, [Plan(6)])
    with ReplaySource(path, STILL) as source:
        EditLog(path).append(Edit.rewards("gone"))
        source.refresh()
        assert source.sample(4).reward.shape == (4,)
        assert any("gone" in text for text in source.warnings)


def test_the_view_shows_what_a_sampler_draws(tmp_path):
    path = store_of(tmp_path, [Plan(8, terminated=True), Plan(5), Plan(3)])
    log = EditLog(path)
    log.append(Edit.cut([key(0)], 2, 6))
    log.append(Edit.relabel([key(0)], Outcome.SUCCESS, 3.0, True))
    log.append(Edit.exclude([key(1)], "bad"))
    log.append(Edit.tag([key(2)], ["good"]))
    with EditedEpisodes(path) as view:
        mine = {e.key.number: e for e in view.episodes() if e.key.producer == "actor1"}
        assert mine.keys() == {0, 2}
        one = mine[0]
        assert (one.outcome, one.steps, one.result.length) == (Outcome.SUCCESS, 4, 4)
        columns = view.read(one)
        assert columns["observation.place"][:, 2].tolist() == [2, 3, 4, 5, 6]
        assert columns["final"].tolist() == [False] * 4 + [True]
        assert columns["action"][-1].tolist() == [0, 0]
        assert columns["terminated"].tolist() == [False] * 3 + [True, False]
        assert not columns["truncated"].any()
        assert columns["reward"].tolist() == [
            *(reward_of(0, row) for row in (2, 3, 4)), 3.0, 0.0,
        ]  # fmt: skip
        assert columns["reward_source"][3] == RewardSource.HUMAN
        whole = view.recorded(one)
        assert whole.result.episode_return == pytest.approx(columns["reward"].sum())
        assert mine[2].edits.tags == ("good",)
        everything = {
            e.key.number: e for e in view.episodes(excluded=True) if e.key.producer == "actor1"
        }
        assert everything[1].edits.why == "bad"
        # a cut end is a truncation
        log.append(Edit.cut([key(2)], 0, 2))
        assert view.refresh()
        (cut,) = [e for e in view.episodes() if e.key == key(2)]
        columns = view.read(cut)
        assert columns["truncated"].tolist() == [False, True, False]


def test_stored_data_is_never_changed(tmp_path):
    path = store_of(tmp_path, [Plan(8), Plan(5)])
    files = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and "sqlite" not in p.name}
    log = EditLog(path)
    log.append(Edit.exclude([key(0)]))
    log.append(Edit.relabel([key(1)], Outcome.SUCCESS, 1.0, True))
    column_of(path, "new", [(0, 8)])
    log.append(Edit.rewards("new"))
    sampled(path, STILL, 2)
    for file, data in files.items():
        assert file.read_bytes() == data


def test_edits_survive_an_index_that_is_built_anew(tmp_path):
    path = store_of(tmp_path, [Plan(8), Plan(5)])
    EditLog(path).append(Edit.exclude([key(0)]))
    with ReplaySource(path, STILL) as source:
        assert len(source) == 5
        for file in path.glob("index.sqlite*"):
            file.unlink()
        StoreWriter(path, config=QUICK).close()
        source.refresh()
        assert len(source) == 5


def test_what_edits_say_is_looked_up_once_and_of_episodes_that_come_later_when_they_come(
    tmp_path, monkeypatch
):
    """A store may have very many edits: at each change of it all of them were looked at in Python, beside draws."""
    asked, number = [], StoreEdits._number
    monkeypatch.setattr(
        StoreEdits, "_number", lambda edits, key: asked.append(key.number) or number(edits, key)
    )
    with StoreWriter(tmp_path, config=QUICK) as writer:
        actor = Actor()
        fill(writer, actor, [Plan(6)] * 4)
        column_of(tmp_path, "new", [(0, 6), (1, 6), (4, 6)])
        log = EditLog(tmp_path)
        log.append(Edit.rewards("new"))
        log.append(Edit.exclude([key(2), key(5)]))
        log.append(Edit.relabel([key(3), key(6)], Outcome.FAILURE, -7.0, True))
        with ReplaySource(tmp_path, STILL.replace(gamma=GAMMA)) as source:
            assert sorted(asked) == [0, 1, 2, 3, 4, 5, 6]
            assert {episode for episode, _ in drawn(source)} == {0, 1, 3}
            asked.clear()
            fill(writer, actor, [Plan(6)] * 3)
            assert source.refresh()
            assert sorted(asked) == [4, 5, 6]
            found = drawn(source)
            assert {episode for episode, _ in found} == {0, 1, 3, 4, 6}
            assert min(reward for reward, *_ in found[4, 3]) > 99
            assert {next(iter(found[episode, 5]))[:2] for episode in (3, 6)} == {(-7.0, 0.0)}
            asked.clear()
            fill(writer, actor, [Plan(6)])
            assert source.refresh()
            assert not asked


def all_told(stores):
    """What a catalog says of every row, by segment and row in place of addresses, which depend on what was there
    before."""
    state = stores.snapshot
    table, runs = state.segments, state.runs
    starts = zip(runs.address.tolist(), runs.rows.tolist(), strict=True)
    every = np.concatenate([np.empty(0, np.int64), *(np.arange(at, at + n) for at, n in starts)])
    segment, row = table.locate(every)
    assert {(p.name, n) for p, n in zip(table.paths, table.number.tolist(), strict=True)} == {
        (f"{n:08d}", n) for n in table.number.tolist()
    }
    return {
        "segments": sorted(table.number.tolist()), "aside": dict(table.aside),
        "rows": [table.number[segment].tolist(), row.tolist()],
        "runs": [getattr(runs, name).tolist() for name in ("rows", "after", "next", "source", "order")],
        "labels": [said.tolist() for said in state.labels.of(every)],
        "actors": acted_by(state.actors, every).tolist(),
    }  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_catalog_that_followed_every_change_is_as_one_that_is_opened_anew(tmp_path, seed):
    """Segments come, go and are set aside; episodes grow and are edited, also before they come; edits are undone."""
    random = np.random.default_rng(seed)
    actor, log, judged = Actor(chunk_rows=50), EditLog(tmp_path), {}

    def some():
        return [key(int(n)) for n in random.integers(0, actor.episode + 3, 3)]

    def fill_some(writer):
        humans = frozenset(random.integers(0, 90, 9).tolist())
        plans = [Plan(int(n), humans=humans) for n in random.integers(1, 700, 3)]
        chunks = [*left, *(chunk for plan in plans for chunk in actor.chunks(plan))]
        cut = int(random.integers(len(chunks) // 2, len(chunks) + 1))
        left[:] = chunks[cut:]
        for chunk in chunks[:cut]:
            writer.append(chunk)
        writer.commit()

    def judge(_):
        name = f"c{random.integers(2)}"
        with ColumnWriter(tmp_path, Provenance(name, "task")) as column:
            for one in dict.fromkeys(some()):
                values = np.zeros(int(random.integers(1, 60)), VALUE)
                values["reward"] = random.random(len(values))
                column.add(one, judged.get((name, one), 0), values)
                judged[name, one] = judged.get((name, one), 0) + len(values)
            column.commit()

    def set_aside(writer):
        with closing(StoreReader(tmp_path)) as reader:
            numbers = reader.tables.segments[:-1, 0]
        if len(numbers):
            block = int(random.choice([WHOLE_SEGMENT, 0, 1]))
            writer.set_aside([Damage(int(random.choice(numbers)), block, "test")])

    changes = [
        *[fill_some] * 5, judge, judge, set_aside,
        lambda writer: writer.retain(RetentionConfig(max_rows=int(random.integers(1500, 6000)))),
        lambda _: log.append(Edit.exclude(some())),
        lambda _: log.append(Edit.include(some())),
        lambda _: log.append(Edit.cut(some(), int(random.integers(30)), None)),
        lambda _: log.append(Edit.cut(some(), 0, int(random.integers(1, 300)))),
        lambda _: log.append(Edit.relabel(some(), Outcome.SUCCESS, float(random.random()), True)),
        lambda _: log.append(Edit.rewards(f"c{random.integers(2)}" if judged else "")),
        lambda _: log.append(Edit.undo(int(random.choice([e.number for e in log.edits])))) if log.edits else None,
    ]  # fmt: skip
    left: list = []
    with StoreWriter(tmp_path, config=QUICK.replace(segment_bytes=1)) as writer:
        fill_some(writer)
        with closing(open_catalog(tmp_path, with_actors=True)) as stores:
            for _ in range(40):
                change = changes[random.integers(len(changes))]
                change(writer)
                stores.refresh()
                with closing(open_catalog(tmp_path, with_actors=True)) as new:
                    assert all_told(stores) == all_told(new)
