"""Predictions and scores of fitted models for images, some of which are unreadable."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, FineTuneClassifier, TrainOnViews
from tlfeatures.errors import InvalidParameterError, UnreadableImagesWarning
from tlfeatures.predictions import FittedModel

CNN = {"model": "tiny", "image_size": 32, "cache": None}
pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.UnreadableImagesWarning")


@pytest.fixture(scope="module")
def pipeline(photos):
    return Pipeline([("cnn", CNNFeatures(**CNN)), ("svm", SVC())]).fit(photos.paths, photos.labels)


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad") / "text.jpg"
    path.write_text("not an image")
    return str(path)


def test_unreadable_images_have_an_error_and_no_prediction(pipeline, photos, unreadable):
    model = FittedModel(pipeline)
    with pytest.warns(UnreadableImagesWarning, match="1 of 3 images could not be read"):
        predictions = model.predict([photos.paths[0], unreadable, photos.paths[1]])
    assert predictions.rows.tolist() == [0, 2]
    frame = predictions.to_frame(["a", "b", "c"])
    assert list(frame) == ["path", "prediction", "decision", "error"]
    assert frame["prediction"].tolist() == [photos.labels[0], None, photos.labels[1]]
    assert frame["decision"][1] is None and frame["decision"][0] > 0
    assert frame["error"][0] is None and "not an image" in frame["error"][1]


def test_tables_without_readable_images_have_the_same_columns(pipeline, photos, unreadable):
    classifier = FittedModel(pipeline)
    regressor = Pipeline([("cnn", pipeline[0]), ("ridge", Ridge())]).fit(photos.paths, range(12))
    logistic = Pipeline([("cnn", pipeline[0]), ("svm", SVC(probability=True))]).fit(
        photos.paths, photos.labels
    )
    voting = VotingClassifier([("svm", SVC())])  # has neither probabilities nor decision values
    voting = Pipeline([("cnn", pipeline[0]), ("voting", voting)]).fit(photos.paths, photos.labels)
    for model in (classifier, FittedModel(regressor), FittedModel(logistic), FittedModel(voting)):
        readable, other = (
            model.predict([path]).to_frame(["x"], proba=True) for path in (photos.paths[0], unreadable)
        )
        assert list(other) == list(readable)
        assert other.loc[0, "prediction"] is None and other.loc[0, "error"]


def test_probabilities_of_all_classes(photos):
    pipeline = Pipeline([("cnn", CNNFeatures(**CNN)), ("svm", SVC(probability=True, random_state=0))])
    model = FittedModel(pipeline.fit(photos.paths, photos.labels))
    frame = model.predict(photos.paths).to_frame(photos.paths, proba=True)
    classes = [f"proba_{name}" for name in ("checks", "discs", "stripes")]
    assert list(frame) == ["path", "prediction", "probability", *classes, "error"]
    np.testing.assert_allclose(
        frame[classes].to_numpy(float), pipeline.predict_proba(photos.paths), rtol=1e-4
    )
    of_prediction = [row[f"proba_{row['prediction']}"] for row in frame.to_dict("records")]
    assert frame["probability"].tolist() == of_prediction


def test_evaluation_leaves_out_unreadable_images(pipeline, photos, unreadable):
    y = np.array([*photos.labels[:-1], "zebra", "discs"])
    with pytest.warns(
        UserWarning, match=r"The labels of 1 of 13 images are not classes of the model \(zebra\)"
    ):
        result = FittedModel(pipeline).evaluate([*photos.paths, unreadable], y)
    assert result.scores.accuracy == pytest.approx(11 / 12)
    assert result.scores.classes["class"].tolist() == ["checks", "discs", "stripes", "zebra"]
    assert result.scores.confusion_matrix.sum() == 12
    assert result.n_used_for_training is None
    assert result.describe() == [f"{result.scores.describe()} on 12 images"]
    summary = result.summary()
    assert (summary["task"], summary["evaluated"], list(summary["skipped"])) == ("classification", 12, [12])
    assert summary["accuracy"] == result.scores.accuracy and "conformal" not in summary
    for n in (11, 13):
        with pytest.raises(ValueError, match=rf"for each of the 12 images; got the shape \({n},\)"):
            FittedModel(pipeline).evaluate(photos.paths, np.resize(photos.labels, n))
    with pytest.raises(ValueError, match="None of the images could be read"):
        FittedModel(pipeline).evaluate([unreadable], np.array(["discs"]))
    with pytest.raises(
        InvalidParameterError, match="`y` must be classes of the model; got x; expected checks"
    ):
        FittedModel(pipeline).evaluate(photos.paths, np.array(["x"] * 12))


@pytest.mark.parametrize("label", ["zebra", "2.5"])
def test_evaluation_of_numbered_classes_with_a_label_that_is_not_a_number(photos, label):
    y = np.unique(photos.labels, return_inverse=True)[1]
    fitted = FittedModel(Pipeline([("cnn", CNNFeatures(**CNN)), ("svm", SVC())]).fit(photos.paths, y))
    with pytest.warns(UserWarning, match=rf"1 of 12 images are not classes of the model \({label}\)"):
        result = fitted.evaluate(photos.paths, np.array([*y[:-1].astype(str), label]))
    expected = fitted.evaluate(photos.paths, y.astype(str)).scores
    assert result.scores.accuracy == pytest.approx(expected.accuracy - 1 / 12)
    assert set(result.scores.classes["class"]) == {"0", "1", "2", label}


def test_test_time_augmentation_is_applied(photos):
    tuned = FineTuneClassifier(
        **CNN, start="linear", epochs=0, validation_fraction=0, random_state=0, augment={"crop": 8}, tta=2
    ).fit(photos.paths, photos.labels)
    probabilities = FittedModel(tuned).predict(photos.paths).probabilities
    np.testing.assert_allclose(probabilities, tuned.predict_proba(photos.paths), atol=1e-6)
    without = tuned.to_pipeline().predict_proba(photos.paths)
    assert np.abs(probabilities - without).max() > 1e-3
    np.testing.assert_allclose(without, tuned.set_params(tta=0).predict_proba(photos.paths), atol=1e-5)


def test_predictions_of_a_head_of_keras_layers(photos):
    from keras import layers

    head = [layers.Conv2D(4, 1, activation="relu"), layers.Flatten()]
    tuned = FineTuneClassifier(**CNN, head=head, epochs=1, validation_fraction=0, random_state=0)
    tuned.fit(photos.paths, photos.labels)
    probabilities = FittedModel(tuned).predict(photos.paths).probabilities
    np.testing.assert_allclose(probabilities, tuned.predict_proba(photos.paths), atol=1e-6)


def test_predictions_of_a_pipeline_that_was_trained_on_views(photos):
    cnn = CNNFeatures(**CNN, views="flip")
    model = TrainOnViews(Pipeline([("cnn", cnn), ("svm", SVC())]))
    search = GridSearchCV(model, {"estimator__svm__C": [1]}, cv=2).fit(photos.paths, photos.labels)
    for fitted in (search, search.best_estimator_):
        values = FittedModel(fitted).predict(photos.paths).values
        np.testing.assert_array_equal(values, fitted.predict(photos.paths))


def test_other_objects_raise(photos):
    for other in (SVC(), Pipeline([("svm", SVC())]), {"a": 1}):
        with pytest.raises(TypeError, match="expected a scikit-learn Pipeline that begins with CNNFeatures"):
            FittedModel(other)
