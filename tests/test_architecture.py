"""Imports point downward, only the Keras adapter imports the backends, and the public API is complete."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tlfeatures

PACKAGE = Path(tlfeatures.__file__).parent

# Module or subpackage -> modules that it may import, lowest layer first; imports of these are allowed too.
# All modules may also import errors, _warnings, _inputs, _params, _files, _objects, _json, _text, _dicom, _threads,
# _progress and __init__.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_warnings": set(),
    "_inputs": set(),
    "_params": set(),
    "_files": set(),
    "_objects": set(),
    "_json": set(),
    "_text": set(),
    "_dicom": set(),
    "_threads": set(),
    "_progress": set(),
    "_archive": set(),
    "_callbacks": set(),
    "fingerprints": set(),
    "_object_digests": {"fingerprints"},
    "_torch": set(),
    "_keras": {"_torch"},
    "_image_options": set(),
    "_network_options": {"_keras"},
    "images": {"_image_options", "_object_digests"},
    "sources": {"_object_digests"},
    "audio": set(),
    "store": {"fingerprints"},
    "networks": {"_network_options", "fingerprints"},
    "weights": {"networks"},
    "extract": {"images", "networks", "store", "fingerprints"},
    "_image_estimator": {"extract"},
    "features": {"_callbacks", "_image_estimator"},
    "train_on_views": {"features"},
    "pretrained": {"features"},
    "zero_shot": {"features"},
    "heads": set(),
    "evaluation": set(),
    "results": set(),
    "transferability": set(),
    "skip_unreadable": set(),
    "calibration": {"evaluation", "heads"},
    # the first stage of fine-tuning trains on stored embeddings, and it may start from a pipeline with CNNFeatures
    "finetune": {"_archive", "images", "networks", "extract", "features", "evaluation", "calibration"},
    "report": {"results"},
    "trust": {"features", "heads", "evaluation", "skip_unreadable", "calibration", "results", "report"},
    "selection": {
        "trust",
        "features",
        "heads",
        "evaluation",
        "calibration",
        "transferability",
        "results",
        "report",
    },
    "distributed": {"features", "sources"},
    "embedding_files": {"distributed"},
    "streaming": {"distributed", "evaluation"},
    "predictions": {"finetune", "trust"},
    "model_files": {"_archive", "fingerprints", "finetune", "networks"},
    "saved_models": {"predictions", "sources", "model_files"},
    "export": {"_keras", "saved_models", "skip_unreadable"},
}
ALLOWED["app"] = set(ALLOWED)
ALLOWED["cli"] = set(ALLOWED)
ALLOWED["studies"] = set(ALLOWED)
for allowed_units in ALLOWED.values():
    for lower in sorted(allowed_units):
        allowed_units |= ALLOWED[lower]  # already complete, because lower layers come first

MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """Return the top-level module or subpackage: "store" for ``store.py`` and for ``store/x.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parse(path: Path) -> ast.Module:
    return parse_text(path.read_text("utf-8"))


@functools.cache  # several tests read each module
def parse_text(text: str) -> ast.Module:
    return ast.parse(text)


