"""Work units, shards, engines and the driver."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from tests.engine_contract import EngineContract, list_units, make_cnn, make_job
from tlfeatures.distributed import LocalEngine, Shard, cut_units, probe_unit
from tlfeatures.errors import InvalidParameterError, RecipeMismatchError
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


def test_a_probe_announces_each_row_before_it_is_decoded(photos, tmp_path):
    (tmp_path / "empty.png").touch()
    job = make_job([*photos.paths[:3], str(tmp_path / "empty.png")])
    (unit,) = list_units(job)
    rows = []
    errors = probe_unit(job.take(unit), unit, rows.append)
    assert rows == [0, 1, 2, 3]
    assert list(errors) == [3]


def test_detached_images_are_the_same_images(photos):
    images = Images.of(photos.paths).take([3, 5])
    np.testing.assert_array_equal(images.detach().keys()[0], images.keys()[0])
    assert make_cnn(cache=None).fit_transform(images.detach()).shape == (2, 320)
