"""Exported files: their predictions in ONNX Runtime equal those of the model."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from tests.image_helpers import photo
from tlfeatures import CNNFeatures, ConformalClassifier, FineTuneClassifier, FineTuneRegressor, SkipUnreadable
from tlfeatures.calibration import CalibratedHead
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError
from tlfeatures.export import export_onnx
from tlfeatures.export._heads import convert_finetuned_head, convert_head
from tlfeatures.export._self_test import check_head
from tlfeatures.finetune import FineTunedModel
from tlfeatures.heads import BlockScaler, make_head
from tlfeatures.saved_models import save_model, save_pipeline

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")
pytest.importorskip("tf2onnx")
pytestmark = pytest.mark.slow

PATTERNS = np.random.default_rng(0).integers(0, 256, (48, 4, 4, 3), dtype="uint8")
X = PATTERNS.repeat(8, axis=1).repeat(8, axis=2)
RANKS = PATTERNS.mean(axis=(1, 2, 3)).argsort().argsort()
THREE = np.array(["bright", "dark", "medium"])[[1, 2, 0]][RANKS * 3 // 48]
TWO = RANKS * 2 // 48
NUMBERS = PATTERNS.mean(axis=(1, 2, 3)) / 7


def run(path, pixels):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))


def fit(head, y, model="tiny", **params):
    cnn = CNNFeatures(model, **{"image_size": 32, "cache": None} | params)
    return make_pipeline(cnn, head).fit(X, y)


def metadata(path):
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("y", [THREE, TWO], ids=["three", "two"])
@pytest.mark.parametrize("name", ["logreg", "linear_svm", "svm", "ridge"])
def test_calibrated_heads(name, y, tmp_path):
    head = make_head(name)
    model = fit(head if name == "logreg" else CalibratedHead(head), y)
    result = export_onnx(model, tmp_path / "model.onnx")
    assert result.outputs == ("label", "probabilities")
    assert result.self_test.images == "generated"
    assert result.self_test.n_images == 64
    outputs = run(result.path, X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-5)
    for n in (1, 3):  # the batch dimension is free
        np.testing.assert_allclose(
            run(result.path, X[:n])["probabilities"], outputs["probabilities"][:n], atol=1e-5
        )


@pytest.mark.parametrize("y", [THREE, TWO], ids=["three", "two"])
def test_heads_without_probabilities_have_a_value_for_each_class(y, tmp_path):
    model = fit(make_head("svm"), y)
    result = export_onnx(model, tmp_path / "model.onnx")
    assert result.outputs == ("label", "scores")
    outputs, values = run(result.path, X), model.decision_function(X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))
    values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
    np.testing.assert_allclose(outputs["scores"], values, atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [
        CalibratedClassifierCV(LinearSVC(), cv=3),
        CalibratedHead(make_pipeline(StandardScaler(), LinearSVC())),
    ],
    ids=["scikit-learn", "temperature"],
)
def test_calibrated_linear_svc(head, tmp_path):
    model = fit(head, TWO)
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("name", ["ridge", "svr", "linear"])
def test_regression(name, tmp_path):
    model = fit(make_head(name, "regression"), NUMBERS)
    result = export_onnx(model, tmp_path / "model.onnx", data=X)
    assert (result.task, result.outputs, result.classes) == ("regression", ("prediction",), None)
    np.testing.assert_allclose(run(result.path, X)["prediction"], model.predict(X), atol=2e-3)


@pytest.mark.parametrize("params", [{"with_mean": False}, {"with_std": False}])
def test_scaled_targets(params):
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(30, 5)), rng.normal(3, 2, size=30)
    regressor = TransformedTargetRegressor(Ridge(), transformer=StandardScaler(**params))
    head = make_pipeline(StandardScaler(), regressor).fit(rows, y)
    check_head(convert_head(head, 5).SerializeToString(), head, np.zeros(5), np.ones(5))


def test_several_layers_with_fusion_and_both_poolings(tmp_path):
    layers = ["block3_pw_relu", "block10_pw_relu"]
    widths = CNNFeatures("tiny", layer=layers, pooling="avgmax", image_size=32, cache=None).fit(X).recipes_
    head = make_pipeline(
        BlockScaler([r["width"] for r in widths]), CalibratedHead(make_pipeline(PCA(5), SVC()))
    )
    model = fit(head, THREE, layer=layers, pooling="avgmax")
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.RandomWeightsWarning")
@pytest.mark.parametrize(
    ("network", "layer", "pooling"),
    [
        ("vgg16", "block1_pool", "gem"),  # blue, green, red minus means
        ("efficientnet_b0", "stem_activation", "max"),  # Normalization with statistics in the network
        ("mobilenet_v2", "expanded_conv_project_BN", "flatten"),  # -1..1
        ("densenet121", "conv1_relu", "avg"),  # mean and standard deviation
        ("convnext_tiny", "convnext_tiny_stage_0_block_0_gelu", "avg"),  # grouped convolution, exact GELU
    ],
)
def test_the_normalization_is_in_the_graph(network, layer, pooling, tmp_path):
    model = fit(LogisticRegression(), THREE, network, layer=layer, pooling=pooling, weights=None)
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)


def test_a_normalization_of_ones_own(tmp_path):
    model = fit(LogisticRegression(), THREE, normalization=((0.4, 0.5, 0.6), (0.2, 0.3, 0.1)))
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)


def test_heads_that_predict_something_else_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(
        InvalidParameterError, match=r"would not predict as the model.*Heads that can be exported: logreg"
    ):
        export_onnx(fit(LinearDiscriminantAnalysis(), TWO), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_layers_that_cannot_be_converted_are_refused(tmp_path):
    import keras

    pixels = keras.Input((32, 32, 3))
    network = keras.Model(pixels, keras.layers.Conv2D(6, 3, groups=3, name="grouped")(pixels))
    model = fit(make_head("logreg"), THREE, network, layer="grouped")
    with pytest.raises(
        InvalidParameterError, match=r"cannot be converted to ONNX.*PartitionedCall.*another network"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_computes_something_else_is_refused_and_nothing_is_written(tmp_path):
    import keras

    class Settings:
        factor = 1.0

    pixels = keras.Input((32, 32, 3))
    scale = keras.layers.Lambda(lambda x: x * Settings.factor, name="scale")
    network = keras.Model(pixels, scale(keras.layers.Conv2D(8, 3, name="conv")(pixels)))
    model = fit(make_head("logreg"), THREE, network, layer="scale")
    Settings.factor = -1.0  # the compiled network has the earlier value
    with pytest.raises(
        InvalidParameterError, match=r"would not predict as the model does.*\d+ of 64 images get another"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_refused_model_keeps_existing_files(tmp_path):
    for name in ("model.onnx", "model.py"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidParameterError, match="would not predict"):
        export_onnx(fit(LinearDiscriminantAnalysis(), TWO), tmp_path / "model.onnx", overwrite=True)
    assert [(tmp_path / name).read_text() for name in ("model.onnx", "model.py")] == ["mine", "mine"]


def test_given_images_must_be_readable(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InvalidParameterError, match="`data` has no image that can be read"):
        export_onnx(
            fit(make_head("logreg"), TWO), tmp_path / "model.onnx", data=[str(tmp_path / "broken.png")]
        )
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_fine_tuned_networks(kind, tmp_path):
    estimator = FineTuneClassifier if kind == "classes" else FineTuneRegressor
    model = estimator(
        "tiny", image_size=32, head=[8, 0.5], head_epochs=2, train_from="block10_dw", epochs=1, cache=None,
        random_state=0,
    ).fit(X, THREE if kind == "classes" else NUMBERS)  # fmt: skip
    save_model(model, tmp_path / "model.tlf")
    result = export_onnx(tmp_path / "model.tlf", tmp_path / "model.onnx", data=X)
    assert result.self_test.images == "given"
    outputs = run(result.path, X)
    if kind == "classes":
        np.testing.assert_array_equal(outputs["label"], model.predict(X))
        np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)
    else:
        np.testing.assert_allclose(outputs["prediction"], model.predict(X), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "classes", [["a", "é"], [False, True], [3, 7]], ids=["strings", "booleans", "integers"]
)
@pytest.mark.parametrize("dtype", [None, object], ids=["array", "objects"])  # those of pandas are objects
def test_labels_of_fine_tuned_networks(classes, dtype):
    head = convert_finetuned_head(FineTunedModel(None, np.array(classes, dtype)), 2)
    head.ir_version = 8  # as in the file
    session = onnxruntime.InferenceSession(head.SerializeToString())
    labels, probabilities = session.run(None, {"embedding": np.array([[9, 0], [0, 9]], "float32")})
    assert labels.tolist() == classes
    np.testing.assert_allclose(probabilities, np.eye(2), atol=1e-3)


def test_labels_that_are_objects(tmp_path):
    model = fit(make_head("logreg"), np.where(TWO, "é", "a").astype(object))
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    assert outputs["label"].tolist() == model.predict(X).tolist()


def test_prediction_sets_are_named_as_not_included(tmp_path):
    model = ConformalClassifier(fit(make_head("logreg"), TWO), error_rate=0.2, cv=3).fit(X, TWO)
    with pytest.warns(
        UserWarning, match="does not contain prediction sets and outlier flags, which the model"
    ):
        result = export_onnx(model, tmp_path / "model.onnx")
    assert result.omitted == ("prediction sets", "outlier flags")
    assert metadata(result.path)["not_included"] == ["prediction sets", "outlier flags"]
    np.testing.assert_array_equal(run(result.path, X)["label"], model.predict(X))


def test_a_head_that_skips_unreadable_images(tmp_path):
    model = fit(SkipUnreadable(make_head("logreg")), THREE, on_error="nan")
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))


def test_metadata(tmp_path):
    model = fit(CalibratedHead(make_head("svm")), THREE, resize="crop", interpolation="bicubic")
    about = metadata(export_onnx(model, tmp_path / "model.onnx").path)
    assert about["classes"] == ["bright", "dark", "medium"]
    assert about["preprocessing"]["image_size"] == [32, 32]
    assert (about["preprocessing"]["resize"], about["preprocessing"]["interpolation"]) == ("crop", "bicubic")
    assert about["preprocessing"]["exif_orientation"] == "applied before resizing"
    assert about["recipes"] == model[0].recipes_
    assert about["weights_licence"] == "Apache-2.0"
    assert about["head"] == "CalibratedHead(StandardScaler, SVC)"
    assert {"tlfeatures", "keras", "scikit-learn", "onnx", "skl2onnx", "tf2onnx"} <= set(about["versions"])


def test_the_script_predicts_as_the_model_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(90, 61).save(tmp_path / "a.png")
    photo(300, 200, seed=1).save(tmp_path / "rotated.jpg", exif=exif)
    files = [str(tmp_path / name) for name in ("a.png", "rotated.jpg")]
    model = fit(CalibratedHead(make_head("linear_svm")), THREE, resize="pad")
    result = export_onnx(model, tmp_path / "model.onnx")
    process = subprocess.run(
        [sys.executable, result.script, *files], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    rows = [line.split("\t") for line in process.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        [file, label] for file, label in zip(files, model.predict(files), strict=True)
    ]
    probabilities = [json.loads(row[2]) for row in rows]
    np.testing.assert_allclose(probabilities, model.predict_proba(files), atol=1e-4)
    usage = subprocess.run([sys.executable, result.script], capture_output=True, text=True, check=False)
    assert "python model.py IMAGE" in usage.stderr


@pytest.mark.parametrize("name", ["logreg", "ridge"])
def test_openvino_predicts_the_same(name, tmp_path):
    openvino = pytest.importorskip("openvino")
    head = make_head(name)
    model = fit(head if name == "logreg" else CalibratedHead(head), THREE)
    path = export_onnx(model, tmp_path / "model.onnx").path
    config = {"INFERENCE_PRECISION_HINT": "f32"}  # by default bfloat16 on processors that have it
    outputs = openvino.compile_model(path, "CPU", config)(X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-4)


def test_the_export_changes_nothing_in_the_model_and_in_numpy(tmp_path):
    import keras

    pixels = keras.Input((32, 32, 3))
    y = keras.layers.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])(pixels)
    network = keras.Model(pixels, keras.layers.Conv2D(8, 3, activation="relu", name="conv")(y))
    model = fit(LogisticRegression(), THREE, network, layer="conv")
    before = model.predict_proba(X)
    outputs = run(export_onnx(model, tmp_path / "model.onnx").path, X)
    np.testing.assert_allclose(outputs["probabilities"], before, atol=1e-4)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert "object" not in vars(np)


def test_command(tmp_path, capsys):
    save_pipeline(fit(CalibratedHead(make_head("svm")), THREE), tmp_path / "model.tlf")
    for i, image in enumerate(X[:5]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    command = ["export", str(tmp_path / "model.tlf"), "-o", str(tmp_path / "out.onnx")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Input: pixels, uint8 RGB (n, 32, 32, 3). Outputs: label, probabilities." in out
    assert "Self-test with 64 generated images: same labels; probabilities differ by at most" in out
    assert (tmp_path / "out.py").is_file()
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force", "--json", "--data", str(tmp_path)]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["self_test"]["n_images"] == 5
    assert about["self_test"]["images"] == "given"


def test_the_command_refuses_neighbors_with_the_fix(tmp_path, capsys):
    save_pipeline(fit(make_head("knn"), THREE), tmp_path / "model.tlf")
    assert main(["export", str(tmp_path / "model.tlf"), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "tlfeatures fit --head" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_other_backends_are_refused_with_the_fix(tmp_path, monkeypatch):
    model = fit(make_head("logreg"), THREE)
    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    with pytest.raises(
        ValueError, match=r"needs the TensorFlow backend of Keras; got 'torch'\. Set KERAS_BACKEND=tensorflow"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
