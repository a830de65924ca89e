"""Work units, shards, engines and the driver."""

from __future__ import annotations

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine_contract import EngineContract, list_units, make_cnn, make_job
from tlfeatures.distributed import (
    LocalEngine,
    Shard,
    compute_unit,
    cut_units,
    embed_images,
    fill_store,
    iter_embeddings,
    probe_unit,
)
from tlfeatures.errors import (
    ImageReadError,
    InvalidParameterError,
    RecipeMismatchError,
    TransientReadError,
    UnreadableImagesWarning,
)
from tlfeatures.images import Images


@pytest.fixture(scope="module")
def engine():
    return LocalEngine()


class TestLocalEngine(EngineContract):
    pass


def test_units_have_the_same_ids_for_relative_and_absolute_paths(photos, monkeypatch):
    job = make_job(photos.paths)
    monkeypatch.chdir(photos.root)
    relative = [os.path.relpath(path) for path in photos.paths]
    assert list_units(make_job(relative)) == list_units(job)


def test_units_differ_by_names_content_and_recipes(photos):
    job = make_job(photos.paths)
    ids = {unit.id for unit in list_units(job)}
    ids |= {unit.id for unit in list_units(make_job(photos.paths[::-1]))}
    ids |= {unit.id for unit in cut_units(job.images, job.recipes[:1], 4)}
    X = np.zeros((2, 4, 8, 8), "uint8")
    X[1, 0, 0, 0] = 1
    ids |= {unit.id for batch in X for unit in list_units(make_job(batch))}
    assert len(ids) == 11


def test_shards_are_disjoint_and_complete(photos):
    job = make_job(photos.paths)
    parts = [list(cut_units(job.images, job.recipes, 1, Shard(i, 5))) for i in range(1, 6)]
    assert sorted((u for part in parts for u in part), key=lambda u: u.number) == list_units(job, 1)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "-1/4"])
def test_wrong_shards_are_refused(text):
    with pytest.raises(
        InvalidParameterError, match=r"`shard` must be I/N with I from 1 to N, such as 3/16; got"
    ):
        Shard.parse(text)


def test_images_of_a_unit_are_pickled_with_absolute_paths(photos, monkeypatch):
    monkeypatch.chdir(photos.root)
    job = make_job([os.path.relpath(path) for path in photos.paths])
    part = pickle.loads(pickle.dumps(job.take(list_units(job)[1])))
    assert part.images.paths() == [os.path.abspath(path) for path in photos.paths[4:8]]


def test_a_worker_with_another_decoder_is_refused(photos, monkeypatch):
    from tlfeatures.distributed import _job

    job = make_job(photos.paths)
    job.prepare()
    monkeypatch.setattr(_job, "decoder_recipe", lambda: {"pixel_probe": "another"})
    with pytest.raises(RecipeMismatchError, match=r"pixel_probe: .* became 'another'"):
        job.prepare()


@pytest.mark.parametrize("is_stored", [None, lambda keys: np.zeros(len(keys), bool)])
def test_a_unit_without_images_to_compute_has_an_empty_result(photos, is_stored):
    job = make_job(photos.paths)
    unit = replace(list_units(job)[1], rows=())
    result = compute_unit(job.take(unit), unit, is_stored)
    assert result.unit == unit and not result.errors and not result.notes
    assert [len(part) for part in (result.rows, result.known_rows, result.known_keys, result.stamps)] == [
        0
    ] * 4
    assert result.keys.shape == (0, 16) and result.keys.dtype == np.uint8
    assert [array.shape for array in result.arrays] == [(0, block.width) for block in job.outputs]


def test_a_probe_announces_each_row_before_it_is_decoded(photos, tmp_path):
    (tmp_path / "empty.png").touch()
    job = make_job([*photos.paths[:3], str(tmp_path / "empty.png")])
    (unit,) = list_units(job)
    rows = probe_unit(job.take(unit), unit)
    assert next(rows) == 0
    assert list(rows) == [1, 2, 3]


