"""Options and messages of `RayEngine` that need no Ray, and the example for Kubernetes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.engine_contract import list_units, make_job
from tlfeatures.cli import main
from tlfeatures.distributed import RayEngine
from tlfeatures.errors import InvalidParameterError, MissingDependencyError


def run(engine: RayEngine, paths: list[str]) -> None:
    job = make_job(paths)
    next(engine.run(job, list_units(job)))


def test_without_ray_the_error_has_the_install_command(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tlfeatures\[ray\]'"):
        run(RayEngine(), photos.paths)


def test_without_units_ray_is_not_needed(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(RayEngine().run(make_job(photos.paths), [])) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"workers": 0}, "`workers` must be None or an integer of at least 1; got 0"),
        ({"gpus": -1}, "`gpus` must be a number of at least 0; got -1"),
        (
            {"address": "ray://host:10001"},
            r"`address` must be .*client .ray://. is not supported.*`ray job submit`",
        ),
    ],
)
def test_invalid_parameters_are_errors(photos, parameters, message):
    with pytest.raises(InvalidParameterError, match=message):
        run(RayEngine(**parameters), photos.paths)


def test_the_example_for_kubernetes_is_a_complete_job(capsys):
    yaml = pytest.importorskip("yaml")
    text = (Path(__file__).parents[1] / "docs" / "kuberay.yaml").read_text("utf-8")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert {"name", "image", "resources"} <= container.keys()
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("tlfeatures", "embed")
    main(["embed", "--help"])
    usage = capsys.readouterr().out
    assert all(option in usage for option in arguments if option.startswith("-"))


def test_options_of_ray_need_the_engine(tmp_path, capsys):
    command = ["embed", str(tmp_path), "-o", str(tmp_path / "out.npy"), "--cpus-per-worker", "2"]
    assert main(command) == 2
    assert "--cpus-per-worker is an option of --engine ray" in capsys.readouterr().err
