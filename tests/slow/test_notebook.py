"""The notebook of the docs runs from its first cell to its last, and shows progress as it goes."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from fedapp.core.files import ROOT


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(tmp_path):
    notebook = nbformat.read(ROOT / "docs" / "first-run.ipynb", as_version=4)
    before = os.environ.get("PYTHONPATH", "")
    paths = [str(ROOT), *filter(None, [before])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    told = "".join(one.get("text", "") for one in outputs[0])
    assert "round 1/2: " in told
    assert "round 2/2: " in told
    assert any("<table" in one.get("data", {}).get("text/html", "") for one in outputs[0])
    assert "metod is not a setting" in outputs[-1][0]["text"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs-of-the-notebook"]
