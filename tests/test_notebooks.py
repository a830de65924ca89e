"""The notebooks run from top to bottom and are committed with small outputs; see notebooks/execute.py."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
QUICKSTART = FOLDER / "quickstart.ipynb"
BLOCKED = "http://127.0.0.1:9"  # refuses connections: tests have no network access


def run(path, folder, **environment):
    """Execute a notebook in a new kernel; return {cell: text} and {cell: images}."""
    notebook = nbformat.read(path, as_version=4)
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}  # figures are outputs of the notebook
    env |= {name: BLOCKED for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    env |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_DATA_DIR": str(folder / "jupyter")}
    env |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1"} | environment
    # sockets in a folder, because another process may take a free port before the kernel does
    with tempfile.TemporaryDirectory() as sockets:
        manager = AsyncKernelManager(
            kernel_name="python3", transport="ipc", connection_file=f"{sockets}/kernel.json"
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=600,
            startup_timeout=300,
            iopub_timeout=60,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=env, cleanup_kc=True)  # raises the errors of cells
    texts, images = {}, {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
                images.setdefault(cell.id, []).append(np.asarray(image.convert("L")))
            else:
                text = data.get("text/plain", "") or (
                    output.get("text", "") if output.get("name") == "stdout" else ""
                )
                texts[cell.id] = texts.get(cell.id, "") + text
    return texts, images


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_valid_and_stored_with_clean_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not output.get("metadata") and not output.get("execution_count")
        texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
        assert not any("WARNING:" in text for text in texts)
        assert not any(re.search(r"(?<![\w.])(/home|/root|/tmp|/Users|/work)/|[A-Z]:\\\\", t) for t in texts)
    assert any("image/png" in output.get("data", {}) for output in outputs), "make notebooks stores outputs"
    assert any(output.output_type == "execute_result" for output in outputs)  # a table
    assert path.stat().st_size <= 300_000


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """notebooks/execute.py as a module, for notebooks in a folder that starts without any."""
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def write_notebook(path, *sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, path)


def test_execute_stores_clean_outputs(execute, tmp_path):
    (tmp_path / "images" / "example").mkdir(parents=True)
    path = tmp_path / "example.ipynb"
    write_notebook(
        path,
        'data = "../data/example"',
        "import os, sys\nprint('progress', file=sys.stderr)\nprint(os.environ['TLFEATURES_CACHE'][:1])",
        "print('WARNING:tensorflow: retracing')",
        "from pathlib import Path\nPath('pid').write_text(str(os.getpid()))\nPath(data).is_dir()",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    )
    assert execute.main(["example", "--data", str(tmp_path / "images")]) == 0
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source == 'data = "../data/example"'  # unchanged, although another folder was read
    assert [len(cell.outputs) for cell in cells] == [0, 1, 0, 1, 1]
    assert cells[1].outputs[0].text == "/\n" and cells[3].outputs[0].data["text/plain"] == "True"
    assert not any(cell.execution_count for cell in cells)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))  # the kernel has ended
    with Image.open(io.BytesIO(base64.b64decode(cells[4].outputs[0].data["image/png"]))) as image:
        assert image.mode == "P" and not image.info.keys() & {"Software"}


def test_execute_rejects_unknown_and_large_notebooks(execute, tmp_path, monkeypatch, capsys):
    path = tmp_path / "example.ipynb"
    write_notebook(path, "print('x' * 4000)")
    before = path.read_text()
    with pytest.raises(SystemExit, match="2"):
        execute.main(["absent"])
    assert "no notebook 'absent'; expected one of example" in capsys.readouterr().err
    monkeypatch.setattr(execute, "LIMIT", 2000)
    assert execute.main([]) == 1
    assert "expected at most 2,000. Show fewer or smaller figures." in capsys.readouterr().err
    assert path.read_text() == before


def check_quickstart(texts, images):
    """Check the outputs that do not depend on the weights."""
    assert "600 training images, 300 test images, 10 classes" in texts["images"]
    assert "before: 0 rows" in texts["one-pass"] and f"after: {4 * 2 * 900} rows" in texts["one-pass"]
    assert "rows added: 0" in texts["search"] and "rows added: 0" in texts["again"]
    assert "the same scores: True" in texts["again"]
    assert sorted(images) == ["layers", "mistakes", "show"]
    for (image,) in images.values():
        assert image.shape[1] > 500 and image.std() > 10
    accuracy = float(texts["test"].partition("embeddings: ")[2].partition("%")[0]) / 100
    wrong = int(texts["mistakes"].partition(" of 300 are misclassified")[0])
    assert accuracy == pytest.approx(1 - wrong / 300, abs=1e-3)
    return accuracy


@pytest.mark.slow
def test_quickstart_with_imagenet_weights(keras_home, tmp_path):
    if not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip("needs the weights in ../shared/keras")
    texts, images = run(QUICKSTART, tmp_path)
    assert texts["network"].strip() == "mobilenet_0.75"
    assert check_quickstart(texts, images) >= 0.95


@pytest.mark.slow
def test_quickstart_falls_back_to_tiny_offline(tmp_path):
    without_weights = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / "keras")}
    texts, images = run(QUICKSTART, tmp_path, **without_weights)
    assert "could not be downloaded" in texts["network"]
    assert texts["network"].endswith("\ntiny\n")
    assert check_quickstart(texts, images) >= 0.95
