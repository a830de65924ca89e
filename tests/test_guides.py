"""The code of the pages in docs/ runs, and the commands on them exist."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

import tlfeatures
from tlfeatures import CNNFeatures
from tlfeatures.heads import make_head

DOCS = Path(tlfeatures.__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# a block of code, with the reason why it is not run in a comment above it
BLOCK = re.compile(r"(?:<!-- not run: ([^\n]+) -->\n)?```python\n(.*?)```", re.DOTALL)
# networks and layers of the pages -> those of the network in the package
NAMES = {
    "mobilenet_0.75": "tiny",
    "resnet50": "tiny",
    "conv_pw_7_relu": "block7_add",
    "conv_pw_11_relu": "block9_add",
    "conv_pw_13_relu": "block10_pw_relu",
    "conv_dw_6": "block10_dw",
    # less to compute
    "epochs=20": "epochs=1",
    "n_jobs=2": "n_jobs=1",
    'models=["tiny", "tiny"], heads=["logreg", "svm", "ridge"]': 'models="tiny", heads="ridge", cv=2',
    "}, paths, y)": "}, paths, y, cv=2)",
    "IncrementalPCA(64)": "IncrementalPCA(8)",
}


def read_blocks(page: Path) -> list[str]:
    """Return the blocks of code that are run."""
    return [code for reason, code in BLOCK.findall(page.read_text("utf-8")) if not reason]


def count_not_run(page: Path) -> int:
    return sum(bool(reason) for reason, _ in BLOCK.findall(page.read_text("utf-8")))


def run_blocks(page: Path, namespace: dict[str, Any]) -> int:
    """Run the blocks of a page one after the other; return their number. The error of a block is raised."""
    blocks = read_blocks(page)
    for code in blocks:
        for name, replacement in NAMES.items():
            code = code.replace(name, replacement)
        exec(compile(code, str(page), "exec"), namespace)  # a block may use the names of an earlier one
    return len(blocks)


def write_pets(folder: Path) -> list[str]:
    """Write 48 small images of two textures into class folders, and two without a class."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(50):
        pixels = rng.integers(0, 80, (48, 48, 3), dtype="uint8")
        pixels[:: 3 + i % 4, :: 1 if i % 2 else 5] += 150
        path = (
            Path(folder, "pets", ["cat", "dog"][i % 2], f"{i}.png") if i < 48 else Path(folder, f"new{i}.jpg")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        paths.append(str(path))
    Path(folder, "new48.jpg").rename(Path(folder, "new.jpg"))
    return paths[:48]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if read_blocks(page)], ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "cache"))
    paths = write_pets(tmp_path)
    labels = ["cat", "dog"] * 24
    namespace = {
        "paths": paths,
        "y": labels,
        "paths_train": paths,
        "y_train": labels,
        "groups": np.arange(48) // 2,
        "patients": np.arange(48) // 2,
        "split": ["train", "train", "test"] * 16,
        "new": ["new.jpg"],
        "partial_labels": labels[:24] + [None] * 24,
    }
    warnings.simplefilter("ignore")
    pipeline = make_pipeline(CNNFeatures("tiny"), make_head("logreg")).fit(paths, labels)
    tlfeatures.save(pipeline, "pets.tlf")
    marked = page.read_text("utf-8").count("```python\n")
    assert run_blocks(page, namespace) + count_not_run(page) == marked  # an error in a block is raised


def test_a_block_that_fails_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    text = "```python\nx = 1\n```\n\n<!-- not run: no data -->\n```python\n1 / 0\n```\n\n```python\n{}\n```\n"
    page.write_text(text.format("assert x == 1"))
    assert run_blocks(page, {}) == 2
    assert count_not_run(page) == 1
    page.write_text(text.format("assert x == 2"))
    with pytest.raises(AssertionError):
        run_blocks(page, {})
    page.write_text(text.format("absent"))
    with pytest.raises(NameError, match="absent"):
        run_blocks(page, {})


def read_commands(page: Path) -> list[str]:
    """Return the lines of a page that call the program, with continued lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(r"\s*tlfeatures [a-z]", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if read_commands(page)], ids=lambda page: page.stem)
def test_commands_exist_with_their_options(page):
    import typer

    from tlfeatures.cli._app import app

    program = typer.main.get_command(app)
    for line in read_commands(page):
        words = shlex.split(re.sub(r"\$\{?\(*\w.*?\)*\}?(?=[/ ]|$)", "1", line), comments=True)[1:]
        name = words[0].rstrip(";").split("|")[0]
        assert name in program.commands, line
        command = program.commands[name]
        if hasattr(command, "commands"):
            subcommand = words[1].split("|")[0]
            assert subcommand in command.commands, line
            command = command.commands[subcommand]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = [w for w in words if re.match(r"--?[a-z]", w) and w.split("=")[0] not in options]
        assert not unknown, line