def test_detached_images_are_the_same_images(photos):
    images = Images.of(photos.paths).take([3, 5])
    np.testing.assert_array_equal(images.detach().keys()[0], images.keys()[0])
    assert make_cnn(cache=None).fit_transform(images.detach()).shape == (2, 320)


# -- driver ------------------------------------------------------------------------------------


class RecordingEngine(LocalEngine):
    """A local engine that records the rows that it is asked to compute."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def run(self, job, units, is_stored=None):
        def record(unit):
            self.rows += unit.todo().tolist()
            return unit

        return super().run(job, map(record, units), is_stored)


@pytest.fixture
def old_files(monkeypatch):
    """Files count as unchanged also within two seconds of their last change."""
    monkeypatch.setattr("tlfeatures.distributed._stamps._FRESH_NS", -(10**18))


@pytest.fixture
def copies(photos, tmp_path, old_files):
    """Copies of the photos that a test may change."""
    paths = []
    for i, path in enumerate(photos.paths):
        paths.append(shutil.copyfile(path, tmp_path / f"{i:02d}{Path(path).suffix}"))
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    "parameters",
    [{}, {"pooling": "avgmax", "layer": ["block5_pw_relu", "block10_pw_relu"]}, {"views": "flip"}],
)
def test_embed_images_equals_transform_bit_for_bit(photos, store, parameters):
    expected = make_cnn(cache=None, **parameters).fit_transform(photos.paths)
    cnn = make_cnn(cache=store, **parameters)
    result = embed_images(photos.paths, cnn, unit_size=5)
    np.testing.assert_array_equal(result.features, expected)
    np.testing.assert_array_equal(result.keys, Images.of(photos.paths).keys()[0])
    assert result.computed == 12
    np.testing.assert_array_equal(cnn.fit_transform(photos.paths), expected)
    chunks = list(iter_embeddings(photos.paths, cnn, unit_size=5))
    assert [len(chunk.rows) for chunk in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([chunk.features for chunk in chunks]), expected)


def test_files_and_pixels_together_keep_their_order(photos, store):
    X = [photos.paths[0], np.zeros((40, 40), "uint8") + np.arange(40, dtype="uint8") * 5, photos.paths[1]]
    result = embed_images(X, make_cnn(cache=store), unit_size=1)
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(X))


def test_stored_rows_are_not_computed_again(photos, store):
    make_cnn(cache=store).fit_transform(photos.paths[:6])
    result = embed_images(photos.paths, make_cnn(cache=store), unit_size=4)
    assert result.computed == 6
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(photos.paths))


def test_rows_are_not_computed_again_after_a_file_was_inserted(photos, tmp_path, store):
    cnn = make_cnn(cache=store)
    embed_images(photos.paths, cnn, unit_size=4)
    new = str(tmp_path / "new.png")
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (32, 32, 3), "u1")).save(new)
    paths = [*photos.paths[:5], new, *photos.paths[5:]]
    result = embed_images(paths, cnn, unit_size=4)  # all units from the second on have other images
    assert result.computed == 1
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(paths))


def test_identical_images_of_different_units_go_through_the_network_once(photos, store):
    result = embed_images(photos.paths * 2, make_cnn(cache=store), unit_size=12)
    assert result.computed == 12
    np.testing.assert_array_equal(result.features[:12], result.features[12:])


def test_units_in_the_ledger_are_skipped_without_reading_their_images(copies, store):
    cnn, engine = make_cnn(cache=store), RecordingEngine()
    first = embed_images(copies, cnn, engine, unit_size=5)
    assert engine.rows == list(range(12))
    again = embed_images(copies, cnn, engine, unit_size=5)
    assert engine.rows == list(range(12))
    assert again.computed == 0
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.keys, first.keys)


def test_only_changed_files_are_computed_again(copies, store):
    cnn, engine = make_cnn(cache=store), RecordingEngine()
    embed_images(copies, cnn, unit_size=5)
    shutil.copyfile(copies[3], copies[7])
    os.utime(copies[7], (1, 1))
    result = embed_images(copies, cnn, engine, unit_size=5)
    assert engine.rows == [7]
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(copies))


def test_files_that_have_just_changed_are_read_again(photos, tmp_path, store, monkeypatch):
    monkeypatch.setattr("tlfeatures.distributed._stamps._FRESH_NS", 10**18)
    engine = RecordingEngine()
    for _ in range(2):
        result = embed_images(photos.paths, make_cnn(cache=store), engine)
    assert engine.rows == [*range(12)] * 2
    assert result.computed == 0


def test_unreadable_images_are_named_and_stay_in_the_ledger(copies, store):
    Path(copies[2]).write_bytes(b"not an image")
    os.remove(copies[8])
    cnn, engine = make_cnn(cache=store, on_error="nan"), RecordingEngine()
    for _ in range(2):
        with pytest.warns(
            UnreadableImagesWarning, match="2 of 12 images could not be read; their rows are NaN"
        ):
            result = embed_images(copies, cnn, engine, unit_size=5)
        assert list(result.errors) == [2, 8]
        assert "no such file" in result.errors[8]
        assert np.flatnonzero(np.isnan(result.features).all(axis=1)).tolist() == [2, 8]
        assert not result.keys[[2, 8]].any()
    assert engine.rows == list(range(12))
    shutil.copyfile(copies[0], copies[8])
    with pytest.warns(UnreadableImagesWarning, match="1 of 12"):
        assert list(embed_images(copies, cnn, engine, unit_size=5).errors) == [2]
    assert engine.rows[12:] == [8]


def test_images_that_this_machine_could_not_read_are_read_again(photos, store, monkeypatch):
    monkeypatch.setattr("tlfeatures.distributed._stamps._FRESH_NS", 0)
    cnn = make_cnn(cache=store, on_error="nan")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.warns(UnreadableImagesWarning, match="12 of 12 images could not be read"):
        embed_images(photos.paths, cnn)
    monkeypatch.undo()
    result = embed_images(photos.paths, cnn)
    assert result.errors == {} and result.computed == 12
    assert embed_images(photos.paths, cnn).computed == 0


def test_a_path_with_a_null_character_is_unreadable(photos, store):
    with pytest.warns(UnreadableImagesWarning):
        result = embed_images([photos.paths[0], "a\0b.png"], make_cnn(cache=store, on_error="nan"))
    assert list(result.errors) == [1] and "the path is not valid" in result.errors[1]


def test_a_shard_must_be_a_shard(photos, store):
    with pytest.raises(
        InvalidParameterError, match=r"`shard` must be .*a Shard, such as Shard\(3, 16\); got '3/16'"
    ):
        fill_store(photos.paths, make_cnn(cache=store), shard="3/16")


class JaxArray:
    """An array with the methods of those of JAX, whose `take` flattens."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.take = array, array.shape, array.dtype, array.take

    def __getitem__(self, rows):
        return self.array[rows]

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_arrays_of_jax_are_cut_into_units(store):
    X = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "u1")
    result = embed_images(JaxArray(X), make_cnn(cache=store), unit_size=2)
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(X))


