"""Kill commands, fail their system calls, fill their disk, damage their files, give them bad inputs; count what breaks.

Every command may end with an error of one line. It may not lose what was trained, give other results without a word,
print a traceback, take 60 seconds or 4 GB on a tiny data set, nor send a name of a file to the terminal as a command.

    python tools/torture.py --kills 200 --calls 300 --fills 60 --damages 300 --inputs 500 --seed 1

Each case has random numbers of its own: ``--only calls:17`` with the same seed repeats one. Needs Linux; takes
seconds a case. Exit status: 0 if nothing broke.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # this copy of the package, whatever is installed

from torture_calls import ERRORS, Calls
from torture_inputs import bad_input
from torture_process import Outcome, import_everything
from torture_scenarios import SCENARIOS, Place, Scenario

KINDS = ("different", "lost", "traceback", "crash", "no message", "escape", "over 60 s", "over 4 GB")
"""What may break."""


class Campaign:
    """All cases, and what broke in them.

    Attributes:
        place: where it happens.
        scenarios: the commands.
        found: how often each kind of fault occurred, by category.
        done: cases of each category.
    """

    def __init__(
        self, place: Place, seed: int, *, scenarios: Sequence[Scenario] = SCENARIOS, is_verbose: bool = False
    ) -> None:
        self.place, self.seed, self.scenarios, self.is_verbose = place, seed, scenarios, is_verbose
        self.found: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.results: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, Counter[str]] = {}

    def prepare(self) -> None:
        """Run each scenario undisturbed, to know its result, how long it takes and what calls it makes.

        Raises:
            RuntimeError: one fails.
        """
        for scenario in self.scenarios:
            self.place.restore(scenario.state)
            calls, noted = Calls(self.place.work), self.place.output / "counts"
            outcome = self.place.run(
                scenario.command(self.place),
                calls=calls,
                on_end=lambda calls=calls, noted=noted: noted.write_text(json.dumps(calls.counts)),
            )
            result = scenario.result(self.place)
            if outcome.status or result is None:
                raise RuntimeError(f"{scenario.name}: {outcome.err}")
            self.results[scenario.name], self.seconds[scenario.name] = result, outcome.seconds
            self.counts[scenario.name] = Counter(json.loads(noted.read_text()))

    def case(self, category: str, number: int) -> None:
        """Run one case."""
        chance = random.Random(f"{self.seed} {category} {number}")
        self.done[category] += 1
        getattr(self, f"_{category}")(chance, f"{category}:{number}")

    def _kills(self, chance: random.Random, case: str) -> None:
        scenario = chance.choice([scenario for scenario in self.scenarios if scenario.is_killed])
        self.place.restore(scenario.state)
        if chance.random() < 0.5:
            kind = chance.choice(sorted(self.counts[scenario.name]))
            calls = Calls(self.place.work, kind=kind, number=chance.randint(1, self.counts[scenario.name][kind]))
            outcome, how = self.place.run(scenario.command(self.place), calls=calls), f"killed at a {kind}"
        else:
            number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
            after = chance.uniform(0, self.seconds[scenario.name])
            outcome = self.place.run(scenario.command(self.place), kill_after=after, kill_signal=number)
            how = f"{number.name} after {after:.2f} s"
            if number == signal.SIGTERM and outcome.status == -signal.SIGTERM:
                self._go_on(scenario, case, how)
                return
        self._note(case, outcome, how)
        self._go_on(scenario, case, how)

    def _calls(self, chance: random.Random, case: str) -> None:
        scenario = chance.choice(self.scenarios)
        counts = self.counts[scenario.name]
        kind = chance.choice(sorted(counts))
        number, error = chance.randint(1, counts[kind]), chance.choice(ERRORS[kind])
        self.place.restore(scenario.state)
        calls = Calls(self.place.work, kind=kind, number=number, error=error)
        outcome = self.place.run(scenario.command(self.place), calls=calls)
        self._after_fault(scenario, outcome, case, f"{kind} number {number} gave {os.strerror(error)}")

    def _fills(self, chance: random.Random, case: str) -> None:
        scenario = chance.choice(self.scenarios)
        self.place.restore(scenario.state)
        size = int(2 ** chance.uniform(13, 23))
        outcome = self.place.run(scenario.command(self.place), file_bytes=size)
        self._after_fault(scenario, outcome, case, f"files of at most {size:,} bytes")

    def _after_fault(self, scenario: Scenario, outcome: Outcome, case: str, how: str) -> None:
        """A command with a fault of the moment tells of it, or has its result all the same; then it goes on."""
        self._note(case, outcome, f"{scenario.name}: {how}")
        if outcome.status == 0 and scenario.result(self.place) != self.results[scenario.name]:
            self._report(case, "different", outcome, f"{scenario.name}: {how}: exit status 0")
        elif outcome.status:
            self._go_on(scenario, case, how)

    def _go_on(self, scenario: Scenario, case: str, how: str) -> None:
        outcome = self.place.run(scenario.again(self.place))
        self._note(case, outcome, f"{scenario.name}: going on: {how}")
        if outcome.status:
            self._report(case, "lost", outcome, f"{scenario.name}: {how}: cannot go on")
        elif scenario.result(self.place) != self.results[scenario.name]:
            self._report(case, "different", outcome, f"{scenario.name}: {how}: gone on")

    def _damages(self, chance: random.Random, case: str) -> None:
        resume, extract, calibrate = (
            next(s for s in SCENARIOS if s.name == n) for n in ("resume", "extract", "calibrate")
        )
        scenario = chance.choice([resume, extract, calibrate])
        self.place.restore(scenario.state)
        folders: dict[str, list[Path]] = {}
        for file in sorted(self.place.work.rglob("*")):
            if file.is_file():
                folders.setdefault(file.parent.name, []).append(file)
        victim = chance.choice(folders[chance.choice(sorted(folders))])
        how = f"{victim.relative_to(self.place.work)} {_damage(victim, chance)}"
        outcome = self.place.run(scenario.command(self.place))
        self._note(case, outcome, f"{scenario.name}: {how}")
        if outcome.status == 0 and scenario.result(self.place) != self.results[scenario.name]:
            self._report(case, "different", outcome, f"{scenario.name}: {how}: exit status 0")
        if outcome.status and "--skip-damaged" in outcome.err and scenario is resume:
            outcome = self.place.run([*scenario.command(self.place), "--skip-damaged"])
            self._note(case, outcome, f"{scenario.name}: {how}: --skip-damaged")
            if outcome.status == 0 and scenario.result(self.place) != self.results[scenario.name]:
                self._report(case, "different", outcome, f"{scenario.name}: {how}: --skip-damaged")

    def _inputs(self, chance: random.Random, case: str) -> None:
        self.place.restore("empty")
        self._note(case, self.place.run(bad_input(chance, self.place)), "")

    def _note(self, case: str, outcome: Outcome, how: str) -> None:
        for kind in outcome.faults:
            self._report(case, kind, outcome, how)
        if self.is_verbose:
            self._print(case, "ran", outcome, how)

    def _report(self, case: str, kind: str, outcome: Outcome, how: str) -> None:
        self.found[case.partition(":")[0], kind] += 1
        self._print(case, kind.upper(), outcome, how)
        if kind == "traceback":
            frames = [line.strip() for line in outcome.err.splitlines() if line.startswith("  File ")]
            print("".join(f"    {frame}\n" for frame in frames[-3:]), end="")
        sys.stdout.flush()

    def _print(self, case: str, kind: str, outcome: Outcome, how: str) -> None:
        command = ascii(shlex.join(["reid-da", *(argument[:200] for argument in outcome.arguments)]))
        last = [line for line in outcome.err.splitlines() if line.strip()][-1:]
        print(f"{case}: {kind}: {how}\n    {command}")
        print(f"    status {outcome.status}, {outcome.seconds:.1f} s: {ascii(*last) if last else ''}")

    def summary(self) -> str:
        """A line for each category."""
        lines = []
        for category, count in self.done.items():
            kinds = ", ".join(f"{self.found[category, kind]} {kind}" for kind in KINDS)
            lines.append(f"{category} {count}: {kinds}")
        return "\n".join(lines)


def _damage(file: Path, chance: random.Random) -> str:
    """Damage a file; how."""
    content, size = bytearray(file.read_bytes()), file.stat().st_size
    place = chance.randrange(size) if size else 0
    kind = chance.choice(
        ["changed byte", "changed byte", "changed byte", "cut off", "zeros", "gone", "empty", "longer", "folder"]
    )
    if kind == "changed byte" and size:
        content[place] ^= chance.randint(1, 255)
    elif kind == "cut off":
        del content[place:]
    elif kind == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    elif kind == "longer":
        content += chance.randbytes(chance.randint(1, 100))
    elif kind == "empty":
        content.clear()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "gone":
        file.write_bytes(content)
    return f"{kind} at {place}"


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    categories = {"kills": 20, "calls": 30, "fills": 10, "damages": 30, "inputs": 50}
    for name, default in categories.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"cases; {default}")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0")
    parser.add_argument("--only", metavar="CATEGORY:NUMBER", help="repeat one case, and keep its folder")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", choices=names, action="append", help="kill, fail and fill these only")
    parser.add_argument("--verbose", action="store_true", help="print every command and its last line")
    arguments = parser.parse_args()

    begin = time.monotonic()
    import_everything()
    root = Path(tempfile.mkdtemp(prefix="reid-da-torture-"))
    os.environ["REID_DA_CACHE"] = str(root / "work" / "cache")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in (arguments.scenario or names)]
    campaign = Campaign(Place(root), arguments.seed, scenarios=scenarios, is_verbose=arguments.verbose)
    try:
        campaign.place.build()
        campaign.prepare()
        if arguments.only:
            category, _, number = arguments.only.partition(":")
            cases = [(category, int(number))]
        else:
            cases = [(name, number) for name in categories for number in range(getattr(arguments, name))]
            # mixed, so that a bound on the time leaves some of each out
            cases.sort(key=lambda case: (case[1] + 0.5) / getattr(arguments, case[0]))
        for category, number in cases:
            if time.monotonic() - begin > arguments.seconds:
                break
            campaign.case(category, number)
    finally:
        if arguments.only:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
        # also of what was done before somebody interrupted it
        print(campaign.summary())
        print(f"seed {arguments.seed}, {time.monotonic() - begin:.0f} s, {sum(campaign.found.values())} faults")
    sys.exit(1 if campaign.found else 0)


if __name__ == "__main__":
    main()
