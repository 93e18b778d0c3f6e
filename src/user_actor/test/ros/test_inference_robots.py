"""Which robots an inference node acts for, whatever it hears first."""

import pytest

from user_actor.nodes.inference import configuration_that_counts


@pytest.mark.parametrize(
    ("robots", "announced", "counts"),
    [
        (["odd", "usual", "usual"], [], "usual"),
        (["one", "other"], [], "one"),
        (["usual", "usual", "odd"], ["odd"], "odd"),
        (["usual", "odd", "usual"], ["of no robot"], "usual"),
        (["a", "b"], ["of no robot", "b"], "b"),
    ],
)
def test_the_learners_spec_counts_else_that_of_most_robots(robots, announced, counts):
    assert configuration_that_counts(robots, announced) == counts