def test_on_error_raise_stops_and_keeps_what_was_computed(copies, store):
    Path(copies[6]).write_bytes(b"not an image")
    cnn = make_cnn(cache=store)
    for _ in range(2):
        with pytest.raises(ImageReadError, match=r"cannot read 1 of 12 images: .*06.*: not an image"):
            embed_images(copies, cnn, unit_size=5)
    with pytest.warns(UnreadableImagesWarning):
        result = embed_images(copies, cnn, unit_size=5, on_error="nan")
    assert result.computed == 3
    assert list(result.errors) == [6]


class FailingStorage(LocalEngine):
    """An engine whose storage fails at the second unit."""

    def run(self, job, units, is_stored=None):
        for unit in units:
            if unit.number == 1:
                raise TransientReadError(110, "connection timed out, in 4 attempts", "/data/x.jpg")
            yield from super().run(job, [unit], is_stored)


def test_an_outage_ends_the_job_and_never_becomes_a_row_of_nan(photos, store):
    cnn = make_cnn(cache=store, on_error="nan")
    with pytest.raises(TransientReadError, match=r"connection timed out.*1 of 3 work units are stored"):
        embed_images(photos.paths, cnn, FailingStorage(), unit_size=5)
    result = embed_images(photos.paths, cnn, unit_size=5)
    assert result.computed == 7
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(photos.paths))


