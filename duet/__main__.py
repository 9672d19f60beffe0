"""`python -m duet`: the same as `duet`."""

import sys

# Python put the working folder first on the path, where a stranger's `json.py` may lie.
if not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated):  # the former from 3.11 on
    del sys.path[0]

from duet.cli.main import main

if __name__ == "__main__":
    main()
