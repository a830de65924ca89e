"""The embedding store: rows, recipes, writers, locks, sidecars and maintenance. Faults: test_store_faults."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import tlfeatures
from tlfeatures.errors import StoreWarning
from tlfeatures.fingerprints import bytes_key, canonical_json, recipe_digest
from tlfeatures.store import EmbeddingStore
from tlfeatures.store import _disk as files
from tlfeatures.store import _index as index
from tlfeatures.store import _lock as lock
from tlfeatures.store import _maintenance as maintenance
from tlfeatures.store import _row_locks as row_locks
from tlfeatures.store import _segment as segment
from tlfeatures.store import _writer as writer

RECIPE = {"network": "toy", "layer": "last", "width": 6, "dtype": "float32"}
ROOT = Path(tlfeatures.__file__).parents[1]


def rows(n: int, seed: int = 0, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16), "u1"), rng.standard_normal((n, width)).astype("f4")


def clear_caches() -> None:
    """Clear the caches, as in a new process."""
    index._reset_after_fork()


def segments(store: EmbeddingStore) -> list[Path]:
    return sorted(store.root.glob("v1/*/*.h5"))


def python(code: str, *args: object, **options) -> subprocess.Popen:
    """Start a process that imports numpy and EmbeddingStore and runs ``code``."""
    head = "import sys, os, time\nimport numpy as np\nfrom tlfeatures.store import EmbeddingStore\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", head + code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)


# ---------------------------------------------------------------- rows


def test_rows_come_back_bit_identical_in_the_order_of_the_keys(store):
    keys, features = rows(100)
    # any bits, including NaN and infinity
    features.view("u4")[:, 0] = np.random.default_rng(1).integers(0, 2**32, 100, "u4")
    store.publish(RECIPE, keys, features)
    order = np.random.default_rng(2).integers(0, 100, 250)
    for _ in range(2):
        got, is_stored = store.get(RECIPE, keys[order])
        assert is_stored.all()
        assert np.array_equal(got.view("u4"), features[order].view("u4"))
        clear_caches()


def test_missing_rows_are_nan_and_reported_as_missing(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys[::2], features[::2])
    got, is_stored = store.get(RECIPE, keys)
    assert is_stored.tolist() == [True, False] * 5
    assert np.array_equal(got[is_stored], features[::2])
    assert np.isnan(got[~is_stored]).all()
    assert np.array_equal(store.contains(RECIPE, keys), is_stored)


def test_out_may_be_a_slice_of_columns(store):
    keys, features = rows(20)
    store.publish(RECIPE, keys[:15], features[:15])
    table = np.full((20, 10), 7, "f4")
    got, is_stored = store.get(RECIPE, keys, out=table[:, 2:8])
    assert np.shares_memory(got, table)
    assert is_stored.sum() == 15
    assert np.array_equal(table[:15, 2:8], features[:15])
    assert np.isnan(table[15:, 2:8]).all()
    assert (table[:, [0, 1, 8, 9]] == 7).all()


def test_an_empty_array_of_keys_is_accepted(store):
    got, is_stored = store.get(RECIPE, np.empty((0, 16), "u1"))
    assert got.shape == (0, 6)
    assert is_stored.shape == (0,)
    store.publish(RECIPE, np.empty((0, 16), "u1"), np.empty((0, 6), "f4"))
    assert not store.root.exists()


def test_the_first_of_duplicate_keys_is_stored(store):
    keys, features = rows(5)
    store.publish(RECIPE, keys[[0, 1, 0, 2, 1]], features)
    assert store.info()["recipes"][0]["rows"] == 3
    assert np.array_equal(store.get(RECIPE, keys[:3])[0], features[[0, 1, 3]])


def test_keys_with_equal_first_halves_are_distinguished(store):
    keys = np.zeros((300, 16), "u1")
    keys[:, 14:] = np.arange(300, dtype=">u2").view("u1").reshape(-1, 2)
    features = rows(300)[1]
    store.publish(RECIPE, keys[::2], features[::2])
    got, is_stored = store.get(RECIPE, keys[::-1])
    assert np.array_equal(is_stored, np.arange(299, -1, -1) % 2 == 0)
    assert np.array_equal(got[is_stored], features[::2][::-1])


def test_rows_of_many_segments_beyond_the_memory_limit(store, monkeypatch):
    monkeypatch.setattr(index, "_segments", index.ByteLRU(20_000))
    keys, features = rows(2000)
    for i in range(0, 2000, 100):
        store.publish(RECIPE, keys[i : i + 100], features[i : i + 100])
    assert len(segments(store)) == 20
    order = np.random.default_rng(0).permutation(2000)
    got, is_stored = store.get(RECIPE, keys[order])
    assert is_stored.all()
    assert np.array_equal(got, features[order])
    assert 0 < index._segments.total <= 20_000


def test_a_large_publish_is_split(store, monkeypatch):
    monkeypatch.setattr(segment, "TARGET_BYTES", 4000)
    keys, features = rows(1000)
    store.publish(RECIPE, keys, features)
    assert len(segments(store)) == 10
    assert np.array_equal(store.get(RECIPE, keys)[0], features)


def test_features_need_not_be_contiguous_and_are_not_changed(store):
    keys, features = rows(10, width=12)
    before = features.copy()
    store.publish(RECIPE, keys, features[:, ::2])
    assert np.array_equal(store.get(RECIPE, keys)[0], features[:, ::2])
    assert np.array_equal(features, before)


@pytest.mark.parametrize(
    ("recipe", "keys", "features", "message"),
    [
        (
            RECIPE,
            rows(3)[0][:, :8],
            rows(3)[1],
            r"`keys` must be uint8 of shape \(n, 16\); got uint8 of shape \(3, 8\)",
        ),
        (RECIPE, rows(3)[0].astype(int), rows(3)[1], r"`keys` must be uint8 .* got int64"),
        (
            RECIPE,
            rows(3)[0],
            rows(4)[1],
            r"`features` must be float32 of shape \(3, 6\); got float32 of shape \(4, 6\)",
        ),
        (RECIPE, rows(3)[0], rows(3, width=5)[1], r"float32 of shape \(3, 6\); got"),
        (RECIPE, rows(3)[0], rows(3)[1].astype("f8"), r"`features` must be .* got float64"),
        ({"width": 6}, *rows(3), r"must have dtype='float32' .*; got dtype=None and width=6"),
        ({"dtype": "float32"}, *rows(3), r"an integer width from 1 to .*; got .*width=None"),
        ({**RECIPE, "width": 10**9}, *rows(3), r"from 1 to .* got .*width=1000000000"),
    ],
)
def test_arrays_that_do_not_fit_the_recipe_raise_an_error(store, recipe, keys, features, message):
    with pytest.raises(ValueError, match=message):
        store.publish(recipe, keys, features)
    with pytest.raises(ValueError, match=message), store.writer(recipe) as w:
        w.add(keys, [features])
    assert not store.root.exists()


def test_out_of_another_shape_or_dtype_raises_an_error(store):
    for out in (np.empty((3, 5), "f4"), np.empty((3, 6), "f8")):
        with pytest.raises(ValueError, match=r"`out` must be float32 of shape \(3, 6\); got"):
            store.get(RECIPE, rows(3)[0], out=out)


# ---------------------------------------------------------------- files


def test_nothing_is_created_before_the_first_publish(store):
    keys = rows(3)[0]
    assert not store.contains(RECIPE, keys).any()
    assert not store.get(RECIPE, keys)[1].any()
    assert store.get_sidecar({"a": 1}) is None
    assert store.info() == {"root": str(store.root), "bytes": 0, "recipes": []}
    assert store.verify() == []
    assert store.compact()["segments_after"] == store.prune(0)["bytes"] == store.clear()["removed_files"] == 0
    with store.writer(RECIPE):
        pass
    assert not store.root.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_owner_can_access_folders_and_files(store):
    mask = os.umask(0)
    try:
        store.publish(RECIPE, *rows(3))
        store.put_sidecar({"a": 1}, {"b": 2})
        with store.row_locks([RECIPE]):
            pass
    finally:
        os.umask(mask)
    paths = [store.root, *store.root.rglob("*")]
    assert len(paths) == 8
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_layout_on_disk(store):
    keys, features = rows(9)
    store.publish(RECIPE, keys, features)
    (path,) = segments(store)
    assert path.parent == store.root / "v1" / recipe_digest(RECIPE)
    assert path.stem == bytes_key(path.read_bytes()).hex()
    assert json.loads((path.parent / "recipe.json").read_text()) == RECIPE
    with h5py.File(path, "r") as f:
        assert sorted(f) == ["features", "keys", "recipe"]
        assert np.array_equal(f["keys"][:], keys)
        assert np.array_equal(f["features"][:], features)
        assert f["features"].dtype == "<f4"
        assert f["recipe"][:].tobytes() == canonical_json(RECIPE)
        assert f["recipe"].shape == (1, len(canonical_json(RECIPE)))


def test_equal_content_is_one_file(store):
    keys, features = rows(50)
    store.publish(RECIPE, keys, features)
    (path,) = segments(store)
    time.sleep(1.1)  # HDF5's own times have a resolution of a second
    store.publish(RECIPE, keys, features)
    assert segments(store) == [path]


def test_the_index_is_updated_when_the_folder_changes(store, tmp_path):
    (k1, f1), (k2, f2) = rows(10, 1), rows(10, 2)
    store.publish(RECIPE, k1, f1)
    assert store.contains(RECIPE, np.concatenate([k1, k2])).sum() == 10
    other = EmbeddingStore(tmp_path / "other")
    other.publish(RECIPE, k2, f2)
    (new,), (old,) = segments(other), segments(store)
    new.rename(old.with_name(new.name))
    assert np.array_equal(store.get(RECIPE, k2)[0], f2)
    before = index._segments.total
    old.unlink()
    assert store.contains(RECIPE, np.concatenate([k1, k2])).tolist() == [False] * 10 + [True] * 10
    assert not store.get(RECIPE, k1)[1].any()
    assert index._segments.total < before


def test_segments_in_memory_are_not_read_again(store, monkeypatch):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    store.contains(RECIPE, keys)
    monkeypatch.setattr(index, "load_segment", None)
    assert np.array_equal(EmbeddingStore(store.root).get(RECIPE, keys)[0], features)


# ---------------------------------------------------------------- paths and pickling


def test_a_store_pickles_as_its_path(store):
    store.publish(RECIPE, *rows(1000))
    store.get(RECIPE, rows(1000)[0])
    text = pickle.dumps(store)
    assert len(text) < 200 + len(str(store.root))
    twin = pickle.loads(text)
    assert twin == store
    assert hash(twin) == hash(store)
    assert twin != EmbeddingStore(store.root / "x")
    assert twin.get(RECIPE, rows(1000)[0])[1].all()
    assert repr(twin) == f"EmbeddingStore({str(store.root)!r})"


def test_the_path_does_not_depend_on_later_changes_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = pickle.dumps(EmbeddingStore("here"))
    monkeypatch.chdir("/")
    assert pickle.loads(text).root == tmp_path / "here"


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "env"))
    store = EmbeddingStore(tmp_path)
    assert EmbeddingStore.resolve(None) is None
    assert EmbeddingStore.resolve(store) is store
    assert EmbeddingStore.resolve("auto").root == tmp_path / "env"
    assert EmbeddingStore.resolve(str(tmp_path)) == EmbeddingStore.resolve(tmp_path) == store
    for bad in (True, 3, "", {"root": "x"}):
        with pytest.raises(
            TypeError, match="`cache` must be 'auto', the path of a folder, an EmbeddingStore, or None"
        ):
            EmbeddingStore.resolve(bad)


@pytest.mark.parametrize(
    ("platform", "env", "place"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/tlfeatures"),
        ("linux", {"HOME": "/h"}, "/h/.cache/tlfeatures"),
        ("darwin", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/Library/Caches/tlfeatures"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/tlfeatures"),
        ("linux", {"TLFEATURES_CACHE": "~/mine", "HOME": "/h"}, "/h/mine"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX paths")
def test_default_root(monkeypatch, platform, env, place):
    for name in ("TLFEATURES_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(files.sys, "platform", platform)
    assert EmbeddingStore().root == Path(place)


# ---------------------------------------------------------------- recipes (guarantee 7)


@pytest.mark.parametrize(
    "change", [{"layer": "first"}, {"layer": None}, {"new": 0}, {"network": "Toy"}, {"width": 7}]
)
def test_a_changed_recipe_never_hits(store, change):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    assert not store.contains({**RECIPE, **change}, keys).any()
    assert not store.get({**RECIPE, **change}, keys)[1].any()
    rest = {name: value for name, value in RECIPE.items() if name not in change}
    if "width" in rest:
        assert not store.contains({**rest, "z": 1}, keys).any()


def test_the_order_of_a_recipe_does_not_matter(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    assert store.get(dict(reversed(RECIPE.items())), keys)[1].all()


def test_a_segment_in_the_folder_of_another_recipe_is_refused(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    store.publish({**RECIPE, "layer": "first"}, *rows(10, 1))
    source = store.root / "v1" / recipe_digest(RECIPE)
    (path,) = source.glob("*.h5")
    path.rename(store.root / "v1" / recipe_digest({**RECIPE, "layer": "first"}) / path.name)
    with pytest.warns(StoreWarning, match="its recipe is not that of its folder"):
        assert not store.contains({**RECIPE, "layer": "first"}, keys).any()


# ---------------------------------------------------------------- writer


def test_writer_fills_several_recipes_and_keeps_no_reference(store):
    narrow, wide = {**RECIPE, "width": 2}, {**RECIPE, "width": 6}
    keys, features = rows(100)
    with store.writer([narrow, wide]) as w:
        for i in range(0, 100, 10):
            k, a, b = keys[i : i + 10].copy(), features[i : i + 10, :2].copy(), features[i : i + 10].copy()
            w.add(k, [a, b])
            k[:] = a[:] = b[:] = 0
        assert segments(store) == []
    assert np.array_equal(store.get(narrow, keys)[0], features[:, :2])
    assert np.array_equal(store.get(wide, keys)[0], features)
    assert len(segments(store)) == 2


def test_writer_commits_by_size_of_one_recipe_and_of_all(store, monkeypatch):
    recipes = [{**RECIPE, "layer": i} for i in range(4)]
    keys, features = rows(10)
    monkeypatch.setattr(writer, "COMMIT_BYTES", 2 * features.nbytes)
    with store.writer(recipes[:1]) as w:
        w.add(keys, [features])
        assert len(segments(store)) == 0
        w.add(*(lambda k, f: (k, [f]))(*rows(10, 1)))
        assert len(segments(store)) == 1
    assert len(segments(store)) == 1
    monkeypatch.setattr(writer, "PENDING_BYTES", 4 * features.nbytes)
    with store.writer(recipes) as w:
        w.add(rows(10, 2)[0], [features] * 4)
        assert len(segments(store)) == 5


def test_writer_commits_by_time(store, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: now))  # not for other threads
    with store.writer(RECIPE) as w:
        for wait, count in ((0, 0), (59, 0), (60, 1), (100, 1), (121, 2)):
            now = 1000.0 + wait
            k, f = rows(3, int(wait))
            w.add(k, [f])
            assert len(segments(store)) == count


def test_the_defaults_are_8_mb_and_60_s():
    assert writer.COMMIT_BYTES == 8 << 20
    assert writer.COMMIT_SECONDS == 60
    assert index.CACHE_BYTES == 64 << 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_finished_rows_are_published_after_any_exception(store, error):
    keys, features = rows(10)

    def run():
        with store.writer(RECIPE) as w:
            w.add(keys[:7], [features[:7]])
            raise error

    with pytest.raises(error):
        run()
    clear_caches()
    assert store.contains(RECIPE, keys).sum() == 7


def test_a_kill_loses_at_most_the_pending_batch(store):
    """Guarantee 2 for batches of the writer; test_store_faults.py ends processes inside publish."""
    child = python(
        """
