"""The wheel, the source distribution, the metadata of the project and the workflows."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import tlfeatures

ROOT = Path(tlfeatures.__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = tlfeatures.__version__
NOT_COPIED = {".git", "cache", "build", "dist", "benchmarks/results", "docs/_build", "docs/gallery"}


def ignore(folder, names):
    """Names in a folder that are made by tools, not by people."""
    relative = {name: os.path.relpath(os.path.join(folder, name), ROOT) for name in names}
    made = re.compile(r"\.venv.*|.*\.egg-info|__pycache__|\..*_cache")
    return [name for name in names if relative[name] in NOT_COPIED or made.fullmatch(name)]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Paths of the source distribution, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "project", ignore=ignore)
    (folder / "project" / "cache").mkdir()
    shutil.copy(ROOT / "cache" / "README.md", folder / "project" / "cache")
    sdist = build("sdist", folder / "project", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    return sdist, build("wheel", source, folder)


def build(kind, source, out):
    code = f"from setuptools import build_meta as b; print(b.build_{kind}({str(out)!r}))"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=source, env=env, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return out / process.stdout.splitlines()[-1]


def list_package():
    """Names of the files of the package, as a wheel has them."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tlfeatures").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_contains_the_whole_package_and_nothing_else(distributions):
    _, wheel = distributions
    assert wheel.name == f"tlfeatures-{VERSION}-py3-none-any.whl"
    assert wheel.stat().st_size <= 3_000_000
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if name.startswith(f"tlfeatures-{VERSION}.dist-info/")}
    assert names - info == list_package()
    assert {"tlfeatures/py.typed", "tlfeatures/networks/tiny.npz", "tlfeatures/app/static/app.js"} <= names
    assert f"tlfeatures-{VERSION}.dist-info/licenses/LICENSE" in info


@pytest.mark.slow
def test_the_metadata_of_the_wheel(distributions):
    _, wheel = distributions
    text = zipfile.ZipFile(wheel).read(f"tlfeatures-{VERSION}.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    assert (metadata["Name"], metadata["Version"]) == ("tlfeatures", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "pip install tlfeatures" in metadata.get_payload()


@pytest.mark.slow
def test_the_source_distribution_can_be_tested_and_contains_nothing_private(distributions):
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
    assert list_package() <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("*.*")} <= names
    assert {
        "Makefile",
        "LICENSE",
        "conftest.py",
        "constraints.txt",
        "docs/conf.py",
        "cache/README.md",
    } <= names
    top = {name.split("/")[0] for name in names}
    assert top <= {
        ".github", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "DESCRIPTION.md",
        "LICENSE", "MANIFEST.in", "Makefile", "PKG-INFO", "README.md", "SECURITY.md", "benchmarks", "cache",
        "conftest.py", "constraints-oldest.txt", "constraints.txt", "docs", "notebooks", "pipelines", "pyproject.toml",
        "setup.cfg", "tests", "tlfeatures", "tlfeatures.egg-info",
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".pyc", ".joblib")) or "__pycache__" in name]


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(distributions, tmp_path):
    """The wheel is installed without its dependencies, which this environment has."""
    _, wheel = distributions
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
    env = os.environ | {"PYTHONPATH": str(target), "TLFEATURES_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", code, "demo"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_the_code_of_the_description_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "DESCRIPTION.md").read_text("utf-8"), re.DOTALL)
    exec(code, {})
    assert float(capsys.readouterr().out) > 0.9


def test_the_description_has_no_relative_links():
    """They do not work on PyPI."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / project["readme"]).read_text("utf-8")
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", text)
    assert not [link for pair in links for link in pair if link and not link.startswith("https://")]


def test_one_version_is_everywhere():
    assert re.search(rf"^version: {re.escape(VERSION)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    heading = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heading[1] in (VERSION, "Unreleased")


def load_yaml(path):
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra dev")
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # BaseLoader reads the key `on` as text


def find_targets():
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} >= {"ci", "release"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_that_exist_with_least_permissions(path):
    workflow = load_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
        for step in job["steps"]:
            assert re.fullmatch(
                r"[\w-]+/[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})", step.get("uses", "a/b@v1")
            )
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] == "false"
            for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                assert target in find_targets()
            assert "${{ github" not in step.get("run", "")  # texts of others must not become code
    files = [
        line
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for line in step.get("with", {}).get("cache-dependency-path", "").split()
    ]
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_workflow_tests_the_versions_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    matrix = load_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert {os.split("-")[0] for os in matrix["os"]} == {"ubuntu", "macos"}
