"""Mean embeddings of several views of each image."""

from __future__ import annotations

import shutil

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tests.networks import make_images
from tests.warning_helpers import of_test
from tlfeatures import CNNFeatures, FeatureSearchCV, TrainOnViews, explain
from tlfeatures.calibration import CalibratedHead
from tlfeatures.cli import main
from tlfeatures.errors import (
    ImageReadError,
    InvalidParameterError,
    RecipeMismatchError,
    UnknownNameError,
    UnreadableImagesWarning,
)
from tlfeatures.features import embed, embed_views
from tlfeatures.images import Decoder, Images, list_views

X = make_images(4, 64)


def make_cnn(views=None, **params):
    return CNNFeatures("tiny", **{"image_size": 64, "cache": None, "views": views, **params})


def test_mirrored_views_are_averaged_with_the_images():
    plain, mirrored = make_cnn().fit_transform(X), make_cnn().fit_transform(X[:, :, ::-1])
    np.testing.assert_allclose(make_cnn("flip").fit_transform(X), (plain + mirrored) / 2, rtol=1e-5)
    assert np.abs(plain - mirrored).max() > 0.01


def test_crops_are_averaged_with_the_images():
    crops = [(4, 4), (0, 0), (8, 0), (0, 8), (8, 8)]
    views = [X] + [
        [np.asarray(Image.fromarray(x).crop((a, b, a + 56, b + 56)).resize((64, 64), 2)) for x in X]
        for a, b in crops
    ]
    expected = np.mean([make_cnn().fit_transform(np.stack(view)) for view in views], axis=0)
    np.testing.assert_allclose(make_cnn("crops").fit_transform(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_views_of_images_of_other_proportions(resize):
    wide = np.zeros((40, 80, 3), "uint8")
    wide[:, 70:] = 255
    decoded = {
        view: Images.of([wide]).decode_with_note(0, Decoder((32, 32), resize, view=view))[1]
        for view in list_views("flip+crops")
    }
    np.testing.assert_array_equal(decoded["mirrored"], decoded[""][:, ::-1])
    np.testing.assert_array_equal(decoded["top left mirrored"], decoded["top left"][:, ::-1])
    if resize == "stretch":
        assert not decoded["top left"].any() and decoded["top right"].any()
    assert {pixels.shape for pixels in decoded.values()} == {(32, 32, 3)}


def test_each_view_is_computed_once_and_stored_under_its_own_recipe(store, photos):
    computed = {}
    for views in (None, "flip", "crops", "flip+crops"):
        cnn = make_cnn(views, cache=store).fit(photos.paths)
        computed[views] = embed(cnn, photos.paths).computed
    assert computed == {None: 12, "flip": 12, "crops": 12, "flip+crops": 12}
    n_recipes = len(list((store.root / "v1").iterdir()))
    cnn = make_cnn("flip+crops", cache=store).fit(photos.paths)
    assert embed(cnn, photos.paths).computed == 0
    assert len(list((store.root / "v1").iterdir())) == n_recipes
    reverse = embed(cnn, photos.paths[::-1]).features[::-1]
    np.testing.assert_array_equal(embed(cnn, photos.paths).features, reverse)


def test_an_image_that_changes_between_its_views_is_named(photos, tmp_path):
    path = str(tmp_path / "a.png")
    shutil.copyfile(photos.paths[0], path)
    cnn = make_cnn("flip").fit([path])
    with pytest.raises(ImageReadError, match=r"a.png': the file changed while its views were being read"):
        embed(cnn, [path], on_batch=lambda done, total: shutil.copyfile(photos.paths[1], path))


def test_images_without_views_have_the_same_recipe_as_before():
    recipes = make_cnn().fit(X).recipes_
    assert not any(key.startswith("view") for recipe in recipes for key in recipe)
    assert make_cnn("flip").fit(X).recipes_ == [{**recipe, "views": "flip"} for recipe in recipes]


def test_transform_requires_the_views_of_fit():
    cnn = make_cnn("flip").fit(X)
    assert cnn.n_features_out_ == 320 == len(cnn.get_feature_names_out())
    assert clone(cnn).views == "flip"
    with pytest.raises(RecipeMismatchError, match="views: 'flip' became None"):
        cnn.set_params(views=None).transform(X)
    with pytest.raises(RecipeMismatchError, match="views: 'flip' became None"):
        embed_views(cnn, X)
    with pytest.raises(
        UnknownNameError, match=r"`views` must be None, 'flip', 'crops' or 'flip\+crops'; got 'flips'"
    ):
        make_cnn("flips").fit(X)


def test_unreadable_images_have_rows_of_nan(photos, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    paths = [photos.paths[0], str(tmp_path / "text.jpg"), photos.paths[1]]
    with pytest.warns(UnreadableImagesWarning, match="1 of 3 images") as caught:
        features = make_cnn("flip", on_error="nan").fit_transform(paths)
    assert len(of_test(caught)) == 1
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]
    expected = make_cnn("flip").fit_transform([photos.paths[1]])
    np.testing.assert_allclose(features[2:], expected, rtol=1e-4, atol=1e-6)


def test_maps_of_views_are_refused():
    pipeline = make_pipeline(make_cnn("flip"), LinearSVC()).fit(X, [0, 1, 0, 1])
    with pytest.raises(
        ValueError, match="explain needs `views=None`, because views have different positions; got 'flip'"
    ):
        explain(pipeline, X)


def test_views_as_training_rows(store):
    y = np.array(["a", "b", "a", "b"])
    pipeline = make_pipeline(make_cnn("flip", cache=store), StandardScaler(), LinearSVC())
    model = TrainOnViews(pipeline).fit(X, y)
    plain, mirrored = make_cnn().fit_transform(X), make_cnn().fit_transform(X[:, :, ::-1])
    head = make_pipeline(StandardScaler(), LinearSVC()).fit(np.concatenate([plain, mirrored]), np.tile(y, 2))
    expected = head.decision_function((plain + mirrored) / 2)
    np.testing.assert_allclose(model.decision_function(X), expected, rtol=1e-3)
    np.testing.assert_array_equal(model.pipeline_.decision_function(X), model.decision_function(X))
    assert model.score(X, y) == 1 and model.classes_.tolist() == ["a", "b"] and is_classifier(model)
    assert not hasattr(model, "predict_proba")
    with pytest.raises(NotFittedError):
        TrainOnViews(pipeline).predict(X)


def test_views_stay_in_the_fold_of_their_image(store):
    """A head that remembers its rows recognizes no image of another fold, but each view of its own."""
    seen = []

    class Recorder(LinearSVC):
        def fit(self, X, y):
            seen.append(X)
            return super().fit(X, y)

    pipeline = make_pipeline(make_cnn("flip+crops", cache=store), Recorder())
    search = GridSearchCV(TrainOnViews(pipeline), {"estimator__recorder__C": [1.0]}, cv=2, refit=False)
    search.fit(X, [0, 0, 1, 1])
    views = np.stack(embed_views(make_cnn("flip+crops", cache=store).fit(X), X), axis=1)
    assert [len(rows) for rows in seen] == [24, 24]
    for rows in seen:
        is_seen = [[(rows == view).all(axis=1).any() for view in image] for image in views]
        assert sorted(map(sum, is_seen)) == [0, 0, 12, 12]


def test_calibration_keeps_the_views_of_an_image_in_one_fold(store):
    pipeline = make_pipeline(make_cnn("flip", cache=store), CalibratedHead(LinearSVC(), cv=2))
    with pytest.raises(ValueError, match="all 2 images of class 0 are in one group"):
        TrainOnViews(pipeline).fit(X[:2], [0, 1])  # two rows of each class, but one image
    assert TrainOnViews(pipeline).fit(X, [0, 1, 0, 1]).predict_proba(X).shape == (4, 2)


def test_training_on_views_needs_views():
    for estimator in (LinearSVC(), make_pipeline(make_cnn(), LinearSVC())):
        with pytest.raises(
            InvalidParameterError, match="`estimator` must be a Pipeline that begins with CNNFeatures"
        ):
            TrainOnViews(estimator).fit(X, [0, 1, 0, 1])
    search = make_pipeline(make_cnn("flip"), GridSearchCV(LinearSVC(), {"C": [1]}))
    with pytest.raises(InvalidParameterError, match=r"GridSearchCV\(TrainOnViews\(pipeline\), \.\.\.\)"):
        TrainOnViews(search).fit(X, [0, 1, 0, 1])
    for y, shape in (([0, 1, 0], r"\(3,\)"), (None, r"\(\)")):
        with pytest.raises(ValueError, match=rf"one label for each of the 4 images; got the shape {shape}"):
            TrainOnViews(make_pipeline(make_cnn("flip"), LinearSVC())).fit(X, y)


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
def test_searches_use_views(store, photos):
    options = {
        "image_sizes": 64,
        "resize": "stretch",
        "layers": ["block10_pw_relu"],
        "poolings": ["avg", "max"],
    }
    search = FeatureSearchCV("tiny", heads=["ridge"], views="flip", cv=2, cache=store, **options)
    search.fit(photos.paths, photos.labels)
    cnn = search.best_estimator_["cnn"]
    assert cnn.views == "flip" and cnn.pooling == search.best_params_["pooling"]
    expected = make_cnn("flip", pooling=cnn.pooling).fit_transform(photos.paths)
    np.testing.assert_allclose(search.embeddings(), expected, rtol=1e-4, atol=1e-6)
    assert embed(cnn, photos.paths).computed == 0
    assert search.result().options["views"] == "flip"


def test_commands_have_the_option_views(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    network = ["--model", "tiny", "--image-size", "64", "--views", "flip"]
    paths = {"fit": tmp_path / "pipe.joblib", "embed": tmp_path / "rows.npy"}
    for command, path in paths.items():
        options = ["--cv", "2"] if command == "fit" else []
        assert main([command, str(photos.root), *network, *options, "-o", str(path)]) == 0
    assert joblib.load(paths["fit"])["cnn"].views == "flip"
    images = [str(path) for path in sorted(photos.root.rglob("*.*"))]
    expected = make_cnn("flip").fit_transform(images)
    rows = np.load(paths["embed"])
    np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(expected, axis=0), rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    assert main(["explain", str(paths["fit"]), images[0], "-o", str(tmp_path / "maps")]) == 2
    assert "explain needs no --views, because views have different positions" in capsys.readouterr().err
