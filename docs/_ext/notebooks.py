"""Executes the notebooks and keeps their outputs: `python docs/_ext/notebooks.py [NAME ...]`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PROGRESS = " left"  # what a line of training's progress has


def executed(path: Path, timeout: int = 1800) -> nbformat.NotebookNode:
    """Returns an executed notebook; of the lines of progress of a cell, the last one is kept.

    Args:
        path: The notebook.
        timeout: Seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raises an error.
    """
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=timeout, kernel_name="python3").execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        outputs = cell.get("outputs", [])
        lines = [o for o in outputs if PROGRESS in o.get("data", {}).get("text/plain", "")]
        if lines:
            cell.outputs = [o for o in outputs if o not in lines[:-1]]
    return book


def main(names: list[str]) -> None:
    """Executes notebooks by name; without names, all of them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            nbformat.write(executed(path), path)
            print(f"{path.name}: executed")


if __name__ == "__main__":
    main(sys.argv[1:])
