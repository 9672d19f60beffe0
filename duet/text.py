"""Text from strangers, made harmless for each medium that shows it.

Class names, domains, titles, paths and addresses come out of other people's files. Inside duet they
stay what they are; whatever shows them goes through the one function of its medium: `printable`
(terminals), `markdown`, `markdown_code` and `markdown_target` (reports), `plot_text` (figures),
`shell_line` (lines to copy into a shell), `spreadsheet` (CSV), `masked` (addresses that may hold
secrets). `shown` and `clipped` keep values in messages short.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any

NAME_LENGTH = 200
"""Characters that the name of a class, a domain, an increment or a series may have."""

VALUE_LENGTH = 200
"""Characters that one value takes in a message."""

# Everything without a shape of its own: controls, format characters (bidi, zero width, tags),
# unpaired surrogates, line and paragraph separators; and letters that are drawn as nothing.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return ``text`` with everything that a terminal would obey or hide as an escape (``\x1b``).

    Args:
        text: Any text, unpaired surrogates included.
        lines: Keep line ends: for text that duet itself laid out, whose names are escaped already.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(char if char in kept or _visible(char) else _escape(char) for char in text)


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in _INVISIBLE and char not in _BLANK_LETTERS


def _escape(char: str) -> str:
    number = ord(char)
    common = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if char in common:
        return common[char]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def for_people(value: Any) -> Any:
    """Return JSON-ready data with every text of it `printable` on one line."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {for_people(key): for_people(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_people(item) for item in value]
    return value


def laid_out(text: str) -> str:
    """Return a message of several lines for a terminal.

    Lines that go on are indented wherever duet writes them; any other line end came with a name and
    is escaped, so that no name can write a line of its own.
    """
    return printable(re.sub(r"\n(?!  )", r"\\n", text), lines=True)


def shown(value: object, limit: int = VALUE_LENGTH) -> str:
    """Return the ``repr`` of any value in at most about ``limit`` characters.

    The value itself may be of any size and depth: only what is shown is looked at.
    """
    short = Repr()
    short.maxlevel, short.maxother, short.maxstring, short.maxlong = 3, limit, limit, 60
    for kind in ("maxdict", "maxlist", "maxtuple", "maxset", "maxfrozenset", "maxdeque"):
        setattr(short, kind, 8)
    try:
        return clipped(short.repr(value), limit)
    except ValueError:  # a number of more digits than Python writes
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a number"


def clipped(text: str, limit: int) -> str:
    """Return ``text``, or its beginning and how much is left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


def short_list(names: Iterable[str], limit: int = 20) -> str:
    """Return names joined by commas, the first ``limit`` of them, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(clipped(name, VALUE_LENGTH) for name in names[:limit]) + more


def duration(seconds: float) -> str:
    """Return a duration for people: ``40 seconds``, ``12 minutes``, ``3.5 hours``, ``6 days``."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def markdown(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is, on one line, also in a table cell.

    Only what would change the meaning is escaped, so that the file itself stays readable:
    ``alpha_base``, ``R[T, D]`` and ``29.2 %`` are left alone.
    """
    one_line = printable(" ".join(text.split()))
    escaped = re.sub(
        r"[\\`*|~]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|\](?=[(\[:])|&(?=#?\w+;)"
        r"|:(?=//)|(?<=\b[wW]{3})\."  # addresses, which GitHub makes links
        r"|^#(?=#{0,5}(\s|$))|^>|^[+-](?=\s|$)|^[-=]{2,}",
        lambda match: "\\" + match.group(0),
        one_line,
    )
    escaped = re.sub(r"^([0-9]{1,9})(?=[.)](\s|$))", r"\1\\", escaped)  # an item of a list
    # Not with a backslash: GitHub looks for mathematics before it reads those.
    return escaped.replace("$", "&#36;")


