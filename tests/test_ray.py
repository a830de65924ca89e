"""`RayEngine` on a cluster of two nodes on this machine: results, errors, and kills of workers and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlfeatures
from tests.engine_contract import EngineContract, list_units
from tests.ray_helpers import (
    FATAL_IMAGE,
    NetworkDuringOutage,
    NetworkThatCannotLoad,
    PlainNetwork,
    embed_folder,
)
from tlfeatures.distributed import Job, LocalEngine, RayEngine, UnitResult, _ray_workers
from tlfeatures.errors import EngineError, RecipeMismatchError, TransientReadError
from tlfeatures.extract import FeatureSpec

ray = pytest.importorskip("ray")
_ray_pool = pytest.importorskip("tlfeatures.distributed._ray_pool")
pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
LIMIT = 120  # seconds


class TwoNodes:
    """A cluster of a head node, to which drivers connect, and a node that may be lost."""

    def __init__(self, own_results: list[UnitResult]) -> None:
        from ray.cluster_utils import Cluster

        self.own_results = own_results  # of a Ray that was started before, for one run
        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        self.node = self.cluster.add_node(**NODE)

    def list_workers(self) -> list[int]:
        """Return the processes of the workers, which Ray names after their class."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()}
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit()
            and _title(folder).startswith("ray::Worker")
            and _parent(folder) in raylets
        ]

    def kill(self, kind: str, number: int) -> bool:
        """Kill a worker, all processes of the node, or only its raylet; return whether one was killed."""
        if kind == "worker":
            workers = self.list_workers()
            if workers:
                os.kill(workers[number % len(workers)], signal.SIGKILL)
            return bool(workers)
        if kind == "raylet":
            os.kill(self.node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.cluster.add_node(**NODE)
        return True


def _title(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@pytest.fixture(scope="module")
def nodes(paths) -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(Path(__file__).parents[1]), str(Path(tlfeatures.__file__).parents[1])]
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        # A Ray that is started for a run makes a token, which all clusters that this process starts then use.
        job = make_job(paths[:8])
        try:
            own_results = list(RayEngine(workers=1).run(job, list_units(job)))
        except EngineError as error:
            pytest.skip(f"Ray cannot start on this machine: {error}")
        assert not ray.is_initialized()
        nodes = TwoNodes(own_results)
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


@pytest.fixture
def engine(nodes) -> RayEngine:
    nodes.cluster.wait_for_nodes(LIMIT)  # until Ray has noticed the end of nodes that an earlier test killed
    return RayEngine(nodes.cluster.address, workers=2, cpus=0.5)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """240 small files of random pixels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(240):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), "uint8")).save(folder / f"{i:03}.png")
    return sorted(map(str, folder.iterdir()))


def make_job(paths: list[str], network: PlainNetwork | None = None) -> Job:
    return Job.make(paths, FeatureSpec.make(network or PlainNetwork(), None, "avg"), 4)


def collect(results: Iterator[UnitResult]) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the embedding of each row, and the errors; each row only once."""
    features: dict[int, bytes] = {}
    errors: dict[int, str] = {}
    for result in results:
        rows = dict(zip(result.rows.tolist(), map(bytes, result.arrays[0]), strict=True))
        assert not rows.keys() & features.keys()
        assert rows.keys() | result.errors.keys() == set(result.unit.todo().tolist())
        assert len(result.stamps) == len(result.unit.todo())
        features |= rows
        errors |= result.errors
    return features, errors


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.2)


class TestContract(EngineContract):
    """The contract of all engines, with one worker, because each imports TensorFlow."""

    @pytest.fixture
    def engine(self, engine):
        return replace(engine, workers=1)


@pytest.mark.timeout(900)
def test_results_survive_kills_of_workers_nodes_and_raylets(nodes, engine, paths):
    job = make_job([*paths, "/absent.png"], PlainNetwork(seconds=0.05))
    units = list_units(job, 2)
    expected = collect(LocalEngine().run(make_job([*paths, "/absent.png"]), units))
    kills = np.random.default_rng(0).permutation(["worker"] * 13 + ["node"] * 2 + ["raylet"] * 2).tolist()
    results, n_next = [], 4  # at most four units are computed at a time, so that none is lost again and again
    for result in engine.run(job, units):
        results.append(result)
        if kills and len(results) >= n_next and nodes.kill(kills[-1], len(results)):
            kills.pop()
            n_next = len(results) + 4
    assert not kills
    assert collect(iter(results)) == expected
    assert expected[1] == {240: "no such file"}


@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_loses_at_most_the_open_batch(nodes, paths, tmp_path):
    folder, cache = str(Path(paths[0]).parent), str(tmp_path / "store")
    code = "import sys; from tests.ray_helpers import drive; drive(*sys.argv[1:])"
    command = [sys.executable, "-c", code, nodes.cluster.address, folder, cache]
    n_computed = []
    for _ in range(3):
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        n_computed.append(0)
        with driver:
            # more than the 64 images of a batch; the last driver may end if the others were killed late
            while n_computed[-1] < 80 and (line := driver.stdout.readline()):
                n_computed[-1] += int(line)
            driver.kill()
    assert n_computed[0] >= 80
    final = embed_folder(folder, cache)
    np.testing.assert_array_equal(final.features, embed_folder(folder, str(tmp_path / "other")).features)
    assert len(final.features) == len(paths) and not final.errors
    # 64 images of 128 KB fill a batch of 8 MB
    assert sum(n_computed) + final.computed - len(paths) <= 3 * (64 + 8)


