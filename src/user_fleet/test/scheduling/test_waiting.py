"""Cycles of those that wait for each other."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_fleet.scheduling.waiting import waiting_cycles


@pytest.mark.parametrize(
    ("waits", "cycles"),
    [
        ({}, []),
        ({"a": ["b"], "b": ["c"]}, []),
        ({"a": ["a"]}, [("a",)]),
        ({"b": ["a"], "a": ["b"]}, [("a", "b")]),
        ({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": []}, [("a", "b", "c")]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["d"], "d": ["c"]}, [("a", "b"), ("c", "d")]),
        ({"a": ["b"], "b": ["c", "a"], "c": ["a"]}, [("a", "b")]),
    ],
)
def test_cycles_are_found_and_told_as_they_go(waits, cycles):
    assert waiting_cycles(waits) == cycles


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))))
def test_a_cycle_is_found_exactly_where_not_everybody_can_go_on(waits):
    left = {name: set(others) for name, others in waits.items()}
    while True:  # end whoever waits for nobody that is left
        free = [name for name, others in left.items() if not others & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    found = waiting_cycles(waits)
    assert bool(found) == bool(left)
    for cycle in found:
        for name, following in zip(cycle, (*cycle[1:], cycle[0])):
            assert following in waits[name]


def test_a_long_chain_needs_no_deep_recursion():
    names = [f"e{number:05}" for number in range(5_000)]
    chain = {name: [other] for name, other in itertools.pairwise(names)}
    assert waiting_cycles(chain) == []
    assert waiting_cycles({**chain, names[-1]: [names[-10]]}) == [tuple(names[-10:])]
