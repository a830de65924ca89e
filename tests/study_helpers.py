"""Run studies of pipelines/ and notebooks of notebooks/ in this process, on small data."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
TINY = ["--model", "tiny", "--image-size", "32", "--quick"]


def import_study(name):
    """Import pipelines/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"pipelines_{name}", ROOT / "pipelines" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_study(name, out, *args):
    """Run a study with the network "tiny"; return its exit code and the content of results.json, None if absent."""
    code = import_study(name).main([*TINY, "--out", str(out), *map(str, args)])
    results = Path(out) / "results.json"
    return code, json.loads(results.read_text()) if results.exists() else None


def run_notebook(name, folder, monkeypatch, **parameters):
    """Execute the code of a notebook with other parameters and return its variables.

    `parameters` are assigned after the cell with the tag "parameters", as papermill does. Cells run in this process,
    without a kernel, so that a test takes a second or two; the slow tests use a kernel.
    """
    import IPython.display
    import matplotlib.pyplot as plt

    monkeypatch.chdir(folder)
    monkeypatch.setattr(IPython.display, "display", lambda *args, **kwargs: None)
    variables = {"__name__": "__main__"}
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}.ipynb[{cell.id}]", "exec"), variables)
                if "parameters" in cell.metadata.get("tags", []):
                    assert parameters.keys() <= variables.keys()
                    variables |= parameters
    finally:
        plt.close("all")
    return variables
