"""The pages: examples run, commands and their options exist, links and pictures lead somewhere.

The Python examples of README.md and docs/ are executed, as on a machine where ``make demo`` has run.

Blocks that begin with ```` ```python run ```` are executed in the order of their page, with common names. Of the others
it is only checked that they can be parsed, and that what they import from reid_da exists.
"""

import ast
import importlib
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

import reid_da
from reid_da.cli.app import app
from reid_da.evaluation.calibration import save_calibration
from reid_da.evaluation.centered import FILE_NAME, save_means
from reid_da.studies.inspection import calibrate_run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python(?P<run> run)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    code: str
    is_run: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def padded(self) -> str:
        """The code with the line numbers of the page."""
        return "\n" * self.line + self.code


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["code"], found["run"] is not None)
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNABLE = [page for page in PAGES if any(block.is_run for block in BLOCKS if block.page == page)]


def run_page(page: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.is_run:
            exec(compile(block.padded, page, "exec"), names)


@pytest.fixture(scope="module")
def demo(small_tree, tmp_path_factory):
    """A run with a calibration and camera means in the place of that of ``make demo``."""
    run = reid_da.fit(small_tree, tmp_path_factory.mktemp("demo") / "run", epochs=1, steps_per_epoch=1)
    calibration, notes = calibrate_run(run.path, fprs=[1e-2], device="cpu")
    save_calibration(run.path / "calibration.json", calibration, notes=notes)
    save_means(run.path / FILE_NAME, run.model(device="cpu").camera_means())
    return run.path


@pytest.fixture
def checkout(demo, small_tree, small_sites, tmp_path, monkeypatch):
    """A folder with the files that the examples name: few images, tiny settings."""
    for folder in ("data", "runs", "experiments/rendered"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "rendered").symlink_to(small_sites)
    (tmp_path / "runs" / "demo").symlink_to(demo)
    settings = {**small_tree, "steps_per_epoch": 1, "evaluate_every": 0}
    (tmp_path / "experiments" / "rendered" / "site-a2site-b.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_front_door_is_shown_by_examples_that_run():
    assert {ROOT / "README.md", ROOT / "docs" / "api.md"} <= set(RUNNABLE)
    first = next(block for block in BLOCKS if block.page == ROOT / "README.md")
    assert first.is_run
    assert "reid_da.load(" in first.code


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_examples_run(page, checkout):
    run_page(page)


def test_an_example_that_does_not_run_fails_at_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```python run\nx = 1\n```\n\n```python\n1 / 0\n```\n\n```python run\nassert x == 1\nx.y\n```\n"
    )
    with pytest.raises(AttributeError) as caught:
        run_page(page)
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 13)


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.is_run], ids=str)
def test_other_examples_import_what_exists(block):
    for node in ast.walk(ast.parse(block.padded)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reid_da":
            module = importlib.import_module(node.module)
            missing = [entry.name for entry in node.names if not hasattr(module, entry.name)]
            assert not missing, f"{block}: {node.module} has no {missing}"


COMMANDS = [
    (page, line.partition("#")[0] if "#layout" not in line and "#boxes" not in line and "#format" not in line else line)
    for page in (*PAGES, ROOT / "data" / "README.md", ROOT / "experiments" / "RESULTS.md", ROOT / "CONTRIBUTING.md")
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("reid-da ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: getattr(value, "name", value))
def test_commands_on_the_pages_exist_with_their_options(page, line):
    words = shlex.split(line.partition("&&")[0], comments=True)[1:]
    command = typer.main.get_command(app)
    while getattr(command, "commands", {}):
        assert words, line
        name = words.pop(0)
        if name.startswith("--"):
            break
        assert name in command.commands, f"{page.name}: {line}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}, f"{page.name}: {line}"


def test_links_between_pages_and_pictures_lead_somewhere():
    for page in (*PAGES, ROOT / "data" / "README.md", ROOT / "experiments" / "RESULTS.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_notebook_runs_and_becomes_a_page(checkout, monkeypatch):
    """With one step an epoch; `tools/notebook.py` runs it in full and stores what it shows."""
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setenv("REID_DA_QUICK", "1")
    stored = tool.read()
    page = "\n\n".join(tool.to_markdown(stored))
    assert all(cell["outputs"] for cell in stored["cells"][2:] if cell["cell_type"] == "code"), "run tools/notebook.py"
    tool.run(stored, origin="demo.ipynb")
    outputs = [output for cell in stored["cells"] for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3 == page.count("<img")
    assert "".join("".join(output.get("text", "")) for output in outputs).count("mAP") >= 2
