"""Patterns for names that no layout fits, made from one of them."""

import re

_CAMERA = re.compile(r"(?<![a-z])(c(?:am(?:era)?)?[-_ ]?)(\d+)(?![a-z0-9])", re.IGNORECASE)
_SEPARATORS = "_-. "


def suggested_pattern(path: str) -> str | None:
    """A pattern that fits an image's path, and what it says of that image; None where nothing in the name can be told.

    The camera is the number behind a word such as ``cam``, else the second part of the file's name. The person is what
    stands before the first separator, or the folder where the name begins with the camera.

    Args:
        path: of the image, with forward slashes.
    """
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    first = re.match(rf"([^{re.escape(_SEPARATORS)}]+)([{re.escape(_SEPARATORS)}])", stem)
    camera = _CAMERA.search(stem)
    if camera is not None:
        word = re.sub(r"\d+", r"\\d+", _plain(camera[1]))
        if camera.start() == 0:
            if not folder:
                return _told(path, rf"{word}(?P<camera>\d+)")
            return _told(path, rf"(?P<pid>[^/]+)/{word}(?P<camera>\d+)")
        if first is None:
            return None
        between = stem[first.end() : camera.start()]
        middle = re.sub(r"\d+", r"\\d+", _plain(between))
        return _told(path, rf"(?P<pid>[^{first[2]}]+){_plain(first[2])}{middle}{word}(?P<camera>\d+)")
    if first is None:
        return None
    mark = first[2]
    rest = stem[first.end() :]
    if not rest or rest[0] in _SEPARATORS:
        return None
    return _told(path, rf"(?P<pid>[^{mark}]+){_plain(mark)}(?P<camera>[^{mark}.]+)")


def _plain(text: str) -> str:
    """The text as a regular expression, without escapes that only verbose patterns need."""
    return re.sub(r"\\([- ])", r"\1", re.escape(text))


def _told(path: str, pattern: str) -> str | None:
    """The option with its pattern, and what it tells of the image; None if it does not fit, or not between quotes."""
    found = re.match(pattern, path if "/" in pattern else path.rpartition("/")[2])
    if found is None or "'" in pattern:
        return None
    groups = {"pid": "person", "camera": "camera"}
    told = ", ".join(f"{word} {found[name]}" for name, word in groups.items() if name in found.groupdict())
    return f"--pattern '{pattern}' ({path.rpartition('/')[2] if '/' not in pattern else path}: {told})"
