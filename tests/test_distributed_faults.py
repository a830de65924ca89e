"""Kills, and several processes at once: no row is lost or wrong, and each image is computed once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlfeatures import CNNFeatures, EmbeddingStore, embed_images
from tlfeatures.errors import UnreadableImagesWarning

SCRIPT = Path(__file__).with_name("embed_process.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forty images, of which two cannot be read."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    paths = [str(folder / f"{i:02}.png") for i in range(40)]
    for path in paths:
        Image.fromarray(rng.integers(1, 256, (24, 24, 3), "u1")).save(path)
    Path(paths[11]).write_bytes(b"not an image")
    os.remove(paths[29])
    return paths


@pytest.fixture(scope="module")
def network(tmp_path_factory, files):
    """A store with the description of the network, so that processes need not load Keras."""
    root = tmp_path_factory.mktemp("network") / "store"
    CNNFeatures("tiny", image_size=32, cache=root).fit(files)
    return root


@pytest.fixture
def start(tmp_path, files, network):
    """Return a function that starts a process; all processes are ended after the test."""
    processes = []
    shutil.copytree(network, tmp_path / "store")

    def start_process(**options):
        options = {"paths": files, "store": str(tmp_path / "store"), "log": str(tmp_path / "log")} | options
        process = start_embedding(options)
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def expected(tmp_path_factory, files, network):
    """The result of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("expected")
    out, log, store = str(folder / "expected.npz"), str(folder / "log"), str(folder / "store")
    shutil.copytree(network, store)
    assert finish(start_embedding({"paths": files, "store": store, "log": log, "out": out})) == 0
    assert count(Path(log)) == 38
    return np.load(out)


def start_embedding(options: dict) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), json.dumps({"unit_size": 8, **options})]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent.parent), *sys.path])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process) -> int:
    process.communicate(timeout=240)
    return process.returncode


def count(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def check(out: str, expected) -> None:
    result = np.load(out)
    for name in ("features", "keys", "errors"):
        np.testing.assert_array_equal(result[name], expected[name])
    assert result["errors"].tolist() == [11, 29]


def test_ten_kills_lose_no_row_and_repeat_at_most_two_batches_each(tmp_path, start, expected):
    rng, out, n_kills = random.Random(0), str(tmp_path / "out.npz"), 0
    for _ in range(10):
        process = start(out=out, pause=0.05)
        for _ in range(rng.randint(1, 3)):
            process.stdout.readline()  # empty at the end
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            n_kills += 1
        finish(process)
    assert finish(start(out=out)) == 0
    check(out, expected)
    assert 38 <= count(tmp_path / "log") <= 38 + n_kills * 2 * 4
    computed = count(tmp_path / "log")
    assert finish(start(out=out)) == 0
    assert count(tmp_path / "log") == computed
    check(out, expected)


def test_four_processes_share_the_units_of_one_source(tmp_path, start, expected):
    outs = [str(tmp_path / f"{i}.npz") for i in range(4)]
    assert [finish(p) for p in [start(out=out, pause=0.05) for out in outs]] == [0, 0, 0, 0]
    for out in outs:
        check(out, expected)
    assert count(tmp_path / "log") == 38


def test_a_killed_process_blocks_no_other(tmp_path, start, expected):
    first = start(out=str(tmp_path / "first.npz"), pause=600)
    first.stdout.readline()
    second = start(out=str(tmp_path / "second.npz"))
    while count(tmp_path / "log") < 4 + 30:  # all units but the one that the first process has claimed
        assert second.poll() is None
        second.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    assert finish(second) == 0
    check(str(tmp_path / "second.npz"), expected)
    assert count(tmp_path / "log") == 4 + 38


def test_four_shards_in_parallel_equal_one_run(tmp_path, start, expected):
    shards = [start(shard=f"{i}/4", pause=0.05) for i in (1, 2, 3, 4)]
    assert [finish(process) for process in shards] == [0, 0, 0, 0]
    assert count(tmp_path / "log") == 38
    assert finish(start(out=str(tmp_path / "last.npz"))) == 0
    check(str(tmp_path / "last.npz"), expected)
    assert count(tmp_path / "log") == 38


def test_processes_with_a_real_network_give_the_bits_of_one_process(tmp_path, files):
    cnn = {"image_size": 32, "batch_size": 4, "on_error": "nan"}
    with pytest.warns(UnreadableImagesWarning):
        expected = CNNFeatures("tiny", cache=None, **cnn).fit_transform(files)
    store = EmbeddingStore(tmp_path / "real")
    code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
    options = [
        str(tmp_path / "list.csv"),
        "--model",
        "tiny",
        "--image-size",
        "32",
        "--batch-size",
        "4",
        "--cache",
        str(store.root),
    ]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(files) + "\n")
    shards = [
        subprocess.Popen(
            [sys.executable, "-c", code, "embed", *options, "--unit-size", "8", "--shard", f"{i}/2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (1, 2)
    ]
    messages = [process.communicate(timeout=300)[1] for process in shards]
    assert [process.returncode for process in shards] == [0, 0], messages
    with pytest.warns(UnreadableImagesWarning):
        result = embed_images(files, CNNFeatures("tiny", cache=store, **cnn), unit_size=8)
    assert result.computed == 0
    np.testing.assert_array_equal(result.features, expected)
