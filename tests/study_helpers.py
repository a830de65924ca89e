"""Run studies of pipelines/ and notebooks of notebooks/ in this process, on small data."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

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


def run_on_empty_store(name, tmp_path_factory, *args):
    """Run a study in a new folder, where it must succeed; return its results, the folder and the printed lines."""
    out = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        code, results = run_study(name, out, *args)
    assert code == 0
    return results, out, stdout.getvalue().splitlines()


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


def write_colored_images(folder, counts=(8, 8, 8), names=("{}.png",)):
    """Write class folders of images, one color for each of cats, dogs and horses; return the folder.

    `counts` are the numbers of images of the classes; `names` are used in turn, with the number of the image.
    """
    rng = np.random.default_rng(0)
    colors = {"cats": (200, 60, 40), "dogs": (50, 70, 190), "horses": (40, 160, 60)}
    for label, n in zip(colors, counts, strict=True):
        (folder / label).mkdir()
        for i in range(n):
            pixels = np.array(colors[label]) + rng.integers(-40, 40, (36, 44, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / label / names[i % len(names)].format(i))
    return folder


def check_figures(out, results, names):
    """Check that a study wrote these figures, and that they are not empty."""
    assert results["figures"] == names
    for name in names:
        with Image.open(Path(out) / name) as image:
            assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 10


def run_on_real_images(name, data, shared, keras_home, out):
    """Run a study on ../shared/data/DATA in a new process, on an empty store; return its rows."""
    source = shared / "data" / data
    if not source.is_dir() or not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip(f"needs ../shared/data/{data} and the weights in ../shared/keras")
    command = [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), "--skip-tutorial"]
    command += ["--data", str(source), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())["rows"]
