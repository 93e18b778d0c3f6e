"""Without the repository around it, this package runs the tests that need nothing of it."""

from user_core.conformance.lone_tests import pytest_configure, pytest_ignore_collect

__all__ = ["pytest_configure", "pytest_ignore_collect"]
