"""A hundred thousand mutated messages through reader, deserialiser and converter.

    tools/run python benchmarks/fuzz_messages.py                # as our subscriptions take them
    tools/run python benchmarks/fuzz_messages.py --middleware   # as the middleware alone does

Ends with exit code 1 if a child process crashed. The work is done by
``testing/user_testing/programs/message_fuzz.py``, of which the test suite runs some thousand.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    script = Path(__file__).parents[1] / "testing/user_testing/programs/message_fuzz.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