from tlfeatures.store import _writer as writer
writer.COMMIT_BYTES = 10 * 6 * 4
keys = np.arange(16 * 95, dtype='u4').view('u1')[:16 * 95].reshape(95, 16)
w = EmbeddingStore(sys.argv[1]).writer({'network': 'toy', 'layer': 'last', 'width': 6, 'dtype': 'float32'})
for i in range(95):
    w.add(keys[i:i + 1], [np.full((1, 6), i, 'f4')])
os.kill(os.getpid(), 9)
""",
        store.root,
    )
    assert child.wait(240) != 0
    keys = np.arange(16 * 95, dtype="u4").view("u1")[: 16 * 95].reshape(95, 16)
    got, is_stored = store.get(RECIPE, keys)
    assert is_stored.tolist() == [True] * 90 + [False] * 5
    assert np.array_equal(got[:90, 0], np.arange(90))


def test_writer_raises_errors_for_invalid_arguments(store):
    with pytest.raises(ValueError, match="`on_failure` must be 'warn' or 'raise'; got 'ignore'"):
        store.writer(RECIPE, on_failure="ignore")
    with pytest.raises(ValueError, match="one array per recipe, 1 in total; got 2"):
        store.writer(RECIPE).add(rows(3)[0], [rows(3)[1]] * 2)


# ---------------------------------------------------------------- locks


KINDS = [
    pytest.param(
        True,
        marks=pytest.mark.skipif(not row_locks._HAS_BYTE_LOCKS, reason="no locks on bytes here"),
        id="bytes",
    ),
    pytest.param(
        False, marks=pytest.mark.skipif(lock.fcntl is None, reason="no flock here"), id="whole file"
    ),
]


@pytest.mark.parametrize("has_byte_locks", KINDS)
def test_a_row_is_locked_once(store, monkeypatch, has_byte_locks):
    monkeypatch.setattr(row_locks, "_HAS_BYTE_LOCKS", has_byte_locks)
    keys, other = rows(8)[0], {**RECIPE, "layer": "other"}
    with store.row_locks([RECIPE, other]) as first, store.row_locks([other]) as second:
        assert first.acquire(keys[:4]).all()
        assert second.acquire(keys).tolist() == [False] * 4 + [has_byte_locks] * 4
        first.release(keys[:3])
        assert second.acquire(keys[:1]).all() == has_byte_locks
        first.release(keys[3:4])
        assert second.acquire(keys[:1]).all()
        assert not first.acquire(keys[:1]).any()
    with store.row_locks([other, RECIPE]) as third:
        assert third.acquire(keys).all()
    assert not lock._locked


@pytest.mark.parametrize("has_byte_locks", KINDS)
def test_threads_wait_for_a_locked_row(store, monkeypatch, has_byte_locks):
    monkeypatch.setattr(row_locks, "_HAS_BYTE_LOCKS", has_byte_locks)
    key, inside, counts = rows(1)[0], 0, []

    def run():
        nonlocal inside
        for _ in range(5):
            while True:
                with store.row_locks([RECIPE]) as locks:
                    if locks.acquire(key)[0]:
                        inside += 1
                        counts.append(inside)
                        time.sleep(0.002)
                        inside -= 1
                        break
                    locks.wait(key[0])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts == [1] * 20
    assert not lock._locked


LOCK = """
store = EmbeddingStore(sys.argv[1])
with store.row_locks([{'network': 'toy', 'layer': 'last', 'width': 6, 'dtype': 'float32'}]) as locks:
    assert locks.acquire(np.zeros((1, 16), 'u1')).all()
    if len(sys.argv) > 2 and os.fork() == 0:
        print('locked', os.getpid(), flush=True)
        time.sleep(240)
    elif len(sys.argv) == 2:
        print('locked', os.getpid(), flush=True)
    time.sleep(240)
