"""Mean embeddings of several views of each image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from tests.networks import make_images
from tlfeatures import CNNFeatures, explain
from tlfeatures.errors import RecipeMismatchError, UnknownNameError, UnreadableImagesWarning
from tlfeatures.features import embed
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
    with pytest.raises(
        UnknownNameError, match=r"`views` must be None, 'flip', 'crops' or 'flip\+crops'; got 'flips'"
    ):
        make_cnn("flips").fit(X)


def test_unreadable_images_have_rows_of_nan(photos, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    paths = [photos.paths[0], str(tmp_path / "text.jpg"), photos.paths[1]]
    with pytest.warns(UnreadableImagesWarning, match="1 of 3 images") as caught:
        features = make_cnn("flip", on_error="nan").fit_transform(paths)
    assert len(caught) == 1
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]
    expected = make_cnn("flip").fit_transform([photos.paths[1]])
    np.testing.assert_allclose(features[2:], expected, rtol=1e-4, atol=1e-6)


def test_maps_of_views_are_refused():
    pipeline = make_pipeline(make_cnn("flip"), LinearSVC()).fit(X, [0, 1, 0, 1])
    with pytest.raises(
        ValueError, match="explain needs `views=None`, because views have different positions; got 'flip'"
    ):
        explain(pipeline, X)
