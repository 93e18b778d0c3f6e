"""When a failure has come often enough; and what a process leaves behind when it ends."""

import threading

from user_core.errors import (
    ConfigError,
    DeviceNotConnected,
    SchemaMismatch,
    StopAsked,
    StoreFull,
    codes_that_may_pass,
    is_of_a_person,
    may_pass,
)
from user_core.reasons import EqualFailures, Lately, Reason
from user_core.runtime.processes import last_words


def test_equal_failures_are_enough_after_the_limit_whatever_their_numbers():
    failures = EqualFailures(3)
    assert not failures.add(Reason("training_diverged", "update 451: critic_loss not finite"))
    assert not failures.add(Reason("training_diverged", "update 4060: critic_loss not finite"))
    assert not failures.given_up
    assert failures.add(Reason("training_diverged", "update 1e5: critic_loss not finite"))
    assert failures.given_up.code == "training_diverged"
    assert "3 times the same" in failures.given_up.text


def test_other_failures_in_between_old_ones_and_success_begin_the_count_anew():
    now_s = [0.0]
    failures = EqualFailures(2, 10.0, lambda: now_s[0])
    failures.add(Reason("a", "x"))
    failures.add(Reason("a", "y"))
    failures.add(Reason("b", "y"))
    assert not failures.given_up
    now_s[0] = 11.0
    assert not failures.add(Reason("b", "y"))
    failures.clear()
    assert not failures.add(Reason("b", "y"))
    assert failures.add(Reason("b", "y"))
    never = EqualFailures(0)
    assert not any(never.add(Reason("a", "x")) for _ in range(100))


def test_what_may_pass_by_itself_and_what_cannot():
    assert (
        may_pass(DeviceNotConnected("arm")) and may_pass(OSError()) and may_pass(StoreFull("disk"))
    )
    assert not may_pass(ConfigError("key")) and not may_pass(SchemaMismatch("store"))
    assert not may_pass(TypeError()) and not may_pass(SystemExit(0))
    assert {"device", "transport", "store_full"} <= codes_that_may_pass()
    assert not {"config", "schema_mismatch", "plugin_fault"} & codes_that_may_pass()


def test_only_signals_of_ours_and_ctrl_c_in_the_main_thread_are_a_persons_wish():
    assert is_of_a_person(StopAsked(143)) and is_of_a_person(KeyboardInterrupt())
    assert not is_of_a_person(SystemExit(0))
    found = []
    thread = threading.Thread(target=lambda: found.append(is_of_a_person(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert found == [False]


def test_last_words_are_taken_once(tmp_path, monkeypatch):
    file = tmp_path / "hal.ending"
    last_words.say(Reason("config", "no such key"))  # nobody wants to know
    monkeypatch.setenv(last_words.VARIABLE, str(file))
    last_words.say(Reason("config", "no such key"), final=True)
    words = last_words.take(file)
    assert words is not None and words.reason == Reason("config", "no such key") and words.final
    assert last_words.take(file) is None
    last_words.say()
    words = last_words.take(file)
    assert words is not None and not words.reason and not words.final
    file.write_text("[1]")
    assert last_words.take(file) is None


def test_a_warning_of_what_is_over_disappears():
    now_s = [0.0]
    lately = Lately(10.0, lambda: now_s[0])
    assert not lately.grew("a", 0)
    assert lately.grew("a", 3) and not lately.grew("b", 0)
    now_s[0] = 9.0
    assert lately.grew("a", 3)
    now_s[0] = 11.0
    assert not lately.grew("a", 3)
    assert lately.grew("a", 4)


def test_what_a_few_of_always_are_is_news_when_it_is_new_or_many():
    now_s = [0.0]
    lately = Lately(10.0, lambda: now_s[0])

    def said(each_s: float, late: int) -> list[bool]:
        """Of a minute of 20 steps a second, of which some are late every so many seconds."""
        found = []
        for second in range(60):
            now_s[0] += 1.0
            total["steps"] += 20
            total["late"] += late if second % each_s == 0 else 0
            found.append(lately.grew_much("late", total["late"], total["steps"]))
        return found

    total = {"steps": 0, "late": 0}
    assert not any(said(1, 0))
    few = said(5, 1)
    assert all(few[:9]) and not any(few[10:])
    assert all(said(1, 10)[1:])  # half of all, for as long as it lasts
    assert not any(said(5, 1)[10:])
    burst = said(30, 15)
    assert burst[0] and burst[30] and not burst[29]
