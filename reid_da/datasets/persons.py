"""Identities as text, from names of files and folders or from tables, and their numbers."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID
from reid_da.errors import InputError

# -1 as Market-1501 has it, -001 padded, and 00-1 as MARS has it
_JUNK = re.compile(r"0*-0*1(?:\.0+)?")
_NUMBER = re.compile(r"(?P<word>\D*)0*(?P<number>\d{1,18})")


def number_persons(persons: Sequence[str | None]) -> NDArray[np.int64]:
    """(N,) int64 identity numbers of persons given as text.

    Numbers stay as they are, also behind a common word (``person0007`` is 7, ``12.0`` is 12); other names are numbered
    from 1 in sorted order. Of a plain number the value counts, so that ``07`` and ``7`` are one person. None or an
    empty text is :data:`UNLABELLED_PID`; ``-1``, also with zeros (MARS writes ``00-1``), is :data:`JUNK_PID`.

    Raises:
        InputError: a person is another negative number.
    """
    known = _known(persons)
    numbers = _plain_numbers(known) or {person: place for place, person in enumerate(known, start=1)}
    return np.array([_pid(person, numbers) for person in persons], dtype=np.int64)


def person_names(persons: Sequence[str | None]) -> dict[int, str]:
    """What the persons are called whom :func:`number_persons` numbered, by pid; empty where they have numbers."""
    known = _known(persons)
    return {} if _plain_numbers(known) is not None else dict(enumerate(known, start=1))


def is_junk(person: str) -> bool:
    """Whether a text stands for a junk image."""
    return _JUNK.fullmatch(person) is not None


def _pid(person: str | None, numbers: dict[str, int]) -> int:
    if not person:
        return UNLABELLED_PID
    return JUNK_PID if is_junk(person) else numbers[_normal(person)]


def _known(persons: Sequence[str | None]) -> list[str]:
    """The different persons in sorted order, without junk and unknown ones."""
    known = sorted({_normal(person) for person in persons if person and not is_junk(person)})
    for person in known:
        if re.fullmatch(r"-\d+", person):
            raise InputError(
                f"person {person}: numbers of persons start at 0, -1 marks junk, and nothing an unknown person"
            )
    return known


def _normal(person: str) -> str:
    """``12.0``, as tables with gaps have it, is ``12``, and so is ``0012``."""
    number = re.fullmatch(r"(-?)0*(\d{1,18})(?:\.0+)?", person)
    return number[1] + number[2] if number else person


def _plain_numbers(known: Sequence[str]) -> dict[str, int] | None:
    """The number in each name, None where one has none, two have the same, or the words before them differ."""
    matches = [_NUMBER.fullmatch(person) for person in known]
    if not all(matches) or len({match["word"] for match in matches if match}) > 1:
        return None
    numbers = {person: int(match["number"]) for person, match in zip(known, matches, strict=True) if match}
    return numbers if len(set(numbers.values())) == len(known) else None
