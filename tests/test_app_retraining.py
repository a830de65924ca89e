"""Training the head of a served model again: the provisional head, and the model's own in the background."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra app")

from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, explain
from tlfeatures.app import Journal
from tlfeatures.app._labels import Labels
from tlfeatures.app._model import ServedModel
from tlfeatures.app._problems import Problem
from tlfeatures.app._provisional import RidgeDecomposition
from tlfeatures.app._server import run_server
from tlfeatures.heads import make_head
from tlfeatures.saved_models import load_model, save_pipeline
from tlfeatures.sources import Source

pytestmark = pytest.mark.filterwarnings("ignore:.*images span fewer")


@pytest.mark.parametrize(("n", "d", "k"), [(60, 20, 2), (60, 20, 3), (40, 100, 4)])
def test_provisional_head_equals_ridge(n, d, k):
    rng = np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cat", "dog"])[rng.permutation(n) % k]
    X = rng.normal(size=(n, d)).astype("float32")
    X[:, 0] = 3  # constant
    for i, name in enumerate(np.unique(labels)):
        X[labels == name, 1 + i] += 2
    expected, head = make_head("ridge").fit(X, labels), RidgeDecomposition(X).fit(labels)
    np.testing.assert_allclose(head.decision_function(X), expected.decision_function(X), atol=1e-4)
    np.testing.assert_array_equal(head.predict(X), expected.predict(X))
    probabilities = head.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(head.classes_[probabilities.argmax(axis=1)], head.predict(X))
    again = clone(head).fit(X[:30], labels[:30])  # of other data, not the coefficients that it had
    np.testing.assert_allclose(
        again.decision_function(X),
        make_head("ridge").fit(X[:30], labels[:30]).decision_function(X),
        atol=1e-4,
    )
    with pytest.raises(ValueError, match="All images have the label 'ant'; expected two classes or more"):
        RidgeDecomposition(X).fit(np.full(n, "ant"))


class BlockedHead(ClassifierMixin, BaseEstimator):
    """A head whose training waits until the test lets it continue; it fails if a class has one image."""

    proceed, fits = threading.Event(), []

    def fit(self, X, y):
        """Wait, then fit a neighbors classifier."""
        self.fits.append(len(y))
        assert self.proceed.wait(60)
        if np.unique(y, return_counts=True)[1].min() < 2:
            raise ValueError("a class has one image")
        self.head_ = KNeighborsClassifier(1).fit(X, y)
        self.classes_ = self.head_.classes_
        return self

    def predict(self, X):
        """Predict the label of the nearest row."""
        return self.head_.predict(X)


@pytest.fixture
def images():
    """Twelve dark and twelve bright images."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 128, (24, 32, 32, 3)).astype("uint8") + np.uint8(128) * (np.arange(24) >= 12)[
        :, None, None, None
    ].astype("uint8")


@pytest.fixture
def labels(images, tmp_path):
    """Labels of a served model whose training can be blocked; image 0 has a wrong label."""
    y = np.array(["dark"] * 12 + ["bright"] * 12, object)
    BlockedHead.proceed.set()
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), BlockedHead()).fit(images, y)
    save_pipeline(pipeline, tmp_path / "model.joblib")
    y[0] = "bright"
    model = ServedModel(tmp_path / "model.joblib", batch_size=4)
    names = [f"{i}.png" for i in range(24)]
    model.load_training_images(Source(images, y, None, None, names, "array"), cache=None)
    journal = Journal(tmp_path / "labels.jsonl")
    BlockedHead.proceed.clear()
    BlockedHead.fits.clear()
    yield Labels(model, journal)
    BlockedHead.proceed.set()
    for thread in threading.enumerate():  # else its fits are counted in the next test
        if thread.name == "tlfeatures-training":
            thread.join(60)
    journal.close()


def wait_for(labels, *states):
    deadline = time.monotonic() + 60
    while (state := labels.retraining.describe())["state"] not in states:
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return state


def predict(labels, images):
    return labels.model.fitted.predict(images)


def test_provisional_predictions_until_the_head_is_trained(labels, images):
    with pytest.raises(Problem, match="Train the head again before you save the model"):
        labels.save()
    labels.change([0], "dark")
    state = labels.retrain()
    assert state["state"] == "training" and (state["done"], state["total"]) == (0, 11)
    provisional = predict(labels, images)
    assert provisional.values.tolist() == ["dark"] * 12 + ["bright"] * 12
    assert provisional.probabilities is not None and "ProvisionalHead" in labels.model.about()["head"]
    assert type(labels.model.trained.head[-1]) is BlockedHead  # which cross-validation uses
    result = explain(labels.model.fitted.pipeline, images[:1])
    assert np.mean(result.maps[0]) + result.constants[0] == pytest.approx(result.values[0], abs=1e-4)
    with pytest.raises(Problem, match="still being trained"):
        labels.save()
    BlockedHead.proceed.set()
    state = wait_for(labels, "finished", "failed")
    assert state["state"] == "finished" and state["done"] == 11 and state["seconds"] > 0
    scores = state["scores"]
    assert 0 <= scores["before"] <= scores["after"] <= 1 and (scores["folds"], scores["images"]) == (5, 24)
    assert "BlockedHead" in labels.model.about()["head"]
    assert predict(labels, images).values.tolist() == ["dark"] * 12 + ["bright"] * 12
    assert load_model(labels.save()).predict(images).values.tolist() == ["dark"] * 12 + ["bright"] * 12


