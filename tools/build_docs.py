"""Build the documentation site in ``build/docs`` from the Markdown files of the repository; any warning is an error.

    python tools/build_docs.py

The pages keep their places, so that links between them work in both worlds. References of settings, commands and Python
are generated from the code. Links to files that are no pages lead to the repository, or are left as plain text.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import notebook
import typer

from reid_da.cli.app import app
from reid_da.config.describe import describe_settings
from reid_da.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "docs-pages"
SOURCES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "data/README.md", "data/rendered/README.md")
MODULES = (
    *("api", "tracker", "errors", "datasets", "models.backbones", "models.extractor", "models.weights"),
    *(
        "evaluation.retrieval",
        "evaluation.search",
        "evaluation.calibration",
        "clustering",
        "losses",
        "methods.protocol",
    ),
)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def main() -> None:
    """Gather, generate, build."""
    shutil.rmtree(PAGES, ignore_errors=True)
    files = sorted({file for pattern in (*SOURCES, "experiments/RESULTS.md") for file in ROOT.glob(pattern)})
    for file in files:
        target = PAGES / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_with_page_links(file, files), encoding="utf-8")
    for picture in (*ROOT.glob("docs/*.png"), *ROOT.glob("docs/*.jpg")):
        shutil.copy(picture, PAGES / "docs")
    page = PAGES / "docs" / "demo.md"
    page.write_text("\n\n".join(notebook.to_markdown(notebook.read())) + "\n", encoding="utf-8")
    reference = PAGES / "docs" / "reference"
    reference.mkdir()
    (reference / "settings.md").write_text("\n".join(_settings()), encoding="utf-8")
    (reference / "commands.md").write_text("\n".join(_commands()), encoding="utf-8")
    modules = "\n\n".join(f"::: reid_da.{name}" for name in MODULES)
    (reference / "api.md").write_text(f"# API reference\n\n{modules}\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"], cwd=ROOT, check=True)
    print(f"site: {ROOT / 'build' / 'docs' / 'index.html'}")


def _with_page_links(file: Path, pages: list[Path]) -> str:
    """The text of a page; links to files that are no pages become plain text, links to nothing are an error."""

    def replace(link: re.Match[str]) -> str:
        target = (file.parent / link[2]).resolve()
        if not target.exists():
            sys.exit(f"{file.relative_to(ROOT)}: link to {link[2]}, which does not exist")
        return link[0] if target in pages else f"{link[1]} (`{target.relative_to(ROOT).as_posix()}`)"

    return _LINK.sub(replace, file.read_text(encoding="utf-8"))


def _settings() -> Iterator[str]:
    """A page with the settings of each method, as the command prints them."""
    yield "# Settings\n\nAs `reid-da settings --method NAME` prints them: defaults, meaning, range and choices.\n"
    for name, method in METHODS.items():
        yield f"## {name}\n\n```yaml\n{describe_settings(method.Settings())}```\n"


def _commands() -> Iterator[str]:
    """A page with the help of each command."""
    yield "# Commands\n"
    root = typer.main.get_command(app)
    yield from _command(root, "reid-da", depth=1)


def _command(command: object, name: str, *, depth: int) -> Iterator[str]:
    subcommands = getattr(command, "commands", {})
    if not subcommands:
        yield f"{'#' * min(depth, 3)} {name}\n\n{_escaped(command.help or '')}\n"  # type: ignore[attr-defined]
        yield "| option | meaning |\n|---|---|"
        for parameter in command.params:  # type: ignore[attr-defined]
            shown = ", ".join(f"`{option}`" for option in parameter.opts)
            text = getattr(parameter, "help", None) or ""
            yield f"| {parameter.metavar or shown if not shown.startswith('`-') else shown} | {_escaped(text)} |"
        yield ""
    for key, entry in subcommands.items():
        yield from _command(entry, f"{name} {key}", depth=depth + 1)


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>\[\]|])", r"\\\1", text)


if __name__ == "__main__":
    main()
