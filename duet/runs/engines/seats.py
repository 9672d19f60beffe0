"""The places of processes that share one training, on whichever machines they are."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from duet.errors import DuetError


@dataclass(frozen=True)
class Meeting:
    """What the ranks of a training agree on.

    Attributes:
        host: Where the first waits for the others.
        port: There.
        checkpoint: SHA-256 of the checkpoint that all go on from; None: from the start.
    """

    host: str
    port: int
    checkpoint: str | None


@dataclass(frozen=True)
class Seat:
    """One of the processes that share a training.

    Attributes:
        rank: Which, from 0; the first tells progress, keeps checkpoints and has the results.
        ranks: How many.
        host: Address of this machine.
        meet: Takes what the first proposes, of others None; returns it when all are there.
    """

    rank: int
    ranks: int
    host: str
    meet: Callable[[Meeting | None], Meeting]


@contextlib.contextmanager
def seated(seat: Seat | None, last: str | None) -> Iterator[str | None]:
    """Let the engine know its rank, and where to meet the others, while the block runs.

    Args:
        seat: None: it trains alone.
        last: SHA-256 of the last checkpoint that this process knows.

    Yields:
        That of the checkpoint that all go on from.
    """
    if seat is None:
        yield last
        return
    found = seat.meet(Meeting(seat.host, _free_port(), last) if seat.rank == 0 else None)
    # To the engine each is the only one of its machine: it sees no GPU but its own.
    words = {
        "RANK": seat.rank, "WORLD_SIZE": seat.ranks, "LOCAL_RANK": 0, "MASTER_ADDR": found.host,
        "MASTER_PORT": found.port,
    }  # fmt: skip
    os.environ |= {name: str(word) for name, word in words.items()}
    try:
        yield found.checkpoint
    finally:
        for name in words:
            del os.environ[name]


def _free_port() -> int:
    """Return a port of this machine on which nobody listens, below those that systems give away."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port
    raise DuetError("no port is free for the ranks of a training", where=socket.gethostname())
