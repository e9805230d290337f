"""Queries that somebody wants to see, by their names."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets import SampleTable
from reid_da.errors import InputError, first_few


def named_queries(query: SampleTable, names: Sequence[str], *, person_names: Mapping[int, str]) -> NDArray[np.int64]:
    """(N,) int64 rows of the queries that were asked for, in their order.

    Args:
        query: the queries.
        names: of each its path within the data set, the end of it such as the file's name, or a person, whose first
            query it is then.
        person_names: what the identities are called, by pid; those without a name by their number.

    Raises:
        InputError: there is no such query, or several files end alike.
    """
    paths = query.paths
    persons = [person_names.get(pid, str(pid)) for pid in query.pids.tolist()]
    rows = []
    for name in names:
        found = [row for row, path in enumerate(paths) if path == name or path.endswith(f"/{name}")]
        found = found or [row for row, person in enumerate(persons) if person == name][:1]
        if not found:
            raise InputError(
                f"{query.name}: has no query or person {name!r}; queries are such as {first_few(paths, 2)}"
            )
        if len(found) > 1:
            raise InputError(f"{query.name}: {name!r} is {first_few(paths[row] for row in found)}; name one of them")
        rows += found
    return np.array(rows, dtype=np.int64)
