"""One file over HTTP: resumed where it was cut, never larger than announced, never unencrypted.

`requests` carries the bytes. Resuming, redirects and bounds are here, because no library that duet
has keeps them all: docs/log.md says what was measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
from urllib3 import exceptions

from duet.errors import DuetError, ModelError, write_remedy
from duet.files import vacated
from duet.text import clipped, masked
from duet.weights.manifest import is_private
from duet.weights.partial import Memory, forget, length

Notify = Callable[[str], None]
"""Takes one line for people: why nothing comes, and what is done about it."""

Progress = Callable[[int, "int | None"], None]
"""Takes the bytes that are here, and how many there will be (None if nobody says)."""

_BLOCK = 1 << 16
"""Bytes written at a time, and the most that a cut can lose."""
_REDIRECTS = 5
_LARGEST = 4 << 30
"""Bytes at which a body of unannounced length is given up: no start weights are that large."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        failures: Attempts in a row that may bring nothing new.
        connect: Seconds to wait for a connection.
        read: Seconds to wait for the next bytes.
        pause: Seconds before the second attempt; doubled before each further one.
    """

    failures: int = 4
    connect: float = 10.0
    read: float = 15.0
    pause: float = 1.0


class _CutError(Exception):
    """The attempt ended early; another one may go on from here."""


@dataclass
class _Tally:
    """Bytes that came over the network, in all attempts together."""

    received: int = 0


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    progress: Progress = lambda done, total: None,
    patience: Patience | None = None,
    notify: Notify = lambda line: None,
) -> int:
    """Download ``url`` into ``part``, going on where an earlier attempt was cut.

    What is there is kept only if the server confirms by ETag or date that the file is the same.

    Args:
        url: An https address, or http on this machine.
        part: File to fill. It is complete when this returns, but nothing is known of its content.
        size: Bytes that it must have; None if unknown.
        progress: Told after every block.
        patience: How long to try.
        notify: Told why an attempt ended, before the next.

    Returns:
        Bytes that came over the network, in all attempts.

    Raises:
        ModelError: The server offers a file of another size.
        DuetError: Server or disk refuse, see `_attempt`. What came is kept for the next call.
    """
    patience = patience or Patience()
    tally, failures = _Tally(), 0
    with requests.Session() as session:
        while True:
            before = length(part)
            try:
                _attempt(session, url, part, size, progress, patience, tally)
                return tally.received
            except _CutError as cut:
                failures = failures + 1 if length(part) <= before else 1
                if failures >= patience.failures:
                    raise DuetError(
                        f"the download was cut after {length(part)} bytes: {cut}",
                        where=masked(url),
                        remedy="check the network; the same command goes on from there",
                    ) from None
                pause = patience.pause * 2 ** (failures - 1)
                again = f"attempt {failures + 1} of {patience.failures} in {pause:.0f} s"
                notify(f"{_host(url)}: {cut}; {length(part)} bytes are here; {again}")
            time.sleep(pause)


def _attempt(
    session: requests.Session, url: str, part: Path, size: int | None, progress: Progress,
    patience: Patience, tally: _Tally,
) -> None:  # fmt: skip
    """Fetch what is missing, in one request."""
    memory = Memory(part, url)
    have = memory.kept
    headers = {"Accept-Encoding": "identity", "User-Agent": "duet-detect"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": memory.validator}
    with _answer(session, url, headers, patience) as response:
        if response.status_code == 416:
            start, total = have, _numbers(response)[1]
        else:
            _require_success(response, url)
            ranged = response.status_code == 206
            start, total = _numbers(response) if ranged else (0, _content_length(response))
        if size is not None and total not in (None, size):
            raise ModelError(
                f"the server offers a file of {total} bytes, expected {size}",
                where=masked(url),
                remedy="the publisher replaced the file, or something on the way answers instead",
            )
        if response.status_code == 416 and have and total == have:
            return
        if response.status_code == 416 or start not in (0, have):
            forget(part)
            raise _CutError("the server did not resume at the place asked for")
        memory.begin(start, _validator(response))
        _require_space(part, (total or size or 0) - start)
        done = _fill(response, part, memory, total or size, progress, patience, tally)
    if done != (total or size or done):
        raise _CutError(f"{done} of {total or size} bytes came")


def _fill(
    response: requests.Response, part: Path, memory: Memory, end: int | None, progress: Progress,
    patience: Patience, tally: _Tally,
) -> int:  # fmt: skip
    """Write the body behind the bytes that are kept; return the length of the file."""
    most = end or _LARGEST
    with _disk(part), part.open("r+b") if memory.kept else vacated(part).open("xb") as stream:
        stream.seek(memory.kept)
        stream.truncate()
        try:
            for block in response.iter_content(_BLOCK):
                tally.received += len(block)
                if memory.kept + len(block) > most:
                    raise ModelError(
                        f"the server sends more than the {most} bytes expected",
                        where=masked(response.url),
                        remedy="it is another file; take it from its publisher yourself",
                    )
                stream.write(block)
                if memory.add(block):
                    _save(stream, memory)
                progress(memory.kept, end)
        except requests.RequestException as error:
            _save(stream, memory)
            raise _CutError(_why(error, patience)) from None
        _save(stream, memory)
    return memory.kept


@contextlib.contextmanager
def _answer(
    session: requests.Session, url: str, headers: dict[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """Yield the answer behind redirects, none of which may leave encryption.

    Not followed by requests: it reads the whole body of an answer that sends on, which may never
    end, and looks into ~/.netrc for each new host.
    """
    place = url
    for _ in range(_REDIRECTS + 1):
        try:
            response = session.get(
                place, headers=headers, stream=True, allow_redirects=False, auth=_no_password,
                timeout=(patience.connect, patience.read),
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise DuetError(
                f"the server's certificate is not accepted: {_short(error)}",
                where=masked(place),
                remedy="behind a company proxy, set REQUESTS_CA_BUNDLE to its certificate",
            ) from None
        except requests.RequestException as error:
            raise _CutError(_why(error, patience)) from None
        except ValueError:  # requests reads the redirect, even where it does not follow
            raise DuetError(
                "the server sends on to what is no address",
                where=masked(url),
                remedy="nothing was downloaded; get the file yourself and give its path",
            ) from None
        with response:
            if not response.is_redirect:
                yield response
                return
            following = _next_place(place, response.headers["Location"])
        if following is None:
            raise DuetError(
                "the server sends on to an address that is malformed or not https",
                where=masked(url),
                remedy="nothing was downloaded; get the file yourself and give its path",
            )
        place = following
    raise DuetError(
        f"more than {_REDIRECTS} redirects", where=masked(url), remedy="check the address"
    )


def _next_place(place: str, location: str) -> str | None:
    """Return where a redirect leads, or None: it is no address, or would leave encryption."""
    try:
        following = urljoin(place, location)
        left = urlsplit(place).scheme == "https" and urlsplit(following).scheme != "https"
        return following if is_private(following) and not left else None
    except ValueError:  # such as http://[::1
        return None


def _no_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for requests' own look into ~/.netrc: no password leaves this machine."""
    return request