"""


@pytest.mark.skipif(lock.fcntl is None, reason="no flock here")
@pytest.mark.parametrize("forked", [(), ("fork",)])
def test_a_dead_process_does_not_block_others(store, forked):
    holder = python(LOCK, store.root, *forked)
    pid = int(holder.stdout.readline().split()[1])
    entered = threading.Event()

    def wait():
        with store.row_locks([RECIPE]) as locks:
            locks.wait(np.zeros(16, "u1"))
            entered.set()

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    assert not entered.wait(0.2)  # others wait until it ends
    holder.kill()
    holder.wait(60)
    try:
        assert entered.wait(60)  # even if a child that it forked is still running
    finally:
        if forked:
            os.kill(pid, 9)
    waiter.join(60)


@pytest.mark.skipif(lock.fcntl is None, reason="no flock here")
def test_work_continues_without_locks_where_they_are_unsupported(store, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    def acquire_twice(store):
        with store.row_locks([RECIPE]) as first, store.row_locks([RECIPE]) as second:
            second.wait(keys[0])
            return first.acquire(keys).all() and second.acquire(keys).all()

    keys = rows(3)[0]
    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", unsupported)
        patch.setattr(lock.fcntl, "fcntl", unsupported)
        assert acquire_twice(store)
        patch.setattr(row_locks, "_HAS_BYTE_LOCKS", False)
        assert acquire_twice(store)
        store.publish(RECIPE, *rows(3))
        assert store.compact()["segments_after"] == 1
    (tmp_path / "file").write_text("x")
    assert acquire_twice(EmbeddingStore(tmp_path / "file" / "below"))
    monkeypatch.setattr(lock, "fcntl", None)
    assert acquire_twice(store)


def test_eight_workers_on_a_cold_store_compute_each_image_once(store, tmp_path):
    code = """
