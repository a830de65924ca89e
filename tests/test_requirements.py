"""The environment of the oldest supported versions is what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import tlfeatures

ROOT = Path(tlfeatures.__file__).parents[1]
# large, or not part of the library
NOT_RUN_THERE = {"gpu", "torch", "hub", "openvino", "ray", "onnx", "all", "test-full", "docs", "dev"}


def lowest(requirement):
    """Return ("numpy", "2.0") for "numpy>=2.0,<3"."""
    name, version = re.match(r"([\w-]+)>=([\d.]+)", requirement).groups()
    return name, version


def pins(file):
    """Return the version of each package that a constraints file pins."""
    return dict(line.split("==") for line in file.read_text("utf-8").splitlines() if line[:1] not in "#")


def test_every_extra_is_installed_for_the_tests():
    """`make test` installs all but PyTorch, KerasHub, OpenVINO, Ray and ONNX, whose tests are slow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    everything = set(extras) - {"gpu", "all", "test", "test-full", "docs", "dev"}
    installed = {
        name: set(re.fullmatch(r"tlfeatures\[(.*)\]", extras[name][0])[1].split(","))
        for name in ("all", "test")
    }
    assert installed == {"all": everything, "test": everything - {"torch", "hub", "openvino", "ray", "onnx"}}
    assert extras["test-full"][0] == "tlfeatures[all,docs,test]"


def test_the_oldest_environment_has_the_lowest_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra, names in project["optional-dependencies"].items():
        requirements += [] if extra in NOT_RUN_THERE else names
    pinned = {name.lower().replace("_", "-"): v for name, v in pins(ROOT / "constraints-oldest.txt").items()}
    floors = dict(lowest(r) for r in requirements if not r.startswith("tlfeatures["))
    for name, version in floors.items():
        length = version.count(".") + 1
        assert pinned[name].split(".")[:length] == version.split("."), name
