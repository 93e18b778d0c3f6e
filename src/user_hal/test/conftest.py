"""Lets the tests of this package import the helpers that lie beside them."""

from __future__ import annotations

import sys
from pathlib import Path

# Tests are imported by their path (importlib mode), which puts no folder on the search path.
for folder in Path(__file__).parent.iterdir():
    if folder.is_dir() and any(folder.glob("test_*.py")) and str(folder) not in sys.path:
        sys.path.append(str(folder))
