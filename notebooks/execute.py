"""Execute the notebooks and store their outputs in them.

    python notebooks/execute.py                          # all notebooks; `make notebooks` does the same
    python notebooks/execute.py signs --data ~/images    # one notebook; its images are in ~/images/signs

A notebook reads images from "../data/NAME"; --data replaces "../data" while it runs, and the stored notebook keeps its
text. Each notebook starts with an empty embedding store, so that its times include all extraction. What differs between
runs without meaning is removed: execution counts, progress, warnings, and metadata of images.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
LIMIT = 300_000  # bytes of a notebook


def main(argv: list[str] | None = None) -> int:
    """Execute notebooks and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks (default: all)")
    parser.add_argument("--data", default=str(FOLDER.parent.parent / "shared" / "data"), metavar="FOLDER",
                        help="folder with a folder of images for each notebook (default: ../shared/data)")  # fmt: skip
    parser.add_argument("--timeout", type=int, default=3600, metavar="SECONDS", help="of one cell")
    args = parser.parse_args(argv)
    paths = [FOLDER / f"{name}.ipynb" for name in args.names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            parser.error(f"no notebook {path.stem!r}; expected one of {names()}")
    for path in paths:
        print(path.name, flush=True)
        notebook = execute(nbformat.read(path, as_version=4), Path(args.data).expanduser(), args.timeout)
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) > LIMIT:
            print(f"{path.name}: {len(text.encode()):,} bytes; expected at most {LIMIT:,}. Show fewer or smaller "
                  "figures.", file=sys.stderr)  # fmt: skip
            return 1
        path.write_text(text, encoding="utf-8")
    return 0


def names() -> str:
    """Return the names of all notebooks."""
    return ", ".join(sorted(path.stem for path in FOLDER.glob("*.ipynb")))


def execute(notebook: nbformat.NotebookNode, data: Path, timeout: int) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in a new kernel with an empty store."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace('"../data', f'"{data.resolve()}')
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "TLFEATURES_CACHE": f"{folder}/cache", "TF_CPP_MIN_LOG_LEVEL": "3"}
        env.pop("MPLBACKEND", None)  # figures are outputs of the notebook
        # sockets in the folder, because another process may take a free port before the kernel does
        manager = AsyncKernelManager(
            kernel_name="python3", transport="ipc", connection_file=f"{folder}/kernel.json"
        )
        client = NotebookClient(
            copied,
            km=manager,
            timeout=timeout,
            startup_timeout=300,
            iopub_timeout=60,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute(env=env, cleanup_kc=True)
    for cell, executed in zip(notebook.cells, copied.cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [clean(output) for output in executed.outputs if not is_log(output)]
    return notebook


def is_log(output: nbformat.NotebookNode) -> bool:
    """Whether an output has only progress and warnings."""
    lines = output.get("text", "").splitlines()
    return output.get("name") == "stderr" or (bool(lines) and all(re.match(r"WARNING:|$", x) for x in lines))


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove execution counts and metadata; store images with 256 colors."""
    if "execution_count" in output:
        output.execution_count = None
    if "metadata" in output:
        output.metadata = {}
    if png := output.get("data", {}).get("image/png"):
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    return output


if __name__ == "__main__":
    sys.exit(main())