def markdown_code(lines: Iterable[str], language: str = "") -> str:
    """Return lines as a code block whose fence is longer than any run of backticks inside."""
    body = [printable(line) for line in lines]
    runs = [len(run) for line in body for run in re.findall(r"`+", line)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return "\n".join([f"{fence}{language}", *body, fence])


def markdown_target(path: str) -> str:
    """Return a relative path as the target of a link or picture."""
    from urllib.parse import quote

    return quote(path.encode("utf-8", "surrogateescape"), safe="/._-")


def plot_text(text: str, limit: int = 60) -> str:
    """Return a name for a figure: visible characters on one line, not longer than fits.

    Mathematics is switched off where the figures are drawn (`duet.report.plots.styled`).
    """
    seen = printable(text)
    return seen if len(seen) <= limit else f"{seen[: limit - 1]}…"


def spreadsheet(cell: object) -> object:
    """Return a cell of a CSV file that no spreadsheet takes for a formula and no terminal obeys.

    Text is made `printable`; if it begins with one of ``= + - @``, it gets a leading apostrophe, as
    OWASP advises. Numbers stay numbers. Names to compare with are in the JSON beside the file.
    """
    if not isinstance(cell, str):
        return cell
    seen = printable(cell)
    return f"'{seen}" if seen.lstrip()[:1] in tuple("=+-@＝＋－＠") else seen


def shell_line(*words: str | Path) -> str:
    """Return a command line to copy: every word quoted for the shells of this system.

    On Windows a word that cmd.exe and PowerShell would not both take as text is shown as ``...``.
    """
    plain = [f"./{word}" if isinstance(word, Path) and str(word)[:1] == "-" else str(word)
             for word in words]  # fmt: skip
    quoted = _quoted_on_windows if os.name == "nt" else _quoted
    return " ".join(map(quoted, plain))


def _quoted(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    inner = word.replace("\\", "\\\\").replace("'", "\\'")
    escaped = (char if _visible(char) else _escape_in_shell(char) for char in inner)
    return f"$'{''.join(escaped)}'"  # bash and zsh read the escapes back


def _escape_in_shell(char: str) -> str:
    r"""Return what a shell reads back: to it ``\x`` is a byte, as in a name that is not UTF-8."""
    number = ord(char)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return f"\\u{number:04x}" if 0x80 <= number < 0x100 else _escape(char)


def _quoted_on_windows(word: str) -> str:
    if re.fullmatch(r"[\w./\\:=+-]+", word):
        return word
    # In double quotes these still mean something: % and ! to cmd.exe, the others to PowerShell.
    if printable(word) != word or re.search('["%!`$\u201c-\u201e]', word):
        return "..."
    backslashes = len(word) - len(word.rstrip("\\"))  # before a quote, they would escape it
    return f'"{word}{backslashes * chr(92)}"'


# --- secrets in addresses -------------------------------------------------------------------------

_KNOWN_SCHEMES = frozenset(
    {"concat", "file", "ftp", "ftps", "gs", "hls", "http", "https", "mms", "mmsh", "mmst", "rtmp",
     "rtmpe", "rtmps", "rtmpt", "rtp", "rtsp", "rtspt", "rtspu", "rtsps", "s3", "sftp", "socks4",
     "socks5", "socks5h", "srt", "srtp", "tcp", "tls", "udp", "unix", "webrtc", "whep", "ws", "wss"}
)  # fmt: skip
_NO_HOST = frozenset({"concat", "file", "gs", "s3", "unix"})  # what follows may be a key itself
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=/|[^/\\]*@)")
_LOOKS_LIKE_LOGIN = re.compile(r"[^/\\\s:]*:[^@]*@|^//[^/]*@")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]" if os.name == "nt" else r"[A-Za-z]:\\")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))(:\d{1,5})?\Z")


def is_address(text: str) -> bool:
    """Tell whether a text looks like an address or holds a login, however it is misspelled."""
    bare = text.strip("\0\t\n\r\v\f \u00a0\ufeff'\"<>")
    if "://" not in bare and _DRIVE.match(bare):
        return False
    return bool("://" in bare or _SCHEME.match(bare) or _LOOKS_LIKE_LOGIN.search(bare))


def masked(address: str) -> str:
    """Return what is known to be harmless of an address: scheme, host, port; the rest is ``***``.

    Cameras and servers take keys as user name, password, path, query and fragment, so none of these
    is ever shown. Where an ``@`` leaves open what the host is, the host is not shown either.
    """
    bare = address.strip("\0\t\n\r\v\f \u00a0\ufeff'\"<>")
    scheme, separator, rest = bare.partition("://")
    if scheme.lower() in _NO_HOST and separator:
        return f"{scheme.lower()}://***"
    if not separator or scheme.lower() not in _KNOWN_SCHEMES:
        found = _SCHEME.match(bare)
        known = found is not None and found[1].lower() in _KNOWN_SCHEMES
        return f"{found[1].lower()}:***" if found is not None and known else "***"
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    login, _, host = authority.rpartition("@")
    if "@" in behind or _HOST.match(host) is None:
        return f"{scheme.lower()}://***"
    hidden = "/***" if behind not in ("", "/") else behind
    return f"{scheme.lower()}://{'***@' if login or '@' in authority else ''}{host}{hidden}"


_RISKY_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s'\"]*[@?#][^\s'\"]*")


def without_secrets(text: str) -> str:
    """Return a message in which every address with a login, a query or a fragment is `masked`.

    For texts of other programs and for tables that people write; what names a camera is masked
    where it is read.
    """
    return _RISKY_ADDRESS.sub(lambda found: masked(found[0]), text)


_ANY_ADDRESS = re.compile(
    rf"(?<![A-Za-z0-9+.-])(?:{'|'.join(sorted(_KNOWN_SCHEMES))}):(?:/|[^\s'\"/\\]*@)[^\s'\"]*", re.I
)


def without_addresses(text: str) -> str:
    """Return a message in which every address is `masked`: also a key in its path.

    For what names a file or repeats a value, where no address is of use.
    """
    return _ANY_ADDRESS.sub(lambda found: masked(found[0]), without_secrets(text))
