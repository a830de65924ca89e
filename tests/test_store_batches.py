"""`EmbeddingStore.batches`: every key once, shuffled or in the order of the files, from verified files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tlfeatures.errors import InvalidParameterError, MissingRowsError, StoreError, StoreWarning
from tlfeatures.store import EmbeddingStore
from tlfeatures.store import _index as index

RECIPE = {"network": "toy", "layer": "last", "width": 6, "dtype": "float32"}
OTHER = {**RECIPE, "layer": "first", "width": 3}


def make_rows(n: int, seed: int = 0, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16), "u1"), rng.standard_normal((n, width)).astype("f4")


@pytest.fixture
def stored(store) -> tuple[EmbeddingStore, np.ndarray, np.ndarray]:
    """A store with 100 rows in ten segments, their keys and the rows."""
    keys, rows = make_rows(100)
    for i in range(0, 100, 10):
        store.publish(RECIPE, keys[i : i + 10], rows[i : i + 10])
    return store, keys, rows


def collect(batches) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return positions, rows and the sizes of all batches."""
    positions, rows = zip(*batches, strict=True)
    return np.concatenate(positions), np.concatenate(rows), [len(part) for part in positions]


@pytest.mark.parametrize("random_state", [None, 0, np.random.default_rng(0)], ids=["files", "int", "rng"])
@pytest.mark.parametrize("window", [None, 1, 30])
def test_every_key_comes_once_with_its_row(stored, random_state, window):
    store, keys, rows = stored
    keys = np.concatenate([keys, keys[:7]])  # duplicates are allowed
    positions, values, sizes = collect(store.batches(RECIPE, keys, 15, random_state, window=window))
    assert sorted(positions) == list(range(107))
    assert np.array_equal(values, np.concatenate([rows, rows[:7]])[positions])
    assert sizes == [15] * 7 + [2]


def test_a_seed_gives_the_same_order_in_every_process(stored):
    store, keys, _ = stored
    first = collect(store.batches(RECIPE, keys, 15, 0))[0]
    index._reset_after_fork()  # as in a new process
    assert np.array_equal(collect(store.batches(RECIPE, keys, 15, 0))[0], first)
    assert not np.array_equal(collect(store.batches(RECIPE, keys, 15, 1))[0], first)
    generator = np.random.default_rng(0)
    passes = [collect(store.batches(RECIPE, keys, 15, generator))[0] for _ in range(2)]
    assert not np.array_equal(*passes)


@pytest.mark.parametrize("random_state", [None, 0])
def test_the_order_does_not_depend_on_when_segments_were_read(store, random_state):
    keys, rows = make_rows(60)
    for i in range(0, 60, 10):
        store.publish(RECIPE, keys[i : i + 10], rows[i : i + 10])
        store.contains(RECIPE, keys)
    order = collect(store.batches(RECIPE, keys, 15, random_state))[0]
    index._reset_after_fork()  # as in a new process, which reads all segments at once
    assert np.array_equal(collect(store.batches(RECIPE, keys, 15, random_state))[0], order)


def test_neighboring_rows_do_not_stay_together(store):
    recipe = {**RECIPE, "width": 4096}  # a block of 128 kB has eight rows
    keys, rows = make_rows(160, width=4096)
    for i in range(0, 160, 40):
        store.publish(recipe, keys[i : i + 40], rows[i : i + 40])
    positions = next(store.batches(recipe, keys, 40, 0, window=40))[0]
    assert len(np.unique(positions // 40)) == 4  # a window of 40 rows has rows of all four segments
    assert np.abs(np.diff(positions)).mean() > 10


def test_rows_of_several_recipes_are_concatenated(stored):
    store, keys, rows = stored
    order = np.random.default_rng(1).permutation(100)
    others = make_rows(100, seed=2, width=3)[1]
    store.publish(OTHER, keys[order], others[order])
    positions, values, _ = collect(store.batches([RECIPE, OTHER], keys, 15, 0, window=30))
    assert np.array_equal(values, np.hstack([rows, others])[positions])


def test_a_subset_of_the_stored_rows(stored):
    store, keys, rows = stored
    positions, values, _ = collect(store.batches(RECIPE, keys[::7], 4, 0))
    assert np.array_equal(values, rows[::7][positions])
    assert list(store.batches(RECIPE, keys[:0], 4, 0)) == []


def test_missing_keys_raise_before_the_iteration(stored):
    store, keys, _ = stored
    message = r"3 of 103 keys have no row under this recipe in .*keys\[store.contains\(recipe, keys\)\]"
    with pytest.raises(MissingRowsError, match=message) as caught:
        store.batches(RECIPE, np.concatenate([keys, make_rows(3, seed=9)[0]]), 10)
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, StoreError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1; got 0"),
        ({"window": -1}, "`window` must be None or an integer of at least 1; got -1"),
    ],
)
def test_invalid_parameters_raise_before_the_iteration(stored, options, message):
    store, keys, _ = stored
    with pytest.raises(InvalidParameterError, match=message):
        store.batches(RECIPE, keys, **{"batch_size": 10, **options})
    with pytest.raises(
        InvalidParameterError, match="`recipe` must be a recipe or a list of recipes; got an empty list"
    ):
        store.batches([], keys)


def test_each_segment_is_verified_once_per_process(stored, monkeypatch):
    store, keys, _ = stored
    loaded, load = [], index.load_segment
    monkeypatch.setattr(index, "load_segment", lambda path: loaded.append(path) or load(path))
    index._reset_after_fork()
    collect(store.batches(RECIPE, keys, 10, 0, window=10))
    assert set(loaded) == {str(path) for path in store.root.glob("v1/*/*.h5")}
    loaded.clear()
    for seed in (None, 1):
        collect(store.batches(RECIPE, keys, 10, seed, window=10))
    assert loaded == []


def test_a_segment_that_changes_is_verified_again(stored):
    store, keys, _ = stored
    collect(store.batches(RECIPE, keys, 10))
    path = sorted(store.root.glob("v1/*/*.h5"))[3]
    content = bytearray(path.read_bytes())
    content[content.find(keys[int(np.flatnonzero([k.tobytes() in content for k in keys])[0])].tobytes())] ^= 1
    path.write_bytes(content)
    os.utime(path, (2e9, 2e9))  # the clock of a file system may be too coarse to show the change
    batches = store.batches(RECIPE, keys, 10, 0, window=10)
    with (
        pytest.warns(StoreWarning, match="the digest of its content does not match its file name"),
        pytest.raises(MissingRowsError, match="keys have no row under this recipe"),
    ):
        collect(batches)
    assert store.contains(RECIPE, keys).sum() == 90


@pytest.mark.parametrize("change", ["compact", "delete"])
def test_rows_that_move_during_the_iteration_come_once(stored, change):
    store, keys, rows = stored
    if change == "delete":
        store.publish(RECIPE, keys, rows)  # all rows twice, in other segments
    batches = store.batches(RECIPE, keys, 10, 0, window=10)
    first = next(batches)
    if change == "compact":
        store.compact()
    else:
        for path in sorted(store.root.glob("v1/*/*.h5"), key=lambda p: p.stat().st_size)[:10]:
            path.unlink()
    positions, values, _ = collect([first, *batches])
    assert sorted(positions) == list(range(100))
    assert np.array_equal(values, rows[positions])


def test_an_iteration_may_be_left_early(stored):
    store, keys, _ = stored
    for positions, _ in store.batches(RECIPE, keys, 10, 0, window=10):
        assert len(positions) == 10
        break
