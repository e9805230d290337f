"""Running the command line inside the test's process."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from reid_da.cli import main


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys) -> Callable[..., Outcome]:
    """Function that runs ``reid-da`` with the given arguments and returns exit status and output."""

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call
