"""A hundred thousand mutated messages through reader, deserialiser and converter.

    tools/run python benchmarks/links/fuzz_messages.py                # as our subscriptions take them
    tools/run python benchmarks/links/fuzz_messages.py --middleware   # as the middleware alone does

Ends with exit code 1 if a child process crashed. The work is done by
:mod:`user_testing.programs.message_fuzz`, of which the test suite runs some thousand.
"""

from __future__ import annotations

import sys

from user_testing.programs.message_fuzz import main

if __name__ == "__main__":
    sys.exit(main())
