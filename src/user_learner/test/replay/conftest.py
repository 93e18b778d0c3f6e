import sys
from pathlib import Path

# Helpers that are also used by the processes that tests start.
sys.path.insert(0, str(Path(__file__).parent))
