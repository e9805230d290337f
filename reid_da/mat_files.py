"""What is in a MATLAB file of level 5, before anything of it is believed.

The format is that of MathWorks' "MAT-File Format": a header of 128 bytes, then elements, each with type and size.
Compressed elements can hold a thousand times their own size, and what a tag in them says of it need not be true.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_COMPRESSED = 15
_BLOCK = 2**20


def compressed_elements(file: BinaryIO) -> Iterator[tuple[str | None, bytes]]:
    """Name and content of each compressed element of an open file; the name is None where it is unclear.

    There are none in files of level 4, which knows no compression.
    """
    file.seek(126)
    order = {b"IM": "<", b"MI": ">"}.get(file.read(2))
    if order is None:
        return
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        if kind == _COMPRESSED:
            payload = file.read(size)
            yield _element_name(payload, order), payload
        else:
            file.seek(size, 1)


def unpacked_sizes(payload: bytes) -> Iterator[int]:
    """Sizes in bytes that a compressed element has at least, as it is unpacked block by block and thrown away.

    Raises:
        zlib.error: it is damaged.
    """
    stream, size, rest = zlib.decompressobj(), 0, payload
    while rest and not stream.eof:
        size += len(stream.decompress(rest, _BLOCK))
        rest = stream.unconsumed_tail
        yield size


def _element_name(payload: bytes, order: str) -> str | None:
    """Name of the matrix in a compressed element, out of its first bytes."""
    try:
        start = zlib.decompressobj().decompress(payload[:65536], 4096)
        place = 8 + 16  # the tag of the matrix, and its flags
        _, size = struct.unpack_from(f"{order}II", start, place)  # of the dimensions
        place += 8 + -(-size // 8) * 8
        first, second = struct.unpack_from(f"{order}II", start, place)
        size, begin = (first >> 16, place + 4) if first >> 16 else (second, place + 8)
        name = start[begin : begin + size]
        return name.decode("latin-1") if 0 < size == len(name) else None
    except (struct.error, zlib.error):
        return None
