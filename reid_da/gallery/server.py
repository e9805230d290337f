"""A Qdrant server: its URL, a client for it, and its errors in words."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from reid_da.errors import InputError
from reid_da.gallery.database import SCHEMES

API_KEY = "QDRANT_API_KEY"
"""Environment variable that holds the server's key; a URL would end up in histories and lists of processes."""
_PORT = 6333
_SECONDS = 60
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def is_url(text: str) -> bool:
    """Whether something names a collection on a server."""
    return "://" in text and text.partition("://")[0] in SCHEMES


def connect(url: str) -> "tuple[Any, str]":
    """A client and the name of the collection, of ``qdrant://HOST[:PORT]/NAME`` or the same with http or https.

    Raises:
        InputError: the URL is none of these, or the extra ``qdrant`` is not installed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url}: is no URL ({error})") from error
    name = parts.path.strip("/")
    if not host or not _NAME.fullmatch(name) or parts.query or parts.fragment:
        raise InputError(f"{url}: expected qdrant://HOST:PORT/COLLECTION, or the same with http or https")
    if parts.username or parts.password:
        raise InputError(f"the URL of a collection must not hold a key; set {API_KEY} instead")
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise InputError(f"{url}: needs the extra qdrant: pip install 'reid-da[qdrant]'") from error
    is_secure = parts.scheme == "https"
    client = QdrantClient(
        host=host,
        port=port or (443 if is_secure else _PORT),
        https=is_secure,
        api_key=os.environ.get(API_KEY) or None,
        timeout=_SECONDS,
        check_compatibility=False,
    )
    return client, name


def exists(url: str, client: Any, name: str) -> bool:
    """Whether there is a collection.

    Raises:
        InputError: the server cannot be reached.
    """
    with naming_errors(url):
        return bool(client.collection_exists(name))


@contextmanager
def naming_errors(url: str) -> Iterator[None]:
    """Errors of the client as one line.

    Raises:
        InputError: the server cannot be reached, or refuses.
    """
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise InputError(f"{url}: the server cannot be reached or does not answer ({error.source})") from error
    except UnexpectedResponse as error:
        hint = f"; set {API_KEY}" if error.status_code in (401, 403) else ""
        reason = " ".join(error.content.decode(errors="replace").split())[:300]
        raise InputError(
            f"{url}: the server answers {error.status_code}: {reason or error.reason_phrase}{hint}"
        ) from error
    except ApiException as error:
        raise InputError(f"{url}: {error}") from error