recipe = {'network': 'toy', 'layer': 'last', 'width': 6, 'dtype': 'float32'}
keys = np.random.default_rng(0).integers(0, 256, (200, 16), 'u1')
store = EmbeddingStore(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
todo, computed = np.arange(200), 0
while len(todo):
    with store.row_locks([recipe]) as locks:
        is_locked = locks.acquire(keys[todo])
        todo, busy = todo[is_locked], todo[~is_locked]
        todo = todo[~store.contains(recipe, keys[todo])]
        time.sleep(0.05)
        store.publish(recipe, keys[todo], np.tile(todo[:, None], 6).astype('f4'))
        computed += len(todo)
    todo = busy
    if len(todo):
        with store.row_locks([recipe]) as locks:
            locks.wait(keys[todo[0]])
got, is_stored = store.get(recipe, keys)
print(computed, is_stored.all() and (got[:, 0] == np.arange(200)).all())
"""
    workers = [python(code, store.root, tmp_path / "go") for _ in range(8)]
    (tmp_path / "go").write_text("")
    outputs = [w.communicate(timeout=240)[0].split() for w in workers]
    assert sum(int(computed) for computed, _ in outputs) == 200
    assert [is_correct for _, is_correct in outputs] == ["True"] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_holds_the_locks_can_work(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    folder = store._folder(RECIPE)
    with folder.lock, index._segments.lock, index._folders.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pid = os.fork()
        if pid == 0:
            ok = False
            try:
                store.publish(RECIPE, *rows(10, 1))
                ok = np.array_equal(store.get(RECIPE, keys)[0], features)
            finally:
                os._exit(0 if ok else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert done == (pid, 0)


# ---------------------------------------------------------------- sidecars


def test_sidecars_are_read_by_key(store):
    key = {"model": "vgg19", "size": (224, 224), "stat": [1, 2.5, None]}
    assert store.get_sidecar(key) is None
    store.put_sidecar(key, {"digest": "ab", "taps": {"fc1": 4096}})
    assert store.get_sidecar(key) == {"digest": "ab", "taps": {"fc1": 4096}}
    assert store.get_sidecar({**key, "model": "vgg16"}) is None
    store.put_sidecar(key, {"digest": "cd"})
    assert store.get_sidecar(key) == {"digest": "cd"}
    (path,) = store.root.glob("v1/networks/*")
    assert path.name == f"{recipe_digest(key)}.json"


def test_damaged_sidecars_are_ignored(store):
    key, value = {"model": "toy"}, {"taps": {"a": 3}}
    store.put_sidecar(key, value)
    (path,) = store.root.glob("v1/networks/*")
    good = path.read_bytes()
    bad = [good[:i] for i in range(len(good))]
    bad += [good[:i] + bytes([good[i] ^ 1 << b]) + good[i + 1 :] for i in range(len(good)) for b in range(8)]
    bad += [b"[" * 100_000, b"null", b"[]", b"{}", b'{"digest":1,"key":{},"value":{}}', b"\xff" * 9, b"1e999"]
    bad += [
        canonical_json(
            {"digest": recipe_digest([{"model": "x"}, value]), "key": {"model": "x"}, "value": value}
        )
    ]
    bad += [b" " * (2 << 20)]
    for content in bad:
        path.unlink()  # a truncated file would be flushed to disk when closed
        path.write_bytes(content)
        assert store.get_sidecar(key) is None, content[:80]
    assert [d["path"] for d in store.verify()] == [str(path)]
    path.unlink()
    path.symlink_to(store.root / "elsewhere")
    (store.root / "elsewhere").write_bytes(good)
    assert store.get_sidecar(key) is None
    store.put_sidecar(key, value)
    assert store.get_sidecar(key) == value
    assert not path.is_symlink()


def test_a_failed_write_of_a_sidecar_is_ignored(tmp_path):
    (tmp_path / "file").write_text("x")
    store = EmbeddingStore(tmp_path / "file")
    store.put_sidecar({"a": 1}, {"b": 2})
    assert store.get_sidecar({"a": 1}) is None


# ---------------------------------------------------------------- maintenance


def test_info_counts(store):
    keys, features = rows(30)
    store.publish(RECIPE, keys[:20], features[:20])
    store.publish(RECIPE, keys[10:], features[10:])
    other = {**RECIPE, "width": 2}
    store.publish(other, keys, features[:, :2])
    info = store.info()
    by_digest = {r["digest"]: r for r in info["recipes"]}
    first, second = by_digest[recipe_digest(RECIPE)], by_digest[recipe_digest(other)]
    assert (first["rows"], first["unique_rows"], first["segments"], first["quarantined"]) == (40, 30, 2, 0)
    assert (second["rows"], second["unique_rows"], second["segments"]) == (30, 30, 1)
    assert first["recipe"] == RECIPE
    assert info["bytes"] == first["bytes"] + second["bytes"] == sum(p.stat().st_size for p in segments(store))
    assert abs(first["last_used"] - time.time()) < 60
    (store.root / "v1" / first["digest"] / "recipe.json").unlink()
    assert RECIPE in [r["recipe"] for r in store.info()["recipes"]]
    json.dumps(info)


def test_verify_names_damage_and_changes_nothing(store):
    store.publish(RECIPE, *rows(10))
    store.publish(RECIPE, *rows(10, 1))
    store.put_sidecar({"a": 1}, {"b": 2})
    assert store.verify() == []
    bad = segments(store)[0]
    bad.write_bytes(bad.read_bytes()[:-1])
    recipe = bad.with_name("recipe.json")
    recipe.write_text("{}")
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    damage = store.verify()
    assert {d["path"] for d in damage} == {str(bad), str(recipe)}
    assert all(d["reason"] for d in damage)
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before
    store.publish(RECIPE, *rows(10, 2))  # rewrites recipe.json
    assert [d["path"] for d in store.verify()] == [str(bad)]


def test_compact_merges_segments_and_drops_duplicates(store):
    keys, features = rows(100)
    for i in range(0, 100, 10):
        store.publish(RECIPE, keys[i : i + 10], features[i : i + 10])
    store.publish(RECIPE, keys[5:25], features[5:25])
    assert store.get(RECIPE, keys)[1].all()
    before = store.info()["bytes"]
    done = store.compact()
    assert (done["segments_before"], done["segments_after"]) == (11, 1)
    assert done["bytes_before"] == before > done["bytes_after"] == store.info()["bytes"]
    for _ in range(2):
        got, is_stored = store.get(RECIPE, keys)
        assert is_stored.all()
        assert np.array_equal(got, features)
        clear_caches()
    info = store.info()["recipes"][0]
    assert info["rows"] == info["unique_rows"] == 100
    (path,) = segments(store)
    assert store.compact()["segments_after"] == 1
    assert segments(store) == [path]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, "recipe.json"])


def test_compact_bounds_the_size_of_a_segment(store, monkeypatch):
    monkeypatch.setattr(maintenance, "TARGET_BYTES", 10_000)
    keys, features = rows(1000)
    for i in range(0, 1000, 50):
        store.publish(RECIPE, keys[i : i + 50], features[i : i + 50])
    store.compact()
    sizes = [p.stat().st_size for p in segments(store)]
    assert 5 <= len(sizes) <= 12
    assert max(sizes) <= 10_000
    compacted = segments(store)
    store.compact()
    assert segments(store) == compacted
    assert np.array_equal(store.get(RECIPE, keys)[0], features)


def test_compact_deletes_a_segment_of_duplicates(store, monkeypatch):
    keys, features = rows(200)
    store.publish(RECIPE, keys, features)
    monkeypatch.setattr(maintenance, "TARGET_BYTES", segments(store)[0].stat().st_size)
    store.publish(RECIPE, keys[:5], features[:5])
    store.compact()
    assert len(segments(store)) == 1
    assert store.verify() == []
    assert np.array_equal(store.get(RECIPE, keys)[0], features)


def test_compact_removes_temporary_files_an_hour_old(store):
    store.publish(RECIPE, *rows(3))
    store.put_sidecar({"a": 1}, {"b": 2})
    names = [
        store.root / "v1" / place / f".tmp-{i:024x}"
        for place in (recipe_digest(RECIPE), "networks")
        for i in (1, 2)
    ]
    for i, path in enumerate(names):
        path.write_text("x")
        if i % 2:
            os.utime(path, (time.time() - 4000,) * 2)
    store.compact()
    assert [p.exists() for p in names] == [True, False] * 2


def test_compact_deletes_nothing_when_a_segment_is_damaged_meanwhile(store, monkeypatch):
    keys, features = rows(30)
    for i in range(0, 30, 10):
        store.publish(RECIPE, keys[i : i + 10], features[i : i + 10])
    store.contains(RECIPE, keys)
    bad = segments(store)[0]
    bad.write_bytes(b"x")
    index._segments.drop(str(bad))
    with pytest.warns(StoreWarning, match="the digest of its content does not match its file name"):
        store.compact()
        assert store.contains(RECIPE, keys).sum() == 20
    store.compact()
    assert len(segments(store)) == 1
    assert store.contains(RECIPE, keys).sum() == 20


def test_one_process_compacts_at_a_time(store):
    for i in range(3):
        store.publish(RECIPE, *rows(10, i))
    with lock.flock(os.path.join(store._path(RECIPE), "compact.lock")):
        assert store.compact()["segments_after"] == (3 if lock.fcntl else 1)
    assert store.compact()["segments_after"] == 1


def test_prune_deletes_the_least_recently_used_first(store):
    recipes = [{**RECIPE, "layer": i} for i in range(4)]
    keys, features = rows(100)
    for i, recipe in enumerate(recipes):
        store.publish(recipe, keys, features)
        for path in Path(store._path(recipe)).iterdir():
            os.utime(path, (1000 + i,) * 2)
    store.get(recipes[0], keys)  # now the most recently used
    size = store.info()["bytes"]
    done = store.prune(size // 2)
    assert (done["removed_recipes"], done["removed_bytes"], done["bytes"]) == (2, size // 2, size // 2)
    assert [bool(store.contains(r, keys).all()) for r in recipes] == [True, False, False, True]
    assert len(list((store.root / "v1").iterdir())) == 2
    assert store.prune(size)["removed_recipes"] == 0
    assert store.prune(0)["bytes"] == 0
    with pytest.raises(ValueError, match="`max_bytes` must be 0 or more; got -1"):
        store.prune(-1)


def test_prune_takes_sizes_with_units(store):
    store.publish(RECIPE, *rows(100))
    size = store.info()["bytes"]
    for text in (f"{size}", f"{size}b", f"{size // 1000 + 1}kB", f"{size // 1024 + 1} KiB", "500MB", "1e9"):
        assert store.prune(text)["removed_recipes"] == 0
    for text in ("", "MB", "1.2.3", "-1", "5XB"):
        with pytest.raises(ValueError, match="not a size"):
            store.prune(text)
    assert store.prune(f"{size // 1000 - 1}kB")["removed_recipes"] == 1


def test_clear_deletes_only_files_of_the_store(store, tmp_path):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    store.publish({**RECIPE, "layer": "x"}, keys, features)
    store.put_sidecar({"a": 1}, {"b": 2})
    with store.row_locks([RECIPE]):
        pass
    (damaged,) = Path(store._path(RECIPE)).glob("*.h5")
    damaged.write_bytes(b"x")
    with pytest.warns(StoreWarning):
        store.get(RECIPE, keys)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / damaged.name).write_text("other")
    digest = "0" * 32
    (store.root / "v1" / digest).symlink_to(outside)
    foreign = [
        store.root / "notes.txt",
        store.root / "v1" / "notes.txt",
        store.root / "v1" / recipe_digest(RECIPE) / "notes.h5",
        store.root / "v1" / "networks" / "notes.json",
    ]
    for path in foreign:
        path.write_text("other")
    done = store.clear()
    assert done["removed_files"] == 6  # two recipes, one segment, one quarantined, a sidecar, a lock
    remaining = {
        p for p in store.root.rglob("*") if p.is_file() and not p.is_relative_to(store.root / "v1" / digest)
    }
    assert remaining == set(foreign)
    assert (outside / damaged.name).read_text() == "other"
    assert (store.root / "v1" / digest).is_symlink()
    assert not store.contains(RECIPE, keys).any()
    store.publish(RECIPE, keys, features)
    assert store.contains(RECIPE, keys).all()


# ---------------------------------------------------------------- concurrent processes (guarantees 5 and 8)


def test_deleting_any_file_costs_only_recomputation(store):
    keys, features = rows(30)

    def fill():
        for i in range(0, 30, 10):
            store.publish(RECIPE, keys[i : i + 10], features[i : i + 10])
        store.put_sidecar({"a": 1}, {"b": 2})
        with store.row_locks([RECIPE]):
            pass

    fill()
    every = sorted(p for p in store.root.rglob("*") if p.is_file())
    assert len(every) == 6
    for path, warm in itertools.product(every, (True, False)):
        path.unlink()
        if not warm:
            clear_caches()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got, is_stored = store.get(RECIPE, keys)
            assert np.array_equal(got[is_stored], features[is_stored])
            assert is_stored.sum() == (20 if path.suffix == ".h5" else 30)
            assert store.get_sidecar({"a": 1}) == (None if path.parent.name == "networks" else {"b": 2})
            store.publish(RECIPE, keys[~is_stored], features[~is_stored])
            fill()
        assert path.exists()
        assert store.get(RECIPE, keys)[1].all()


@pytest.mark.parametrize("work", ["compact", "delete"])
def test_reading_during_compact_and_deletion(store, work):
    keys, features = rows(400)
    store.publish(RECIPE, keys[:1], features[:1])
    code = """
from pathlib import Path
keys = np.random.default_rng(0)
rng = np.random.default_rng(0)
keys, features = rng.integers(0, 256, (400, 16), 'u1'), rng.standard_normal((400, 6)).astype('f4')
recipe = {'network': 'toy', 'layer': 'last', 'width': 6, 'dtype': 'float32'}
store = EmbeddingStore(sys.argv[1])
print('go', flush=True)
for _ in range(10):
    for i in range(0, 400, 50):
        store.publish(recipe, keys[i:i + 50], features[i:i + 50])
    if sys.argv[2] == 'compact':
        store.compact()
    else:
        for path in sorted(store.root.glob('v1/*/*.h5'))[::2]:
            path.unlink()
for i in range(0, 400, 50):
    store.publish(recipe, keys[i:i + 50], features[i:i + 50])
"""
    child = python(code, store.root, work)
    child.stdout.readline()
    wrong, counts = [], ([], [])

    def read(counts):
        is_last = False
        while not is_last:
            is_last = child.poll() is not None  # so that the rows are read once more after the last change
            got, is_stored = store.get(RECIPE, keys)
            wrong.append(not np.array_equal(got[is_stored], features[is_stored]))
            counts.append(int(is_stored.sum()))
            for path in segments(store):
                index._segments.drop(str(path))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=read, args=(c,)) for c in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
    assert child.returncode == 0
    assert wrong and not any(wrong)
    assert {count[-1] for count in counts} == {400}
    if work == "compact":
        for count in counts:
            assert count == sorted(count)  # a row stays available once it is stored
    assert store.get(RECIPE, keys)[1].all()


def test_a_segment_merged_between_listing_and_reading_is_read_from_its_successor(store, monkeypatch):
    keys, features = rows(30)
    for i in range(0, 30, 10):
        store.publish(RECIPE, keys[i : i + 10], features[i : i + 10])
    merged = []

    def load(path):
        if not merged:
            merged.append(True)
            store.compact()
        return files.load_segment(path)

    other = index.Folder(store._path(RECIPE))  # as in another process
    monkeypatch.setattr(index, "load_segment", load)
    assert (other.refresh().find(keys) >= 0).all()
    assert other.index.names == [segments(store)[0].name]


@pytest.mark.parametrize(("when", "nth"), [("warm", 1), ("cold", 2)])
def test_a_listing_without_old_and_new_segment_is_repeated(store, monkeypatch, when, nth):
    """A listing during a compaction may contain neither the merged segment nor its sources."""
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    if when == "warm":
        store.contains(RECIPE, keys)
    calls = []

    def listing(folder, pattern):
        calls.append(folder)
        return frozenset() if len(calls) == nth else files.list_names(folder, pattern)

    monkeypatch.setattr(index, "list_names", listing)
    assert store.get(RECIPE, keys)[1].all()
    assert len(calls) > nth
