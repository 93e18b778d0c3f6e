"""What of a package's tests runs without the repository around it."""

import subprocess
import sys

import pytest

CONFTEST = """
import sys
sys.path[:] = [path for path in sys.path if not path.endswith("/testing")]
from user_core.conformance.lone_tests import pytest_configure, pytest_ignore_collect
"""


@pytest.fixture
def package(tmp_path):
    """A package whose tests are as ours are."""
    files = {
        "test/conftest.py": CONFTEST,
        "test/test_plain.py": "def test_plain(): pass\n",
        "test/deeper/test_plain.py": "def test_of_the_same_name(): pass\n",
        "test/test_with_kit.py": "from user_testing.ports import free_port\n",
        "test/ros/test_nodes.py": "raise AssertionError('not without a domain of its own')\n",
        "test/test_repository.py": "from pathlib import Path\nPath(__file__).parents[3]\n",
    }
    for name, text in files.items():
        file = tmp_path / "lab" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "lab"


def test_what_needs_the_repository_is_left_out_and_the_rest_runs(package, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    words = [sys.executable, "-c", "import sys, pytest\n"
             f"sys.path[:0] = {[p for p in sys.path if p and not p.endswith('/testing')]!r}\n"
             "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"]  # fmt: skip
    ended = subprocess.run(
        words, cwd=package, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout, ended.stdout
