"""Finds the client libraries that `make tools` fetched, when they are not installed otherwise."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / ".tools" / "python"))