def _require_success(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _CutError(f"the server answers {status} {clipped(str(response.reason), 100)}")
    if status not in (200, 206):
        gone = status in (404, 410)
        raise DuetError(
            f"the server answers {status} {clipped(str(response.reason), 100)}",
            where=masked(url),
            remedy="the publisher moved or removed the file: get it elsewhere and give its path"
            if gone
            else "get the file yourself and give its path",
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DuetError(
            "the server packs the file though asked not to "
            f"({clipped(response.headers['Content-Encoding'], 100)})",
            where=masked(url),
            remedy="get the file yourself and give its path",
        )


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _numbers(response: requests.Response) -> tuple[int, int | None]:
    """Return the first byte and the full length that ``Content-Range`` names; -1 if none."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)", text)
    if found is None:
        return -1, None
    return int(found[1] or 0), int(found[2]) if found[2] != "*" else None


def _validator(response: requests.Response) -> str:
    """Return what tells this file from a later one at the same address."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _require_space(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DuetError(
            f"not enough space: {missing} bytes to come, {free} free",
            where=str(part.parent),
            remedy="free some disk space or choose another folder with --to",
        )


@contextlib.contextmanager
def _disk(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DuetError(
            f"cannot write: {error.strerror or error}",
            where=str(part),
            remedy=f"{write_remedy(error, 'another folder with --to')}; the same command goes on "
            "from what is here",
        ) from None


def _save(stream: BinaryIO, memory: Memory) -> None:
    """Remember what came, after it is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())
    memory.save()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _why(error: BaseException, patience: Patience) -> str:
    """Return why an attempt ended, in words; the libraries nest the reason in their own."""
    inner = error.args[0] if error.args else None
    inner = getattr(inner, "reason", None) or inner
    if isinstance(inner, exceptions.NameResolutionError):
        return "its name cannot be found: there is no network, or the address is wrong"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {patience.connect:.0f} s"
    if isinstance(inner, exceptions.ReadTimeoutError) or isinstance(error, requests.ReadTimeout):
        return f"nothing came for {patience.read:.0f} s"
    if isinstance(inner, exceptions.ProtocolError):
        return "the connection was closed before the end"
    cause = getattr(inner, "__cause__", None)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return _short(error)


def _short(error: BaseException) -> str:
    """Return what went wrong in words that hold no address: theirs holds all keys in it."""
    table = (
        (requests.exceptions.ProxyError, "the proxy does not answer"),
        (requests.exceptions.InvalidProxyURL, "the address of the proxy is malformed"),
        (requests.exceptions.ConnectTimeout, "no answer in time"),
        (requests.exceptions.Timeout, "no answer in time"),
        (requests.exceptions.InvalidURL, "the address is malformed"),
        (requests.exceptions.ChunkedEncodingError, "the answer ended early"),
    )
    words = next((words for kind, words in table if isinstance(error, kind)), None)
    cause: BaseException | None = error
    for _ in range(10):  # the cause that the system names is the innermost
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        inner = [item for item in getattr(cause, "args", ()) if isinstance(item, BaseException)]
        reason = getattr(cause, "reason", None)
        cause = reason if isinstance(reason, BaseException) else next(iter(inner), None)
    return words or type(error).__name__