def list_imports(path: Path) -> set[str]:
    """Return the absolute names of all imports of a module, at any depth and also for type checkers."""
    names: set[str] = set()
    package = ("tlfeatures", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = (*base, *(node.module.split(".") if node.module else ()))
            # `from tlfeatures import store` imports a module, `from tlfeatures import __version__` none
            names |= {".".join((*parts, alias.name)) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "import_module",
            "importlib.import_module",
        }:
            names |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return names


def units_imported(path: Path) -> set[str]:
    """Return the other modules and subpackages that a file imports; a public name stands for its module."""
    units = {
        tlfeatures._MODULES.get(n.split(".")[1], n.split(".")[1])
        for n in list_imports(path)
        if n.startswith("tlfeatures.")
    }
    return {unit for unit in units if not unit.startswith("__")} - {unit_of(path)}


def top_levels(path: Path) -> set[str]:
    return {name.split(".")[0] for name in list_imports(path)}


def test_allowed_imports_point_downward():
    order = list(ALLOWED)
    for unit, allowed in ALLOWED.items():
        assert allowed <= set(order[: order.index(unit)]), unit


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    unit = unit_of(path)
    if unit == "__init__":
        return  # the public API refers to every module; that imports are lazy is tested below
    assert unit in ALLOWED, f"{unit} has no layer: add it to the table above"
    assert units_imported(path) <= ALLOWED[unit] | {
        "errors",
        "_warnings",
        "_inputs",
        "_params",
        "_files",
        "_objects",
        "_json",
        "_text",
        "_dicom",
        "_threads",
        "_progress",
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_adapters_import_backends_and_no_module_imports_the_studies(path):
    packages = top_levels(path)
    allowed = {"_keras": {"keras", "keras_hub", "tensorflow", "jax", "torch"}, "_torch": {"torch"}}.get(
        unit_of(path), set()
    )
    assert packages & {"keras", "keras_hub", "tensorflow", "jax", "torch"} <= allowed
    assert not packages & {"pipelines", "notebooks", "benchmarks", "tests", "conftest"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import store", {"tlfeatures.store"}),
        ("from .store import EmbeddingStore", {"tlfeatures.store.EmbeddingStore"}),
        ("def f():\n    import tlfeatures.store as s", {"tlfeatures.store"}),
        ("if TYPE_CHECKING:\n    from tlfeatures import EmbeddingStore", {"tlfeatures.EmbeddingStore"}),
        ("import_module('keras.ops')", {"keras.ops"}),
    ],
)
def test_every_form_of_import_is_parsed(monkeypatch, source, expected):
    path = PACKAGE / "probe.py"
    monkeypatch.setattr(Path, "read_text", lambda self, *args: source)
    assert list_imports(path) == expected
    assert units_imported(path) == ({"store"} if "tlfeatures" in min(expected) else set())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    print_lines = [
        node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert unit_of(path) == "cli" or not print_lines


def test_import_does_not_import_heavy_packages():
    heavy = {
        "keras",
        "keras_hub",
        "tensorflow",
        "jax",
        "torch",
        "h5py",
        "sklearn",
        "scipy",
        "pandas",
        "numpy",
        "obstore",
        "PIL",
        "ray",
    }
    code = "import sys, json, tlfeatures; dir(tlfeatures); print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(process.stdout)}
    assert "tlfeatures" in loaded
    assert not loaded & heavy


@pytest.mark.parametrize("name", [n for n in tlfeatures.__all__ if not n.startswith("__")])
def test_public_names_resolve_and_are_documented(name):
    value = getattr(tlfeatures, name)
    assert inspect.getdoc(value)
    assert name in dir(tlfeatures)
    assert value.__module__.startswith("tlfeatures.")


def test_public_names_and_their_modules_agree():
    assert set(tlfeatures.__all__) == {*tlfeatures._MODULES, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'CNNFeature'"):
        tlfeatures.CNNFeature  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_have_docstrings(path):
    assert ast.get_docstring(parse(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_have_at_most_350_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 350


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_have_at_most_60_lines(path):
    functions = [
        node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: count_lines(node) for node in functions if count_lines(node) > 60}
    assert not long


def test_the_api_page_has_one_row_for_each_module_and_its_names_exist():
    page = (PACKAGE.parent / "docs" / "api.md").read_text("utf-8")
    rows = re.findall(r"^\| `(tlfeatures\.\w+)` \| (.*)", page, re.MULTILINE)
    modules = [importlib.import_module(name) for name, _ in rows]
    assert len(modules) == len(set(modules)) > 0
    names = {name for _, text in rows for name in re.findall(r"`(\w+)`", text)}
    assert not [name for name in names if not any(hasattr(module, name) for module in modules)]
