"""Selection, fine-tuning, maps, files and export of models on vision transformers of KerasHub."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.hub_helpers import SIZE, make_preset
from tests.networks import make_images, run
from tlfeatures import CNNFeatures, FineTuneClassifier, explain, select
from tlfeatures.saved_models import load_model, save_model

pytestmark = pytest.mark.slow
pytest.importorskip("keras_hub", reason='needs keras-hub: pip install "tlfeatures[hub]"')

X = make_images(12, SIZE)
Y = np.array(["disc", "bar"])[np.arange(len(X)) % 2]
X[Y == "bar", 8:16] = 250


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    return {name: make_preset(name, folder / name) for name in ("dinov2", "vit", "clip", "siglip")}


def fit_pipeline(model, **options):
    return make_pipeline(CNNFeatures(model, cache=None, **options), LogisticRegression()).fit(X, Y)


def test_select_compares_blocks(presets, tmp_path):
    result = select(
        X, Y, models=presets["dinov2"], poolings=("avg", "clsavg"), heads="ridge", cv=2, image_sizes=None,
        resize="stretch", learning_curve=False, cache=tmp_path,
    )  # fmt: skip
    layers = [params["layer"] for params in result.cv_results_["params"]]
    assert all(layer in layers for layer in ("block_1", "block_2", "block_3", "norm"))
    save_model(result.best_estimator_, tmp_path / "best.tlf")
    np.testing.assert_array_equal(load_model(tmp_path / "best.tlf").predict(X).values, result.predict(X))


@pytest.mark.parametrize("name", ["dinov2", "vit", "clip", "siglip"])
def test_fine_tuning_from_a_block(presets, name, tmp_path):
    model = FineTuneClassifier(
        presets[name], train_from="block_2", epochs=1, head_epochs=1, learning_rate=0.01, cache=None
    ).fit(X, Y)
    expected, n_trained = model.predict_proba(X), {}
    np.testing.assert_allclose(model.to_pipeline().predict_proba(X), expected, atol=1e-6)
    for whole in (False, True):
        model.save(tmp_path / "model.tlf", whole=whole)
        np.testing.assert_array_equal(
            FineTuneClassifier.load(tmp_path / "model.tlf").predict_proba(X), expected
        )
        n_trained[whole] = (tmp_path / "model.tlf").stat().st_size
    assert n_trained[False] < n_trained[True]
    code = """
        import sys, numpy as np
        from tlfeatures import FineTuneClassifier
        path, images, probabilities = sys.argv[1:]
        model = FineTuneClassifier.load(path)
        np.save(probabilities, model.predict_proba(np.load(images)))
    """
    if name == "vit":  # its layers leave arguments out of their configuration
        np.save(tmp_path / "images.npy", X)
        run(code, *(str(tmp_path / file) for file in ("model.tlf", "images.npy", "probabilities.npy")))
        np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "clsavg", "max"])
def test_pipeline_of_a_fine_tuned_network(presets, pooling, tmp_path):
    model = FineTuneClassifier(
        presets["dinov2"], pooling=pooling, start="linear", epochs=0, validation_fraction=0, cache=None
    ).fit(X, Y)
    joblib.dump(model.to_pipeline(), tmp_path / "model.joblib")
    probabilities = joblib.load(tmp_path / "model.joblib").predict_proba(X)
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-6)


def test_maps_of_patches_add_up_to_the_decision_value(presets):
    for name in ("dinov2", "siglip"):
        pipeline = fit_pipeline(presets[name])
        result = explain(pipeline, X[:2], label="disc")
        assert result.maps.shape == (2, 4, 4) and result.method == "exact"
        sums = result.maps.mean((1, 2)) + result.constants
        np.testing.assert_allclose(sums, pipeline.decision_function(X[:2]), atol=1e-5)
        assert np.ptp(result.maps) > 0
    with pytest.raises(ValueError, match=r"explain needs tokens of patches.*got pooling='cls'"):
        explain(fit_pipeline(presets["vit"], pooling="cls"), X[:2])
    with pytest.raises(ValueError, match=r"'projection' has the shape \(10,\), so it has no positions"):
        explain(fit_pipeline(presets["clip"], layer="projection"), X[:2])


@pytest.mark.parametrize(("name", "options"), [("vit", {"pooling": "clsavg"}), ("siglip", {"layer": "head"})])
def test_export_to_onnx(presets, name, options, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    from tlfeatures.export import export_onnx

    exported = export_onnx(fit_pipeline(presets[name], **options), tmp_path / "model.onnx", data=X)
    assert exported.self_test.largest_difference < 1e-4


def test_a_saved_pipeline_in_a_second_process(presets, tmp_path):
    pipeline = fit_pipeline(presets["clip"], layer="projection")
    save_model(pipeline, tmp_path / "model.tlf")
    np.save(tmp_path / "images.npy", X)
    code = """
        import sys, numpy as np
        from tlfeatures.saved_models import load_model
        folder = sys.argv[1]
        labels = load_model(f"{folder}/model.tlf").predict(np.load(f"{folder}/images.npy")).values
        print(" ".join(labels))
    """
    assert run(code, str(tmp_path)).split() == pipeline.predict(X).tolist()
