"""Index files of the store: which segment and row a key has, without reading the segments."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tlfeatures.errors import StoreWarning
from tlfeatures.fingerprints import bytes_key
from tlfeatures.store import EmbeddingStore
from tlfeatures.store import _index as index
from tlfeatures.store._table import load_table

RECIPE = {"network": "toy", "width": 3, "dtype": "float32"}
ROWS, SEGMENTS = 20, 12


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def data(store):
    """Publish 12 segments of 20 rows; return all keys and rows."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (ROWS * SEGMENTS, 16), "u1")
    features = rng.random((len(keys), 3), "f4")
    for i in range(0, len(keys), ROWS):
        store.publish(RECIPE, keys[i : i + ROWS], features[i : i + ROWS])
    store.contains(RECIPE, keys)  # writes the index
    return keys, features


def files(store, kind):
    return sorted(Path(store.root).glob(f"v1/*/*.{kind}"))


def start_new_process(monkeypatch):
    """Forget what this process has read; return the list of the segments that are read from now on."""
    index._reset_after_fork()
    read, load_segment = [], index.load_segment
    monkeypatch.setattr(index, "load_segment", lambda path: read.append(path) or load_segment(path))
    return read


def check(store, data):
    keys, features = data
    order = np.random.default_rng(1).permutation(len(keys))
    rows, is_stored = store.get(RECIPE, keys[order])
    assert is_stored.all()
    np.testing.assert_array_equal(rows, features[order])
    assert not store.contains(RECIPE, keys ^ 1).any()


def publish_index(store, change):
    """Replace the index file by one with changed columns under a valid digest."""
    (path,) = files(store, "index")
    table = load_table(str(path))
    columns = {name: np.array(getattr(table, name)) for name in ("first", "second", "numbers", "rows")}
    change(columns)
    table.first, table.second, table.numbers, table.rows = columns.values()
    content = table.encode(path.parent.name)
    path.unlink()
    path.with_name(f"{bytes_key(content).hex()}.index").write_bytes(content)


def test_keys_are_found_without_reading_segments(store, data, monkeypatch):
    keys, features = data
    read = start_new_process(monkeypatch)
    assert store.contains(RECIPE, keys).all() and read == []
    rows, _ = store.get(RECIPE, keys[:ROWS])
    np.testing.assert_array_equal(rows, features[:ROWS])
    assert len(read) == 1
    check(store, data)


def test_new_segments_are_found_beside_an_index(store, data, monkeypatch):
    keys, features = data
    start_new_process(monkeypatch)
    store.contains(RECIPE, keys)
    store.publish(RECIPE, keys[:5] ^ 1, features[:5])
    rows, is_stored = store.get(RECIPE, np.concatenate([keys, keys[:5] ^ 1]))
    assert is_stored.all()
    np.testing.assert_array_equal(rows, np.concatenate([features, features[:5]]))
    assert len(files(store, "index")) == 1


def test_an_old_store_without_an_index_gets_one(store, data, monkeypatch):
    for path in files(store, "index"):
        path.unlink()
    read = start_new_process(monkeypatch)
    assert store.contains(RECIPE, data[0]).all() and len(read) == SEGMENTS
    read = start_new_process(monkeypatch)
    assert store.contains(RECIPE, data[0]).all() and read == []


def test_a_few_segments_need_no_index(store):
    keys = np.arange(48, dtype="u1").reshape(3, 16)
    store.publish(RECIPE, keys, np.ones((3, 3), "f4"))
    assert store.contains(RECIPE, keys).all()
    assert files(store, "index") == []


def test_many_segments_have_few_index_files(store):
    rng = np.random.default_rng(0)
    keys, features = rng.integers(0, 256, (200, 16), "u1"), rng.random((200, 3), "f4")
    for i in range(200):
        store.publish(RECIPE, keys[i : i + 1], features[i : i + 1])
        store.contains(RECIPE, keys[:1])
    assert 1 <= len(files(store, "index")) <= 6
    index._reset_after_fork()
    check(store, (keys, features))


