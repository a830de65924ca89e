"""Extraction by several threads and processes at once: nobody waits for other images, and each is computed once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.images import Images
from tlfeatures.networks import Backbone
from tlfeatures.store import _row_locks

NETWORK = {"model": "tiny", "image_size": 32}
pytestmark = pytest.mark.skipif(not _row_locks._HAS_BYTE_LOCKS, reason="no locks on bytes of files here")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (600, 8, 8), "u1")


@pytest.fixture
def cnn(images, tmp_path):
    return CNNFeatures(**NETWORK, cache=tmp_path / "store").fit(images)


@pytest.fixture
def batches(monkeypatch):
    """Record the images of each batch; the events of an image are set and waited for when it is in a batch."""
    batches, events, compile_ = [], {}, Backbone.compile

    def compile_recorded(self, outputs, description):
        run = compile_(self, outputs, description)

        def call(batch):
            batches.append(batch.copy())
            for image, (reached, may_continue) in events.items():
                if any(image == pixels.tobytes() for pixels in batch[:, ::4, ::4, 0]):
                    reached.set()
                    assert may_continue.wait(60)
            return run(batch)

        return call

    monkeypatch.setattr(Backbone, "compile", compile_recorded)
    return batches, events


def count_images(batches):
    """Count the images of batches, without the padding."""
    return sum(int(batch.any(axis=(1, 2, 3)).sum()) for batch in batches)


def poll(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not become true")


def test_only_images_that_others_compute_are_waited_for(cnn, images, batches):
    images, expected = images[:6], CNNFeatures(**NETWORK, cache=None).fit_transform(images[:6])
    batches[0].clear()
    store, (recipe,), (keys, _) = EmbeddingStore(cnn.cache), cnn.recipes_, Images.of(images).keys()
    with ThreadPoolExecutor(1) as pool, store.row_locks([recipe]) as locks:
        assert locks.acquire(keys[2:3]).all()
        result = pool.submit(cnn.transform, images)
        poll(lambda: store.contains(recipe, keys).sum() == 5)
        assert not result.done() and not store.contains(recipe, keys[2:3]).any()
        locks.release(keys[2:3])
        np.testing.assert_allclose(result.result(60), expected, rtol=1e-5)
    assert store.contains(recipe, keys).all()
    assert count_images(batches[0]) == 6


def test_rows_that_others_store_in_the_meantime_are_not_computed(cnn, images, batches):
    images = images[:6]
    store, (recipe,), (keys, _) = EmbeddingStore(cnn.cache), cnn.recipes_, Images.of(images).keys()
    row = np.arange(recipe["width"], dtype="f4")[None]
    with ThreadPoolExecutor(1) as pool, store.row_locks([recipe]) as locks:
        locks.acquire(keys[2:3])
        result = pool.submit(cnn.transform, images)
        poll(lambda: store.contains(recipe, keys).sum() == 5)
        store.publish(recipe, keys[2:3], row)
        locks.release(keys[2:3])
        np.testing.assert_array_equal(result.result(60)[2], row[0])
    assert count_images(batches[0]) == 5


def test_rows_that_were_read_are_kept_if_they_are_deleted_in_the_meantime(cnn, images, monkeypatch):
    images, layers = (
        images[:6],
        CNNFeatures(**NETWORK, cache=cnn.cache, layer=["block3_pw_relu", "block5_pw_relu"]),
    )
    expected = clone(layers).set_params(cache=None).fit_transform(images)
    first = clone(layers).set_params(layer="block3_pw_relu").fit(images)
    first.transform(images)
    acquire = _row_locks.RowLocks.acquire

    def acquire_and_delete(self, keys):
        for path in Path(cnn.cache).rglob("*.h5"):
            path.unlink()
        return acquire(self, keys)

    monkeypatch.setattr(_row_locks.RowLocks, "acquire", acquire_and_delete)
    np.testing.assert_allclose(layers.fit_transform(images), expected, rtol=1e-5, atol=1e-6)


def test_an_extraction_does_not_wait_for_one_of_other_images(cnn, images, batches):
    calls, events = batches
    reached, may_continue = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = CNNFeatures(**NETWORK, interpolation="nearest", cache=cnn.cache).fit(images)
        cnn.set_params(interpolation="nearest").fit(images)
        events[images[0].tobytes()] = reached, may_continue
        try:
            result = pool.submit(first.transform, images[:300])
            assert reached.wait(60)
            assert cnn.transform(images[300:]).shape == (300, cnn.n_features_out_)
            assert not result.done()
        finally:
            may_continue.set()
        assert result.result(60).shape == (300, cnn.n_features_out_)
    assert count_images(calls) == 600


def test_threads_with_overlapping_images_compute_each_once(cnn, images, batches):
    parts = [images[:400], images[200:], images, images[::-1], images[100:500]]
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(cnn.transform, parts))
    assert count_images(batches[0]) == 600
    expected = cnn.transform(images)
    wanted = [expected[:400], expected[200:], expected, expected[::-1], expected[100:500]]
    for result, rows in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(result, rows)


def test_finished_rows_are_stored_and_released_before_the_end(cnn, images, batches, monkeypatch):
    monkeypatch.setattr("tlfeatures.extract._pass._MAX_LOCKED", 64)
    calls, events = batches
    cnn.set_params(interpolation="nearest").fit(images)
    store, (recipe,), (keys, _) = EmbeddingStore(cnn.cache), cnn.recipes_, Images.of(images).keys()
    reached, may_continue = threading.Event(), threading.Event()
    events[images[-1].tobytes()] = reached, may_continue
    with ThreadPoolExecutor(1) as pool, store.row_locks([recipe]) as locks:
        try:
            result = pool.submit(cnn.transform, images)
            assert reached.wait(60)
            is_stored = store.contains(recipe, keys)
            assert is_stored[:512].all() and not is_stored[-1]
            assert (locks.acquire(keys)[:512]).all() and not locks.acquire(keys[-1:]).any()
        finally:
            may_continue.set()
        result.result(60)
    assert count_images(calls) == 600


KILLED = """
import sys, time
import numpy as np
from tlfeatures import CNNFeatures
from tlfeatures.networks import Backbone

def compile_(self, outputs, description):
    def call(batch):
        print("computing", flush=True)
        time.sleep(600)
    return call

Backbone.compile = compile_
CNNFeatures("tiny", image_size=32, cache=sys.argv[1]).fit_transform(np.load(sys.argv[2]))
"""


@pytest.mark.slow
def test_the_images_of_a_killed_process_are_computed_by_others(cnn, images, batches, tmp_path):
    np.save(tmp_path / "images.npy", images)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, "-c", KILLED, str(cnn.cache), str(tmp_path / "images.npy")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline() == "computing\n"
        store, (recipe,), (keys, _) = EmbeddingStore(cnn.cache), cnn.recipes_, Images.of(images).keys()
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(cnn.transform, images)
            poll(lambda: store.contains(recipe, keys).any())
            assert not result.done()
            process.kill()
            assert np.isfinite(result.result(60)).all()
    finally:
        process.kill()
        process.communicate()
    assert count_images(batches[0]) == 600