def test_provisional_answers_are_marked(labels, images):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images[0]).save(file, "PNG")
    assert "provisional" not in labels.model.predict([file.getvalue()])[0]
    labels.retrain()
    assert labels.model.predict([file.getvalue()])[0]["provisional"] is True
    BlockedHead.proceed.set()
    wait_for(labels, "finished")
    assert "provisional" not in labels.model.predict([file.getvalue()])[0]


def test_training_on_earlier_labels_is_not_continued(labels, images):
    labels.retrain()
    labels.change([0], "dark")
    labels.change([12], "dark")
    labels.retrain()
    BlockedHead.proceed.set()
    state = wait_for(labels, "finished")
    assert BlockedHead.fits[:2] in ([24, 24], [24, 19]) and len(BlockedHead.fits) in (11, 12)
    assert predict(labels, images[[0, 12]]).values.tolist() == ["dark", "dark"]
    assert state["done"] == state["total"] == 11


def test_state_is_described_while_the_provisional_head_is_computed(labels, monkeypatch):
    started, proceed, states = threading.Event(), threading.Event(), []
    prepare = labels.retraining.prepare

    def wait_and_prepare(rows):
        started.set()
        assert proceed.wait(120)
        return prepare(rows)

    monkeypatch.setattr(labels.retraining, "prepare", wait_and_prepare)
    training = threading.Thread(target=labels.retrain)
    training.start()
    assert started.wait(60)
    describing = threading.Thread(
        target=lambda: states.append(labels.retraining.describe()["state"]), daemon=True
    )
    describing.start()  # the service would answer no request meanwhile
    describing.join(60)
    proceed.set()
    training.join(60)
    assert states == ["unchanged"] and labels.retraining.describe()["state"] == "training"


def test_the_last_of_two_calls_at_the_same_time_has_the_last_labels(labels, images, monkeypatch):
    started, proceed = threading.Event(), threading.Event()
    prepare = labels.retraining.prepare

    def wait_and_prepare(rows):
        if not started.is_set():  # the first call
            started.set()
            assert proceed.wait(60)
        return prepare(rows)

    monkeypatch.setattr(labels.retraining, "prepare", wait_and_prepare)
    threads = [threading.Thread(target=labels.retrain) for _ in range(2)]
    threads[0].start()
    assert started.wait(60)
    labels.change([0], "dark")
    threads[1].start()
    threads[1].join(0.5)  # it waits for the first
    proceed.set()
    for thread in threads:
        thread.join(60)
    BlockedHead.proceed.set()
    wait_for(labels, "finished")
    assert predict(labels, images[:1]).values.tolist() == ["dark"]


def test_head_that_cannot_be_trained_leaves_the_one_before(labels, images):
    labels.change(list(range(13, 24)), "dark")
    labels.change([0], "dark")
    labels.retrain()
    BlockedHead.proceed.set()
    state = wait_for(labels, "failed")
    assert "so the previous head is used: a class has one image" in state["error"]
    assert predict(labels, images).values.tolist() == ["dark"] * 12 + ["bright"] * 12
    with pytest.raises(Problem, match="Train the head again"):
        labels.save()
    labels.change([12], "dark")
    with pytest.raises(Problem, match="All images have the label 'dark'"):
        labels.retrain()


def test_scores_need_two_images_of_each_class(images, tmp_path):
    y = np.array(["dark"] * 12 + ["bright"] * 12, object)
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), LogisticRegression()).fit(
        images, y
    )
    save_pipeline(pipeline, tmp_path / "model.joblib")
    model = ServedModel(tmp_path / "model.joblib", batch_size=4)
    names = [f"{i}.png" for i in range(24)]
    y[13:] = None  # without labels
    model.load_training_images(Source(images, y, None, None, names, "array"), cache=None)
    journal = Journal(tmp_path / "labels.jsonl")
    labels = Labels(model, journal)
    labels.retrain()
    state = wait_for(labels, "finished", "failed")
    assert state["state"] == "finished" and "scores" not in state
    assert "each class needs at least two images" in state["error"]
    journal.close()


def test_classes_keep_their_type(images, tmp_path):
    """Also if the labels are names of folders."""
    y = np.arange(24) // 12
    head = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), LogisticRegression())
    save_pipeline(head.fit(images, y), tmp_path / "model.joblib")
    model = ServedModel(tmp_path / "model.joblib", batch_size=4)
    source = Source(images, y.astype(str), None, None, [f"{i}.png" for i in range(24)], "array")
    model.load_training_images(source, cache=None)
    with Journal(tmp_path / "labels.jsonl") as journal:
        labels = Labels(model, journal)
        labels.change([0], "1")
        assert labels.changed.tolist() == [0]
        labels.retrain()
        wait_for(labels, "finished")
    assert model.about()["classes"] == [0, 1]


def test_regressors_have_no_journal(images, tmp_path, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra app")
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), Ridge()).fit(
        images, np.arange(24.0)
    )
    save_pipeline(pipeline, tmp_path / "model.joblib")
    source = Source(images, None, None, None, [f"{i}.png" for i in range(24)], "array")
    run_server(tmp_path / "model.joblib", port=0, with_page=True, training=source, batch_size=1)
    assert {path.name for path in tmp_path.iterdir()} == {"model.joblib"}
