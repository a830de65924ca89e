"""Fixtures for tests, doctests and notebooks. No test reads or writes the user's own caches."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import random
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

SHARED = Path(__file__).parent.parent / "shared"
# settings of the user or of a service: colors in the output, and folders with weights that the user has downloaded
SETTINGS = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "HF_HOME", "HF_HUB_CACHE", "KAGGLEHUB_CACHE", "TORCH_HOME",
            "XDG_CACHE_HOME", "TLFEATURES_DEBUG")  # fmt: skip


def _prepare_environment() -> None:
    """Set the environment for this process and all that tests start, before keras is imported."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:  # the controller has set all other variables, and deletes the folders at its end
        os.environ["TLFEATURES_CACHE"] += f"-{worker}"
        return
    for name in list(os.environ):
        if name in SETTINGS or name.lower().endswith("_proxy"):  # servers of tests are on this machine
            del os.environ[name]
    scratch = Path(tempfile.mkdtemp(prefix="tlfeatures-tests-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    home = scratch / "keras"
    home.mkdir()
    (scratch / "home").mkdir()
    for source in sorted((SHARED / "keras").rglob("*.*")):  # Keras ignores a home without write access
        target = home / source.relative_to(SHARED / "keras")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)  # without the read-only mode
    os.environ["HOME"] = str(scratch / "home")  # weights in the user's own ~/.keras must not be used either
    os.environ["KERAS_HOME"] = str(home)
    os.environ["TLFEATURES_CACHE"] = str(scratch / "cache")
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["TERMINAL_WIDTH"] = "100"  # of help texts, which are shortened in a narrow terminal
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


_prepare_environment()


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-randomly's random order only: its new seeds in each run would change the weights of networks."""
    config.option.randomly_reset_seed = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than the limit of all others, for busy machines."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


def _seed(name: str) -> None:
    seed = zlib.crc32(name.encode())
    random.seed(seed)  # Keras draws the seeds of its initializers here
    np.random.seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Give every fixture the same random numbers in each run and in each order of the tests."""
    _seed(fixturedef.argname)


_size_after_collection = 0  # of this process in bytes


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Free networks at the end of each test file, and also after other tests if they are large."""
    global _size_after_collection
    import psutil

    process, limit = psutil.Process(), 2 << 30
    if nextitem is not None and nextitem.path == item.path:
        limit = max(limit, _size_after_collection + (1 << 30))
    # collecting garbage takes seconds in a process that has imported TensorFlow
    if process.memory_info().rss > limit:
        _free_networks()
        _size_after_collection = process.memory_info().rss


def _free_networks() -> None:
    from tlfeatures.networks import _backbone, _loading

    _loading._models.clear()
    _backbone._compiled.clear()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # returns freed memory to the system


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Give every test the same random numbers in each run and in each order of the tests."""
    _seed(item.nodeid)


class Photos(NamedTuple):
    """Image files, the class of each, and the root of their class folders."""

    paths: list[str]
    labels: list[str]
    root: Path


@pytest.fixture(autouse=True)
def _folder_for_examples(request: pytest.FixtureRequest) -> None:
    """Run examples of docstrings in an empty folder, because some write files."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture
def network_calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Batches that pass through a network in this process; KeyboardInterrupt is raised after ``limit`` of them."""
    from tlfeatures.networks import Backbone

    class Calls(list):
        limit = None

    calls, compile_ = Calls(), Backbone.compile

    def counted(self, outputs, description):
        run = compile_(self, outputs, description)

        def call(batch):
            if calls.limit is not None and len(calls) >= calls.limit:
                raise KeyboardInterrupt
            calls.append(batch)
            return run(batch)

        return call

    monkeypatch.setattr(Backbone, "compile", counted)
    return calls


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, weights and golden embeddings; tests that need it are skipped if it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def keras_home() -> Path:
    """The Keras home of this session: a copy of ../shared/keras, or empty if that is absent."""
    return Path(os.environ["KERAS_HOME"])


@pytest.fixture
def store(tmp_path):
    """A fresh store."""
    from tlfeatures import EmbeddingStore

    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def two_blas_threads() -> None:
    """Skip the test on one core, and with a BLAS whose threads cannot be counted, such as Apple's Accelerate."""
    import joblib
    from threadpoolctl import threadpool_info

    if joblib.cpu_count() < 2 or all(pool["user_api"] != "blas" for pool in threadpool_info()):
        pytest.skip("needs two cores and a BLAS library that threadpoolctl knows")


@pytest.fixture
def not_utf_8(tmp_path) -> str:
    """A part of a file name that is not UTF-8; the test is skipped if file names must be UTF-8, as on macOS."""
    name = os.fsdecode(b"\xff")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system requires UTF-8 names")
    (tmp_path / name).unlink()
    return name


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Photos:
    """Twelve small JPEG and PNG files in three folders; the classes differ in color and texture."""
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for i in range(12):
        label = ("checks", "discs", "stripes")[i % 3]
        height, width = (int(s) for s in rng.integers(48, 97, size=2))
        y, x = np.mgrid[:height, :width] + int(rng.integers(8))
        mask = {
            "checks": (x // 8 + y // 8) % 2,
            "discs": (x % 24 - 12) ** 2 + (y % 24 - 12) ** 2 < 80,
            "stripes": y // 6 % 2,
        }[label]
        color = {"checks": (40, 160, 60), "discs": (50, 70, 190), "stripes": (200, 60, 40)}[label]
        pixels = mask[..., None] * np.array(color) + rng.integers(0, 40, size=(height, width, 3))
        path = root / label / f"{label} {i:02d}.{'png' if i % 4 == 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(path)
        paths.append(str(path))
        labels.append(label)
    return Photos(paths, labels, root)
