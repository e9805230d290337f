"""The one error that a user's mistake may cause."""

from collections.abc import Iterable
from difflib import get_close_matches

from reid_da.text import printable


class InputError(ValueError):
    """A mistake in what the user gave: a path, a file, a key, an argument.

    The message is one line: it names the thing at fault, says what was expected and what to do. The command
    line prints it and exits with status 2; as a library error it is an ordinary ``ValueError``. Names of files may hold
    anything: what cannot be printed, and line breaks, are written as escapes.

    Args:
        message: one line that names the argument or file, says what was expected and what to do.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class ProcessLostError(InputError):
    """Another of several processes has ended, and this one cannot go on alone."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """Error for a name that is not among the valid ones, with the nearest of them as a suggestion."""
    names = sorted(valid)
    near = get_close_matches(name, names, n=1) or [known for known in names if name and known.startswith(name)]
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(names)}")


def first_few(items: Iterable[object], limit: int = 3) -> str:
    """The first few items as text, with the number of those left out: ``a, b, c and 4 more``."""
    texts = [str(item) for item in items]
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")
