"""How an index is served: to whom, and how much of what."""

import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path

from reid_da.errors import InputError

_LEAST_TOKEN = 16
_MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of the server.

    Attributes:
        host: address to listen at; one of this machine by default.
        port: its port.
        token: what clients have to send; needed for addresses of other machines.
        max_upload: largest upload in bytes.
        max_pixels: largest image in pixels, looked up in its header before it is decoded.
        requests_per_minute: of one client; more are answered with 429.
        audit: file that a line of JSON is appended to for each search and change, without pictures.
        blur_faces: blur the upper part of all crops that are shown.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_upload: int = 10 * _MEBIBYTE
    max_pixels: int = 2**24
    requests_per_minute: int = 600
    audit: Path | None = None
    blur_faces: bool = False

    def __post_init__(self) -> None:
        if not self.is_loopback and self.token is None:
            raise InputError(
                f"--host {self.host}: other machines reach the pictures there; give a token (--token FILE), or "
                f"--new-token FILE for a new one"
            )
        if self.token is not None and (len(self.token) < _LEAST_TOKEN or not self.token.isascii()):
            raise InputError(f"the token needs {_LEAST_TOKEN} ASCII characters at least")
        if not 0 <= self.port < 2**16:
            raise InputError(f"--port: expected 0 to 65535, got {self.port}")

    @property
    def is_loopback(self) -> bool:
        """Whether the address is of this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that requests may call the server by; any if None.

        A page of somebody else may lead the name of its own server to this machine (DNS rebinding), and a browser
        would then let it read what is served here.
        """
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host}) if self.is_loopback else None


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def read_token(file: Path) -> str:
    """The token in the first line of a file.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: the token cannot be read: {error}") from error
    if not lines:
        raise InputError(f"{file}: is empty, expected a token")
    return lines[0]
