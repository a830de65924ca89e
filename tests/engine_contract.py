"""Tests that every engine of `tlfeatures.distributed` must pass.

The test module of an engine defines a fixture ``engine`` and a class that inherits `EngineContract`; see
`tests/test_distributed.py`.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlfeatures import CNNFeatures
from tlfeatures.distributed import Job, cut_units
from tlfeatures.images import Images


def make_cnn(**parameters):
    return CNNFeatures("tiny", image_size=32, batch_size=4, **parameters)


def make_job(X) -> Job:
    cnn = make_cnn(cache=None)
    return Job.make(X, cnn._make_spec(), cnn.batch_size, 2)


def list_units(job: Job, unit_size: int = 4):
    return list(cut_units(job.images, job.recipes, unit_size))


class EngineContract:
    """Tests of one engine."""

    def test_results_are_those_of_transform_bit_for_bit(self, engine, photos):
        job, expected = make_job(photos.paths), make_cnn(cache=None).fit_transform(photos.paths)
        features = np.full_like(expected, np.nan)
        results = list(engine.run(job, list_units(job)))
        assert sorted(result.unit.number for result in results) == [0, 1, 2]
        for result in results:
            assert sorted(result.rows) == list(result.unit.todo())
            assert not result.errors and not len(result.known_rows)
            assert len(result.arrays) == len(job.recipes)
            features[result.rows] = result.arrays[0]
        np.testing.assert_array_equal(features, expected)

    def test_keys_are_the_digests_of_the_content(self, engine, photos):
        job = make_job(photos.paths)
        keys = Images.of(photos.paths).keys()[0]
        for result in engine.run(job, list_units(job)):
            np.testing.assert_array_equal(result.keys, keys[result.rows])

    def test_unreadable_images_are_named_and_cost_only_their_rows(self, engine, photos, tmp_path):
        damaged = tmp_path / "damaged.jpg"
        damaged.write_bytes(Path(photos.paths[0]).read_bytes()[:200])
        job = make_job([photos.paths[0], str(damaged), str(tmp_path / "absent.jpg"), photos.paths[1]])
        (result,) = engine.run(job, list_units(job))
        assert sorted(result.rows) == [0, 3]
        assert sorted(result.errors) == [1, 2]
        assert "no such file" in result.errors[2]

    def test_identical_images_go_through_the_network_once(self, engine, photos):
        job = make_job([photos.paths[0]] * 3 + [photos.paths[1]])
        (result,) = engine.run(job, list_units(job))
        assert list(result.rows) == [0, 3]
        assert list(result.known_rows) == [1, 2]
        np.testing.assert_array_equal(result.known_keys, np.repeat(result.keys[:1], 2, axis=0))

    def test_only_the_rows_to_do_are_computed(self, engine, photos):
        job = make_job(photos.paths)
        unit = replace(list_units(job)[1], rows=(5, 7))
        (result,) = engine.run(job, [unit])
        assert list(result.rows) == [5, 7]
        assert result.stamps.shape == (2, 2)

    def test_pixels_are_accepted(self, engine):
        X = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype="uint8")
        job = make_job(X)
        expected = make_cnn(cache=None).fit_transform(X)
        for result in engine.run(job, list_units(job)):
            np.testing.assert_array_equal(result.arrays[0], expected[result.rows])

    def test_units_are_taken_only_as_far_as_they_can_be_computed(self, engine, photos):
        job, taken = make_job(photos.paths * 10), []
        results = engine.run(job, (taken.append(unit) or unit for unit in list_units(job, 2)))
        next(results)
        results.close()
        assert len(taken) < 60

    def test_no_units_give_no_results(self, engine, photos):
        assert list(engine.run(make_job(photos.paths), [])) == []

    def test_jobs_and_results_are_small_when_pickled(self, engine, photos):
        job = make_job(photos.paths * 100)
        unit = list_units(job)[7]
        assert len(pickle.dumps(job.take(unit))) < 10_000 + 4 * 300
        (result,) = engine.run(job, [unit])
        assert pickle.loads(pickle.dumps(result)).unit.id == unit.id
