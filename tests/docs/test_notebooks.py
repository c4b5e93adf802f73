"""The notebooks run from top to bottom, and hold the outputs of a run without an error."""

import importlib.util
import json

import pytest

from tests.docs.pages import DOCS, NOTEBOOKS


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_the_outputs_of_one_run(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds and "error" not in kinds
    assert path.stat().st_size < 3e6


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["robot", "sine", "table"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    file = DOCS / "_ext" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("manual_notebooks", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    book = module.executed(path)
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
