"""Searches under the backends of joblib: the results are those of one process."""

from __future__ import annotations

import contextlib

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import ThreadingBackend
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, FeatureSearchCV


@contextlib.contextmanager
def ray_backend():
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config(backend="ray", n_jobs=2):
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def dask_backend():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, scheduler_port=0
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask", n_jobs=2):
        yield


def loky_backend():
    return joblib.parallel_config(backend="loky", n_jobs=2)


def threading_backend():
    return joblib.parallel_config(backend="threading", n_jobs=2)


class ListBackend(ThreadingBackend):
    """A backend that returns all results at the end, as Ray's does."""

    supports_return_generator = False


def list_backend():
    joblib.register_parallel_backend("list", ListBackend)
    return joblib.parallel_config(backend="list", n_jobs=2)


BACKENDS = [
    threading_backend,
    list_backend,
    pytest.param(loky_backend, marks=pytest.mark.slow),
    pytest.param(dask_backend, marks=pytest.mark.slow),
    pytest.param(ray_backend, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory, photos):
    """A store with the embeddings of all photographs."""
    folder = tmp_path_factory.mktemp("store")
    layers = ["block5_pw_relu", "block10_pw_relu"]
    CNNFeatures("tiny", image_size=32, layer=layers, cache=folder).fit_transform(photos.paths)
    return folder


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_searches_give_the_same_results_as_in_one_process(photos, cache, backend):
    X, y = photos.paths, photos.labels
    pipeline = Pipeline([("cnn", CNNFeatures("tiny", image_size=32, cache=cache)), ("svm", SVC())])
    grid = {"cnn__layer": ["block5_pw_relu", "block10_pw_relu"], "svm__C": [0.1, 10.0]}
    options = {"layers": ["block5_pw_relu", "block10_pw_relu"], "image_sizes": [32], "cache": cache}
    options |= {"heads": ["ridge", "knn"], "cv": 2, "learning_curve": False}
    searches = [
        (GridSearchCV(pipeline, grid, cv=3), GridSearchCV(pipeline, grid, cv=3)),
        (FeatureSearchCV("tiny", **options, n_jobs=1), FeatureSearchCV("tiny", **options)),
    ]
    expected = [first.fit(X, y).cv_results_["mean_test_score"] for first, _ in searches]
    with backend():
        scores = [second.fit(X, y).cv_results_["mean_test_score"] for _, second in searches]
    for first, second in zip(expected, scores, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-12)
    assert searches[1][1].predict(X[:3]).tolist() == searches[1][0].predict(X[:3]).tolist()
