"""Maps of the regions of images that support a prediction: exact, by gradient and by occlusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import quote

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, OneClassSVM

from tests.networks import make_images
from tlfeatures import (
    CNNFeatures,
    ConformalClassifier,
    FineTuneClassifier,
    FineTuneRegressor,
    SkipUnreadable,
    explain,
)
from tlfeatures.calibration import CalibratedHead
from tlfeatures.cli import main
from tlfeatures.errors import ImageReadError, InvalidParameterError, UnknownNameError, UnreadableImagesWarning
from tlfeatures.heads import BlockScaler, MeanRBFKernel, make_head
from tlfeatures.saved_models import save_pipeline

LAYERS = ["block6_pw_relu", "block10_pw_relu"]  # maps of 4x4 with 256 and 320 channels
Y = np.array(["a", "b", "c"] * 8)
X = make_images(24, 64)
X[Y == "b", :24, :24] = 255  # what distinguishes the classes
X[Y == "c", -24:, -24:] = 0


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """Embeddings by pooling, and a function that makes a fitted pipeline from a head."""
    cache = {}
    folder = tmp_path_factory.mktemp("store")

    def make(head, pooling="avg", layer=None, rows=slice(None), y=Y):
        key = pooling, str(layer)
        if key not in cache:
            cnn = CNNFeatures("tiny", image_size=64, layer=layer, pooling=pooling, cache=folder, batch_size=8)
            cache[key] = cnn, cnn.fit_transform(X)
        cnn, features = cache[key]
        return Pipeline([("cnn", cnn), ("head", clone(head).fit(features[rows], y[rows]))])

    return make


def scaled(head):
    return make_pipeline(StandardScaler(), head)


LINEAR = {
    "multinomial": scaled(LogisticRegression()),
    "one-vs-rest": scaled(OneVsRestClassifier(LogisticRegression())),
    "linear SVM": make_pipeline(BlockScaler(), LinearSVC()),
    "without standardization": RidgeClassifier(),
    "named ridge": make_head("ridge"),
    "calibrated": CalibratedHead(make_head("ridge"), cv=2),
    "search of the head": GridSearchCV(
        scaled(LogisticRegression()), {"logisticregression__C": [0.1, 1]}, cv=2
    ),
    "rows without images": SkipUnreadable(scaled(LinearSVC())),
    "principal components": make_pipeline(StandardScaler(), "passthrough", PCA(5), LogisticRegression()),
}


@pytest.mark.parametrize("name", LINEAR)
def test_maps_of_linear_heads_add_up_to_the_decision_value(embeddings, name):
    pipeline = embeddings(LINEAR[name])
    result = explain(pipeline, X[:4])
    assert (result.method, result.value) == ("exact", "decision value")
    assert result.maps.shape == (4, 4, 4)
    decision = pipeline.decision_function(X[:4])
    expected = decision[np.arange(4), decision.argmax(axis=1)]
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, expected, atol=1e-4)
    np.testing.assert_allclose(result.values, expected, atol=1e-4)
    assert result.labels.tolist() == result.predictions.tolist() == pipeline.predict(X[:4]).tolist()


@pytest.mark.parametrize("layer", [None, LAYERS], ids=["one layer", "two layers"])
@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem", "flatten"])
def test_maps_of_all_poolings_are_exact(embeddings, pooling, layer):
    pipeline = embeddings(scaled(LogisticRegression()), pooling, layer)
    for label in ("a", "c"):
        result = explain(pipeline, X[:4], label=label)
        assert result.method == "exact"
        expected = pipeline.decision_function(X[:4])[:, "abc".index(label)]
        np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, expected, atol=1e-4)


def test_average_pooling_gives_class_activation_maps(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()))
    maps = CNNFeatures("tiny", image_size=64, pooling="flatten", cache=None).fit_transform(X[:4])
    weights = pipeline["head"][-1].coef_[1] / pipeline["head"][0].scale_
    expected = maps.reshape(4, 4, 4, -1) @ weights
    np.testing.assert_allclose(explain(pipeline, X[:4], label="b").maps, expected, atol=1e-4)


def test_maximum_pooling_maps_only_the_positions_of_the_maxima(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()), "max")
    maps = CNNFeatures("tiny", image_size=64, pooling="flatten", cache=None).fit_transform(X[:4])
    maps = maps.reshape(4, 16, -1)
    weights = pipeline["head"][-1].coef_[1] / pipeline["head"][0].scale_
    for activations, result in zip(maps, explain(pipeline, X[:4], label="b").maps, strict=True):
        winners = activations.argmax(axis=0)
        expected = np.bincount(winners, weights * activations.max(axis=0), minlength=16)
        np.testing.assert_allclose(result.ravel() / 16, expected, atol=1e-5)


def test_the_two_classes_of_a_binary_head_have_opposite_maps(embeddings):
    rows = Y != "c"
    pipeline = embeddings(scaled(LinearSVC()), rows=rows)
    maps = {label: explain(pipeline, X[:2], label=label) for label in "ab"}
    np.testing.assert_allclose(maps["a"].maps, -maps["b"].maps, atol=1e-8)
    np.testing.assert_allclose(maps["b"].values, pipeline.decision_function(X[:2]), atol=1e-4)


def test_linear_svc_of_several_classes_is_explained_by_its_pairwise_decision_values(embeddings):
    pipeline = embeddings(make_head("linear_svm"))
    result = explain(pipeline, X[:4], label="b")
    assert (result.method, result.value) == ("exact", "mean of the pairwise decision values")
    pipeline["head"][-1].set_params(decision_function_shape="ovo")
    ab, _, bc = pipeline.decision_function(X[:4]).T
    pipeline["head"][-1].set_params(decision_function_shape="ovr")
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, (bc - ab) / 2, atol=1e-4)


NONLINEAR = {
    "RBF SVM": make_head("svm"),
    "nearest neighbors": make_head("knn"),
    "fused layers": make_pipeline(BlockScaler([256, 320]), SVC(kernel=MeanRBFKernel((256, 320)))),
    "calibrated": CalibratedHead(make_head("svm"), cv=2),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_maps_of_other_heads_are_gradients(embeddings, name):
    pipeline = embeddings(NONLINEAR[name], layer=LAYERS)
    result = explain(pipeline, X[1:3])
    assert result.method == "gradient"
    assert result.predictions.tolist() == pipeline.predict(X[1:3]).tolist() == ["b", "c"]
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, result.values)
    assert np.unravel_index(result.maps[0].argmax(), (4, 4)) in {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert np.unravel_index(result.maps[1].argmax(), (4, 4)) in {(2, 2), (2, 3), (3, 2), (3, 3)}


def test_the_gradient_of_a_kernel_is_the_mean_of_its_derivative(embeddings):
    pipeline = embeddings(SVC(gamma=0.01), rows=Y != "c")
    svc, cnn = pipeline["head"], CNNFeatures("tiny", image_size=64, pooling="flatten", cache=None)
    maps = cnn.fit_transform(X[:1]).astype(float).reshape(4, 4, -1)
    embedding = maps.mean(axis=(0, 1))
    derivatives = []
    for share in (np.arange(200) + 0.5) / 200:  # of the line from zero, because nothing centers the embedding
        difference = svc.support_vectors_ - share * embedding
        kernel = np.exp(-0.01 * (difference**2).sum(axis=1))
        derivatives.append(2 * 0.01 * (svc.dual_coef_[0] * kernel) @ difference)
    result = explain(pipeline, X[:1], label="b")
    np.testing.assert_allclose(result.maps[0], maps @ np.mean(derivatives, axis=0), rtol=1e-3, atol=1e-3)
    zero = svc.decision_function(np.zeros((1, 320)))
    np.testing.assert_allclose(result.constants, zero, atol=1e-3)


def test_forests_are_explained_by_occlusion(embeddings):
    pipeline = embeddings(RandomForestClassifier(20, random_state=0))
    result = explain(pipeline, X[1:2])
    assert (result.method, result.value) == ("occlusion", "log odds of the class")
    assert result.maps.any()


def test_occlusion_of_a_linear_head_is_the_exact_map_up_to_a_constant(embeddings):
    for pooling in ("avg", "flatten"):
        pipeline = embeddings(scaled(LogisticRegression()), pooling)
        exact, occlusion = (explain(pipeline, X[:2], method=method) for method in ("exact", "occlusion"))
        np.testing.assert_allclose(occlusion.values, exact.values)
        if pooling == "avg":
            centered = exact.maps - exact.maps.mean(axis=(1, 2), keepdims=True)
            np.testing.assert_allclose(occlusion.maps, centered, atol=1e-6)


def test_occlusion_pools_the_other_positions(embeddings):
    maps = CNNFeatures("tiny", image_size=64, pooling="flatten", cache=None).fit_transform(X[:1])
    others = np.delete(maps.astype(float).reshape(16, -1), 5, axis=0)
    for pooling, pooled in {
        "avg": others.mean(axis=0),
        "max": others.max(axis=0),
        "gem": np.cbrt((np.maximum(others, 1e-6) ** 3).mean(axis=0)),
    }.items():
        pipeline = embeddings(scaled(LogisticRegression()), pooling)
        result = explain(pipeline, X[:1], label="a", method="occlusion")
        value = pipeline["head"].decision_function(pooled[None])[0, 0]
        assert result.maps[0].ravel()[5] == pytest.approx((result.values[0] - value) * 15, abs=1e-4)


def test_regression_and_outlier_detection(embeddings):
    y = np.arange(24.0)
    pipeline = embeddings(scaled(Ridge()), y=y)
    result = explain(pipeline, X[:2])
    assert (result.method, result.value, result.labels) == ("exact", "prediction", None)
    np.testing.assert_allclose(
        result.maps.mean(axis=(1, 2)) + result.constants, pipeline.predict(X[:2]), atol=1e-4
    )
    assert explain(embeddings(scaled(PoissonRegressor()), y=y), X[:2]).method == "gradient"
    assert explain(embeddings(scaled(OneClassSVM())), X[:2]).value == "decision value"
    with pytest.raises(
        InvalidParameterError, match="`label` must be None for a head without classes; got 'a'"
    ):
        explain(pipeline, X[:2], label="a")


def test_each_image_goes_through_the_network_once(embeddings, monkeypatch):
    pipeline = embeddings(scaled(LogisticRegression()))
    batches = []
    compile_network = pipeline["cnn"]._make_spec().backbone.compile

    def counting(self, *args):
        network = compile_network(*args)
        return lambda batch: batches.append(len(batch)) or network(batch)

    monkeypatch.setattr("tlfeatures.networks.Backbone.compile", counting)
    explain(pipeline, X)
    assert sum(batches) == 24


TUNED = {
    "image_size": 64, "epochs": 0, "head_epochs": 1, "batch_size": 24, "cache": None, "random_state": 0
}  # fmt: skip


def test_fine_tuned_networks_with_hidden_layers():
    fine_tuned = FineTuneClassifier("tiny", head=[8], **TUNED).fit(X, Y)
    result = explain(fine_tuned, X[:2], label="b")
    assert (result.method, result.value, result.maps.shape) == (
        "gradient",
        "log odds of the class",
        (2, 4, 4),
    )
    p = fine_tuned.predict_proba(X[:2])[:, 1]
    np.testing.assert_allclose(result.values, np.log(p / (1 - p)), atol=1e-3)
    assert not hasattr(fine_tuned.head_, "coef_") and not hasattr(fine_tuned.head_, "decision_function")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_fine_tuned_networks_without_hidden_layers_are_exact(n_classes):
    y = np.array(["a", "b", "c"])[np.arange(len(X)) % n_classes]
    fine_tuned = FineTuneClassifier("tiny", **TUNED).fit(X, y)
    result = explain(fine_tuned, X[:2], label="b")
    assert (result.method, result.value) == ("exact", "decision value")
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, result.values, atol=1e-4)
    logits = np.log(fine_tuned.predict_proba(X[:2]))
    expected = logits[:, 1] - (logits[:, 0] if n_classes == 2 else logits.mean(axis=1))
    np.testing.assert_allclose(result.values, expected, atol=1e-3)
    assert result.predictions.tolist() == fine_tuned.predict(X[:2]).tolist()


def test_fine_tuned_regressors_without_hidden_layers_are_exact():
    fine_tuned = FineTuneRegressor("tiny", **TUNED).fit(X, np.linspace(10, 20, len(X)))
    result = explain(fine_tuned, X[:2])
    assert (result.method, result.value) == ("exact", "prediction")
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)) + result.constants, result.values, atol=1e-4)
    np.testing.assert_allclose(result.values, fine_tuned.predict(X[:2]), rtol=1e-4)


def test_conformal_classifiers(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()))
    conformal = ConformalClassifier(pipeline, cv=2, false_alarm_rate=None).fit(X, Y)
    result = explain(conformal, X[:1], label="a")
    assert result.method == "exact"
    np.testing.assert_allclose(
        result.maps.mean() + result.constants, conformal.decision_function(X[:1])[:, 0], atol=1e-4
    )


def test_searches(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()))
    search = GridSearchCV(pipeline, {"head__logisticregression__C": [1.0]}, cv=2).fit(X, Y)
    assert explain(search, X[:1]).method == "exact"


def test_unreadable_images_have_no_map(embeddings, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    cnn = CNNFeatures("tiny", image_size=64, cache=None)
    pipeline = make_pipeline(cnn, LogisticRegression()).fit(photos.paths, photos.labels)
    with pytest.warns(UnreadableImagesWarning, match="1 of 2 images could not be read and have no map"):
        result = explain(pipeline, [str(tmp_path / "text.jpg"), photos.paths[0]])
    assert result.rows.tolist() == [1] and result.names == [photos.paths[0]]
    assert result.errors == {0: "not an image in a known format"}
    with (
        pytest.raises(ImageReadError, match="cannot read 1 of 1 images"),
        pytest.warns(UnreadableImagesWarning),
    ):
        explain(pipeline, [str(tmp_path / "text.jpg")])


def test_invalid_input_names_what_is_expected(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()))
    with pytest.raises(
        TypeError, match="expected a fitted scikit-learn Pipeline that begins with CNNFeatures"
    ):
        explain(LogisticRegression(), X)
    with pytest.raises(TypeError, match="KMeans has no values to explain"):
        explain(embeddings(KMeans(2, n_init=1)), X)
    with pytest.raises(UnknownNameError, match=r"Unknown class 'd'\. Valid names: a, b, c"):
        explain(pipeline, X, label="d")
    with pytest.raises(InvalidParameterError, match="`method` must be 'auto', 'exact'"):
        explain(pipeline, X, method="shap")
    with pytest.raises(InvalidParameterError, match="`method='exact'` needs a linear head; got SVC"):
        explain(embeddings(make_head("svm")), X, method="exact")


def draw_square(width, height, corner, side=24):
    """Draw a bright square on a dark image; ``corner`` is its left and top edge."""
    pixels = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype="uint8")
    pixels[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 255
    return pixels


@pytest.fixture(scope="module")
def square_detector():
    """A pipeline for each way of resizing that measures brightness in cells of 8 x 8 pixels."""
    import keras

    inputs = keras.Input((96, 96, 3))
    network = keras.Model(inputs, keras.layers.AveragePooling2D(8, name="cells")(inputs))
    images = [draw_square(96, 96, (8 * i, 40), side=48 * (i % 2)) for i in range(6)]

    def make(resize):
        cnn = CNNFeatures(network, layer="cells", resize=resize, cache=None)
        return make_pipeline(cnn, StandardScaler(), LogisticRegression()).fit(images, ["dark", "square"] * 3)

    return make


def find_center(values, share=0.5):
    """Return x and y of the center of the largest values."""
    y, x = np.nonzero(values >= share * np.nanmax(values))
    return x.mean(), y.mean()


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.LowContrastImagesWarning")
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(192, 96), (96, 192)], ids=["wide", "high"])
def test_maps_lie_over_the_original_image(square_detector, resize, size):
    long = int(np.argmax(size))
    corner = [0, 0]
    corner[long] = 48 if resize == "crop" else 0  # "crop" keeps 48 to 144
    result = explain(square_detector(resize), [draw_square(*size, corner, side=48)], label="square")
    projected = result.project(0)
    assert projected.shape == size[::-1]
    np.testing.assert_allclose(find_center(projected), np.add(corner, 24), atol=4)
    is_outside = np.isnan(projected)
    assert is_outside.any() == (resize == "crop")
    if resize == "crop":
        assert is_outside.sum() == 96 * 96 and is_outside.take(range(48), axis=1 - long).all()


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.LowContrastImagesWarning")
def test_maps_of_rotated_photographs_lie_over_the_upright_image(square_detector, tmp_path):
    upright = Image.fromarray(draw_square(96, 160, (60, 10)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    upright.rotate(90, expand=True).save(tmp_path / "rotated.jpg", exif=exif)
    cnn, *head = square_detector("stretch")
    pipeline = make_pipeline(clone(cnn).fit([str(tmp_path / "rotated.jpg")]), *head)
    result = explain(pipeline, [str(tmp_path / "rotated.jpg")], label="square")
    assert result.project(0).shape == (160, 96)
    np.testing.assert_allclose(find_center(result.project(0)), (72, 22), atol=3)
    drawn = np.asarray(result.draw(0)).astype(int)
    shown = drawn[26:266, 8:152].mean(axis=2)  # the upright image at 144 x 240 pixels
    np.testing.assert_allclose(find_center(shown), (72 * 1.5, 22 * 1.5), atol=5)
    yellow = drawn[26:266, 256:400, 1] - drawn[26:266, 256:400, 2]
    np.testing.assert_allclose(find_center(yellow), (72 * 1.5, 22 * 1.5), atol=5)


def test_nearest_training_images_of_each_class(embeddings):
    pipeline = embeddings(scaled(LogisticRegression()))
    result = explain(pipeline, X[:2], X_train=X, y_train=Y, n_neighbors=2)
    table = result.neighbors
    assert list(table) == ["row", "label", "rank", "training_row", "image", "distance"]
    assert len(table) == 2 * 3 * 2
    Z = pipeline["head"][0].transform(pipeline["cnn"].transform(X))
    for row in (0, 1):
        distances = np.linalg.norm(Z - Z[row], axis=1)
        distances[row] = np.inf  # the image itself is left out
        for label in "abc":
            part = table[(table["row"] == row) & (table["label"] == label)]
            members = np.flatnonzero(label == Y)
            expected = members[np.argsort(distances[members])[:2]]
            assert part["training_row"].tolist() == expected.tolist() and part["rank"].tolist() == [1, 2]
            np.testing.assert_allclose(part["distance"], distances[expected], rtol=1e-4)
    with pytest.raises(ValueError, match="`X_train` and `y_train` must be passed together"):
        explain(pipeline, X[:2], X_train=X)
    with pytest.raises(ValueError, match=r"one label for each of the 24 images .* shape \(3,\)"):
        explain(pipeline, X[:2], X_train=X, y_train=Y[:3])


def test_files_have_the_class_and_its_value_in_their_names(embeddings, photos, tmp_path):
    cnn = CNNFeatures("tiny", image_size=64, cache=None)
    pipeline = make_pipeline(cnn, LogisticRegression()).fit(photos.paths, photos.labels)
    (tmp_path / "text.jpg").write_text("not an image")
    paths = [photos.paths[0], str(tmp_path / "text.jpg"), photos.paths[1]]
    with pytest.warns(UnreadableImagesWarning):
        result = explain(pipeline, paths, X_train=photos.paths, y_train=photos.labels)
    table = result.save(tmp_path / "maps")
    assert list(table) == ["image", "prediction", "label", "value", "constant", "method", "error", "file"]
    assert table["image"].tolist() == paths
    assert table.loc[1, ["prediction", "value", "file"]].isna().all() and table["error"][1].startswith(
        "not an image"
    )
    name = Path(table["file"][0]).name
    assert name == f"0_checks-00_{result.predictions[0]}_{result.values[0]:+#.3g}.png"
    with Image.open(table["file"][0]) as image:
        assert image.format == "PNG" and image.width > 600 and len(image.getcolors(1 << 24)) > 1000
    assert len(list((tmp_path / "maps").iterdir())) == 4
    page = (tmp_path / "maps" / "index.html").read_text("utf-8")
    assert (
        f'src="{quote(name)}"' in page and "text.jpg: not an image" in page and "The maps are exact" in page
    )
    files = pd.read_csv(tmp_path / "maps" / "maps.csv")["file"]
    assert files[0] == name and files.isna().tolist() == [False, True, False]
    other = explain(pipeline, photos.paths[:1], label="stripes")
    assert other.values[0] < 0
    assert other.save(tmp_path / "other")["file"][0].endswith(f"_stripes_{other.values[0]:#.3g}.png")
    shutil.copy(photos.paths[0], path := tmp_path / f"{'x' * 200}.jpg")
    other = explain(pipeline, [str(path)], label="stripes")
    name = Path(other.save(tmp_path / "long")["file"][0]).name
    assert name == f"0_{'x' * 73}_stripes_{other.values[0]:#.3g}.png"


@pytest.fixture(scope="module")
def saved(photos, tmp_path_factory):
    """The file of a saved pipeline with a linear head."""
    path = tmp_path_factory.mktemp("models") / "pipe.joblib"
    cnn = CNNFeatures("tiny", image_size=64, cache=None)
    save_pipeline(make_pipeline(cnn, make_head("logreg")).fit(photos.paths, photos.labels), path)
    return path


def call(capsys, *argv):
    """Run the command; return the exit code, the output and the lines of errors."""
    code = main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, [line for line in err.splitlines() if line.startswith("error: ")]


def test_the_command_writes_one_file_for_each_image(saved, photos, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("not an image")
    items = [photos.paths[0], tmp_path / "text.jpg", photos.paths[1]]
    options = ["--data", photos.root, "--neighbors", "2", "-o", tmp_path / "maps"]
    code, out, errors = call(capsys, "explain", saved, *items, *options, "--json")
    result = json.loads(out)
    assert (code, errors) == (0, [])
    assert result["value"] == "decision value" and result["folder"] == str(tmp_path / "maps")
    first, second, third = result["images"]
    assert [image["path"] for image in (first, second, third)] == list(map(str, items))
    assert first["method"] == "exact" and first["label"] == first["prediction"] == "checks"
    assert Path(first["file"]).is_file() and len(list((tmp_path / "maps").glob("*.png"))) == 2
    assert second["file"] is None and second["error"].startswith("not an image")
    nearest = [(row["label"], row["rank"]) for row in third["neighbors"]]
    assert nearest == [(label, rank) for label in ("checks", "discs", "stripes") for rank in (1, 2)]
    assert photos.paths[1] not in [row["image"] for row in third["neighbors"]]


def test_the_command_prints_a_table(saved, photos, tmp_path, capsys):
    options = ["--label", "discs", "--method", "occlusion", "-o", tmp_path / "maps"]
    code, out, _ = call(capsys, "explain", saved, photos.paths[0], *options)
    assert code == 0 and "occlusion" in out and "discs" in out
    assert f"1 map of the decision value in {tmp_path / 'maps'}." in out
    code, _, errors = call(capsys, "explain", saved, photos.paths[0], *options)
    assert code == 2 and "is not empty. Name another folder, or pass --force." in errors[0]
    assert call(capsys, "explain", saved, photos.paths[0], *options, "--force")[0] == 0


def test_the_command_accepts_file_names_that_are_not_utf_8(saved, photos, tmp_path, capsys, not_utf_8):
    shutil.copy(photos.paths[0], odd := tmp_path / f"{not_utf_8}.jpg")
    code, _, errors = call(capsys, "explain", saved, odd, "-o", tmp_path / "odd")
    assert (code, errors) == (0, [])


def test_the_command_names_what_is_wrong(saved, photos, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("not an image")
    output = ["-o", tmp_path / "maps"]
    code, _, errors = call(capsys, "explain", saved, tmp_path / "text.jpg", *output)
    assert code == 1 and "cannot read 1 of 1 images" in errors[0]
    code, _, errors = call(capsys, "explain", saved, photos.paths[0], "--label", "cats", *output)
    assert code == 2 and "Unknown class 'cats'. Valid names: checks, discs, stripes." in errors[0]
    code, _, errors = call(capsys, "explain", saved, photos.root, "-o", photos.root / "maps")
    assert code == 2 and "so its figures would be read as images. Name another folder." in errors[0]
    code, _, errors = call(capsys, "explain", saved, photos.paths[0], "--method", "shap", *output)
    assert code == 2 and "--method must be 'auto', 'exact', 'gradient' or 'occlusion'" in errors[0]
    for option in (["--neighbors", "2"], ["--target", "label"]):
        code, _, errors = call(capsys, "explain", saved, photos.paths[0], *option, *output)
        assert code == 2 and f"{option[0]} needs --data" in errors[0]
    code, _, errors = call(capsys, "explain", tmp_path / "text.jpg", photos.paths[0], *output)
    assert code == 2 and "expected a scikit-learn Pipeline that begins with CNNFeatures" in errors[0]
    joblib.dump(
        make_pipeline(CNNFeatures("tiny", image_size=32).fit(X), KMeans(2, n_init=1)), tmp_path / "k.joblib"
    )
    code, _, errors = call(capsys, "explain", tmp_path / "k.joblib", photos.paths[0], *output)
    assert code == 2 and "KMeans has no values to explain" in errors[0]
