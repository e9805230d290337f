"""Running the command line inside the test's process."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from reid_da.cli import main


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys) -> Iterator[Callable[..., Outcome]]:
    """Function that runs ``reid-da`` with the given arguments and returns exit status and output."""
    level = logging.getLogger("reid_da").level

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    yield call
    # commands switch the log on, which is no concern of other tests
    logging.getLogger("reid_da").setLevel(level)
