"""Two learner processes that train together stay equal, and stop together."""

import subprocess
import sys

import numpy as np


def test_two_processes_on_different_data_keep_the_same_weights(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "user_testing.programs.together", str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    one, other = (dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in (0, 1))
    assert one.pop("update") == other.pop("update") >= 30  # one asked to stop, both did
    own, others = one.pop("sample"), other.pop("sample")
    assert not np.array_equal(own, others)
    assert len(one) > 5
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    # Only the first keeps checkpoints and publishes.
    assert len(list((tmp_path / "run0" / "checkpoints").glob("*.safetensors"))) == 1
    assert not list((tmp_path / "run1" / "checkpoints").glob("*.safetensors"))