@pytest.mark.parametrize("offset", [0, 20, 40, 60, 300, 1000, -1])
def test_a_damaged_index_file_is_quarantined_with_one_warning(store, data, monkeypatch, offset):
    (path,) = files(store, "index")
    content = bytearray(path.read_bytes())
    content[offset] ^= 8
    path.write_bytes(content)
    start_new_process(monkeypatch)
    with pytest.warns(StoreWarning, match="index in the embedding store is damaged: (it|the digest)"):
        check(store, data)
    assert not path.exists() or load_table(str(path))
    assert len(files(store, "index")) == 1


@pytest.mark.parametrize("size", [0, 10, 48, 100, 5000])
def test_a_truncated_index_file_is_made_again(store, data, monkeypatch, size):
    (path,) = files(store, "index")
    content = path.read_bytes()
    path.write_bytes(content[:size])
    start_new_process(monkeypatch)
    with pytest.warns(StoreWarning, match="is damaged"):
        check(store, data)
    assert [p.read_bytes() for p in files(store, "index")] == [content]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_anything_but_a_regular_file_is_refused_as_an_index(store, data, monkeypatch, tmp_path, kind):
    (path,) = files(store, "index")
    path.rename(tmp_path / "moved")
    {
        "link": lambda: path.symlink_to(tmp_path / "moved"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    start_new_process(monkeypatch)
    with pytest.warns(StoreWarning):
        check(store, data)


def reverse_rows(columns):
    columns["rows"][:] = columns["rows"][::-1]


def shuffle_numbers(columns):
    np.random.default_rng(0).shuffle(columns["numbers"])


def exceed_rows(columns):
    columns["rows"][:] = 10**6


def negate_rows(columns):
    columns["rows"][:] = -1


@pytest.mark.parametrize("change", [reverse_rows, shuffle_numbers, exceed_rows, negate_rows])
def test_wrong_rows_in_an_index_of_unknown_origin_are_detected(store, data, monkeypatch, change):
    publish_index(store, change)
    start_new_process(monkeypatch)
    check(store, data)


def test_segments_that_an_index_does_not_list_are_refused(store, data, monkeypatch):
    publish_index(store, lambda columns: columns["numbers"].fill(SEGMENTS))
    start_new_process(monkeypatch)
    with pytest.warns(StoreWarning, match="names segments that it does not list"):
        check(store, data)


def test_keys_that_an_index_hides_are_only_missing(store, data, monkeypatch):
    keys, features = data
    publish_index(store, lambda columns: columns["second"].fill(0))
    start_new_process(monkeypatch)
    assert not store.get(RECIPE, keys)[1].any()
    store.publish(RECIPE, keys, features)
    check(store, data)


def test_rows_of_a_deleted_segment_are_missing(store, data, monkeypatch):
    keys, features = data
    gone = files(store, "h5")[3]
    gone.unlink()
    start_new_process(monkeypatch)
    rows, is_stored = store.get(RECIPE, keys)
    assert np.count_nonzero(~is_stored) == ROWS and np.isnan(rows[~is_stored]).all()
    np.testing.assert_array_equal(rows[is_stored], features[is_stored])


def test_duplicate_keys_are_found_when_one_segment_is_gone(store, data, monkeypatch):
    keys, features = data
    store.publish(RECIPE, keys[::-1].copy(), features[::-1].copy())  # one segment with all rows
    for i in range(8):  # so that the index is written again
        store.publish(RECIPE, keys[i : i + 1] ^ 1, features[:1])
    index._reset_after_fork()
    store.contains(RECIPE, keys)
    for path in files(store, "h5"):
        if path.stat().st_size < max(p.stat().st_size for p in files(store, "h5")):
            path.unlink()
    start_new_process(monkeypatch)
    check(store, data)


def test_a_read_only_store_is_read_without_an_index(store, data, monkeypatch):
    for path in files(store, "index"):
        path.unlink()

    def fail(*args):
        raise PermissionError(13, "Permission denied")

    start_new_process(monkeypatch)
    monkeypatch.setattr(index, "publish_file", fail)
    check(store, data)
    assert files(store, "index") == []


def test_compact_verify_info_and_clear_know_index_files(store, data):
    assert store.verify() == []
    assert store.info()["recipes"][0]["rows"] == len(data[0])
    (path,) = files(store, "index")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [Path(problem["path"]) for problem in store.verify()] == [path]
    path.write_bytes(content)
    store.compact()
    assert files(store, "index") == []  # one segment is left
    check(store, data)
    store.clear()
    assert not (Path(store.root) / "v1").exists()