def test_deleted_segments_are_computed_again(copies, store):
    cnn = make_cnn(cache=store)
    expected = embed_images(copies, cnn, unit_size=5).features
    for path in store.root.rglob("*.h5"):
        path.unlink()
    result = embed_images(copies, cnn, unit_size=5)
    np.testing.assert_array_equal(result.features, expected)


@pytest.mark.parametrize("damage", ["truncated", "zeros", "flipped", "deleted", "folder"])
def test_a_damaged_ledger_costs_only_computation(copies, store, damage):
    cnn = make_cnn(cache=store)
    expected = embed_images(copies, cnn, unit_size=5).features
    (path,) = store.root.rglob("*.part")
    content = bytearray(path.read_bytes())
    for position in (3, 7, 30, 50, len(content) // 2, len(content) - 1):
        path.unlink(missing_ok=True)
        if damage == "truncated":
            path.write_bytes(content[:position])
        elif damage == "zeros":
            path.write_bytes(content[:position] + bytes(1000))
        elif damage == "flipped":
            path.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
        elif damage == "folder":
            path.mkdir()
        result = embed_images(copies, cnn, unit_size=5)
        np.testing.assert_array_equal(result.features, expected)
        assert result.computed == 0
        if damage in ("folder", "deleted"):
            break


def test_threads_share_the_units_and_compute_each_image_once(copies, store):
    def embed(_):
        return embed_images(copies, make_cnn(cache=store), unit_size=1)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(embed, range(4)))
    assert sum(result.computed for result in results) == 12
    for result in results:
        np.testing.assert_array_equal(result.features, results[0].features)
    assert not list(store.root.rglob("*.claim"))


def test_shards_fill_the_store_for_a_last_run(copies, store):
    cnn, engine = make_cnn(cache=store), RecordingEngine()
    counts = [fill_store(copies, cnn, unit_size=1, shard=Shard(i, 4)) for i in (1, 2, 3, 4)]
    assert [count.computed for count in counts] == [3, 3, 3, 3]
    assert (
        str(fill_store(copies, cnn, unit_size=1, shard=Shard(1, 4)))
        == "3 images: 3 from the store, 0 computed"
    )
    result = embed_images(copies, cnn, engine, unit_size=1)
    assert engine.rows == []
    np.testing.assert_array_equal(result.features, make_cnn(cache=None).fit_transform(copies))


def test_clear_deletes_the_ledger(copies, store):
    embed_images(copies, make_cnn(cache=store))
    store.clear()
    assert not list(store.root.rglob("*"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unit_size": 0}, "`unit_size` must be an integer of at least 1 and of at most .*; got 0"),
        ({"on_error": "skip"}, "`on_error` must be 'raise' or 'nan'; got 'skip'"),
    ],
)
def test_wrong_options_are_refused(photos, store, options, text):
    with pytest.raises(InvalidParameterError, match=text):
        embed_images(photos.paths, make_cnn(cache=store), **options)


def test_a_store_is_required(photos):
    with pytest.raises(InvalidParameterError, match=r"`cache` must be .* got None. Without a store"):
        embed_images(photos.paths, make_cnn(cache=None))
