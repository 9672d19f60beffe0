"""One CPU thread per test process: two OpenMP threads crawl when a neighbour holds a core."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