def test_an_image_that_ends_the_process_costs_only_its_row(engine, paths, tmp_path):
    fatal = tmp_path / "fatal.qoi"
    fatal.write_bytes(FATAL_IMAGE)
    job = make_job([*paths[:9], str(fatal), "/absent.png", *paths[9:20]])
    features, errors = collect(engine.run(job, list_units(job, 2)))
    assert sorted(errors) == [9, 10]
    assert "the process crashed twice while decoding this image" in errors[9]
    expected = collect(LocalEngine().run(make_job(paths[:20]), list_units(make_job(paths[:20]))))[0]
    assert list(dict(sorted(features.items())).values()) == list(dict(sorted(expected.items())).values())


def test_a_search_for_such_images_is_repeated_if_its_node_ends(engine, paths, tmp_path, monkeypatch):
    fatal = tmp_path / "fatal.qoi"
    fatal.write_bytes(FATAL_IMAGE)

    def search(job, unit):
        if (tmp_path / "ended").exists():
            return _ray_workers.find_fatal_images(job, unit)
        (tmp_path / "ended").touch()
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(_ray_pool, "find_fatal_images", search)
    job = make_job([*paths[:9], str(fatal)])
    features, errors = collect(engine.run(job, list_units(job, 2)))
    assert (tmp_path / "ended").exists() and sorted(features) == list(range(9)) and list(errors) == [9]


def test_known_images_are_not_computed(engine, paths):
    job = make_job(paths[:20])
    keys = job.images.keys()[0]
    stored = {bytes(key) for key in keys[3:12]}
    results = list(
        engine.run(job, list_units(job), lambda keys: np.array([bytes(key) in stored for key in keys]))
    )
    assert sorted(row for result in results for row in result.known_rows) == list(range(3, 12))
    assert sum(len(result.rows) for result in results) == 11


def test_an_outage_ends_the_run_with_an_error_after_the_results_of_other_units(engine, paths, tmp_path):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (16, 16), (128, 128, 128)).save(grey)
    # enough units that not all are computed while a second worker starts
    job = make_job([*paths[:8], str(grey), *paths[8:]], NetworkDuringOutage(seconds=0.05))
    units, numbers = list_units(job), []
    with pytest.raises(TransientReadError, match="input/output error, in 4 attempts"):
        numbers.extend(result.unit.number for result in engine.run(job, units))
    assert 2 not in numbers
    assert len(numbers) < len(units) - 1


def test_a_worker_that_cannot_be_placed_ends_the_run_with_a_message(engine, paths):
    job = make_job(paths[:4])
    results = replace(engine, gpus=1, placement_timeout=2).run(job, list_units(job))
    expected = r"had no room for a worker with 0.5 CPUs and 1 GPU in \d+ s.*have 2 CPUs and 0 GPUs.*`gpus`"
    with pytest.raises(EngineError, match=expected):
        next(results)


def test_workers_that_end_while_they_start_end_the_run_with_a_message(engine, paths):
    job = make_job(paths[:4], NetworkThatCannotLoad())
    with pytest.raises(EngineError, match=r"ended 4 times before it was ready.*too little memory"):
        next(engine.run(job, list_units(job)))


def test_another_version_of_a_package_is_refused(engine, paths, monkeypatch, tmp_path):
    metadata = tmp_path / "pillow-1.2.3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    job = make_job(paths[:4])
    with pytest.raises(
        RecipeMismatchError, match=r"node '.+' has pillow .+ instead of 1\.2\.3.*same versions"
    ):
        next(engine.run(job, list_units(job)))


def test_other_weights_are_refused(engine, paths):
    job = make_job(paths[:4])
    job = replace(job, recipes=tuple({**recipe, "digest": "other weights"} for recipe in job.recipes))
    with pytest.raises(
        RecipeMismatchError, match=r"digest: 'other weights' became 'plain'.*same weights files"
    ):
        next(engine.run(job, list_units(job)))


def test_closing_the_results_ends_the_workers(nodes, engine, paths):
    job = make_job(paths, PlainNetwork(seconds=0.05))
    results = engine.run(job, list_units(job))
    next(results)
    assert nodes.list_workers()
    results.close()
    wait_until(lambda: not nodes.list_workers())


def test_a_joined_ray_is_left_running(nodes, engine, paths):
    job = make_job(paths[:8])
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    assert len(list(replace(engine, address=None).run(job, list_units(job)))) == 2
    assert ray.is_initialized()
    ray.shutdown()


def test_without_an_address_ray_is_started_for_the_run(nodes, paths):
    job = make_job(paths[:8])
    assert collect(iter(nodes.own_results)) == collect(LocalEngine().run(job, list_units(job)))


def test_an_address_without_a_cluster_is_an_error(engine, paths):
    job = make_job(paths[:4])
    with pytest.raises(EngineError, match=r"no Ray cluster at `address='127.0.0.1:1'`.*ray start --head"):
        next(replace(engine, address="127.0.0.1:1").run(job, list_units(job)))
