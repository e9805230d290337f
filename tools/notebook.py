"""The notebook in docs/: run its cells, store what they print and show, and turn it into a page of the site.

    python tools/notebook.py        # executes docs/demo.ipynb and stores the outputs; some minutes

No Jupyter is needed: cells are plain Python, whose last expression is shown if it is a picture or has a text.
"""

import ast
import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "demo.ipynb"


def read(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook as it is stored."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def run_cell(source: str, names: dict[str, Any], *, origin: str) -> list[dict[str, Any]]:
    """Run the code of a cell in ``names``; what it printed and showed, as outputs of a notebook."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, shown = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, origin, "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), origin, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if shown is not None:
        data: dict[str, Any] = {"text/plain": _lines(repr(shown))}
        if hasattr(shown, "_repr_png_"):
            data = {"image/png": base64.b64encode(shown._repr_png_()).decode(), "text/plain": ["picture"]}
        outputs.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None})
    return outputs


def run(notebook: dict[str, Any], *, origin: str) -> None:
    """Run all cells and store their outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] == "code":
            cell["outputs"] = run_cell("".join(cell["source"]), names, origin=f"{origin}, cell {number}")


def to_markdown(notebook: dict[str, Any]) -> Iterator[str]:
    """The notebook as Markdown, pictures inside."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            if picture:
                yield f'<img alt="output of the cell" src="data:image/png;base64,{picture}">'
            else:
                text = "".join(output.get("text") or output["data"]["text/plain"]).rstrip()
                yield f"```text\n{text}\n```"


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Execute and store."""
    notebook = read()
    os.chdir(NOTEBOOK.parent)
    run(notebook, origin=NOTEBOOK.name)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK}: executed")


if __name__ == "__main__":
    main()
