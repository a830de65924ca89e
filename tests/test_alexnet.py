"""AlexNet: equality with a network of PyTorch at every layer, and the reading of its checkpoint."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

from tests.networks import make_images, relative_difference
from tlfeatures import CNNFeatures, list_layers
from tlfeatures._keras import keras
from tlfeatures.errors import MissingDependencyError, WeightsError
from tlfeatures.networks import NETWORKS, find_weights, layer_table
from tlfeatures.networks._custom import find_preprocessing

CONVOLUTIONAL = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
FULLY_CONNECTED = ["fc6", "fc7", "fc8", "predictions"]


@pytest.fixture(scope="module")
def reference():
    """Layers of AlexNet in PyTorch, as in torchvision's checkpoint, written independently of the Keras network."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    nn = torch.nn
    torch.manual_seed(0)
    features = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    classifier = [
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, 1000),
    ]  # fmt: skip
    parts = {"features": nn.Sequential(*features), "classifier": nn.Sequential(*classifier)}
    network = nn.ModuleDict(parts).eval()
    with torch.no_grad():  # larger than PyTorch's initial weights, so that images differ in the last layers
        for parameter in network.parameters():
            parameter.mul_(1.8)
    return network


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    """A checkpoint whose name has the start of its digest."""
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save(reference.state_dict(), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = tmp_path_factory.mktemp("alexnet") / f"alexnet-{digest[:8]}.pth"
    path.write_bytes(buffer.getvalue())
    yield path
    path.unlink()  # 240 MB


def run_reference(reference, X):
    """Return the output of each layer, with its ReLU, by its name in tlfeatures."""
    torch = pytest.importorskip("torch")
    names = {1: "conv1", 2: "pool1", 4: "conv2", 5: "pool2", 7: "conv3", 9: "conv4", 11: "conv5", 12: "pool5"}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(((X / 255 - mean) / std).astype("float32")).permute(0, 3, 1, 2)
    outputs = {}
    with torch.inference_mode():
        for i, module in enumerate(reference["features"]):
            x = module(x)
            if i in names:
                outputs[names[i]] = x.permute(0, 2, 3, 1)
        x = torch.flatten(torch.nn.AdaptiveAvgPool2d((6, 6))(x), 1)
        for i, module in enumerate(reference["classifier"]):
            x = module(x)
            if i in (2, 5, 6):
                outputs[{2: "fc6", 5: "fc7", 6: "fc8"}[i]] = x
        outputs["predictions"] = torch.softmax(x, dim=1)
    return {name: y.numpy() for name, y in outputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 110])
def test_every_layer_equals_that_of_pytorch(reference, checkpoint, size):
    if size != 224 and not hasattr(keras().layers, "AdaptiveAveragePooling2D"):
        pytest.skip("needs a newer Keras")
    X = make_images(3, size)
    expected = run_reference(reference, X)
    layers = CONVOLUTIONAL + FULLY_CONNECTED
    cnn = CNNFeatures(
        "alexnet", layer=layers, weights=checkpoint, image_size=size, cache=None, pooling="flatten"
    )
    features = cnn.fit_transform(X)
    start = 0
    for layer in layers:
        theirs = expected[layer].reshape(3, -1)
        ours = features[:, start : start + theirs.shape[1]]
        assert relative_difference(ours, theirs) < 1e-4, layer
        # the comparison is sensitive
        assert np.abs(theirs[0] - theirs[1]).max() > 1e-2 * np.abs(theirs).max(), layer
        start += theirs.shape[1]
    assert start == features.shape[1]


@pytest.mark.slow
def test_the_network_without_its_top_and_at_its_smallest_size(reference, checkpoint):
    X = make_images(2, 63)
    expected = run_reference(reference, X)["pool5"].mean((1, 2))
    ours = CNNFeatures("AlexNet", weights=checkpoint, image_size=63, cache=None).fit_transform(X)
    assert relative_difference(ours, expected) < 1e-4
    with pytest.raises(
        ValueError, match="alexnet cannot take images of 62x62 pixels: Input size must be at least 63x63"
    ):
        CNNFeatures("alexnet", weights=checkpoint, image_size=62, cache=None).fit(X)


def test_layers():
    layers = list_layers("alexnet")
    assert [
        name for name in layers if name in CONVOLUTIONAL + FULLY_CONNECTED
    ] == CONVOLUTIONAL + FULLY_CONNECTED
    rows = {row["layer"]: row for row in layer_table("alexnet")}
    assert rows["pool5"]["shape"] == (6, 6, 256)
    sizes = {"shape": (4096,), "width": 4096}
    assert rows["fc6"] == {
        "layer": "fc6",
        "type": "Dense",
        **sizes,
        "standard": False,
        "fully_connected": True,
    }
    assert rows["fc7"]["shape"] == (4096,)


@pytest.mark.slow
def test_the_digest_in_the_name_is_checked(checkpoint, tmp_path):
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / checkpoint.name
    path.write_bytes(damaged)
    message = rf"Cannot load the weights file .*its SHA-256 digest is .*, but its name says {path.stem[-8:]}"
    with pytest.raises(WeightsError, match=message):
        CNNFeatures("alexnet", weights=path, cache=None).fit(make_images(1, 224))


@pytest.mark.slow
def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": Malicious()}, path)
    with pytest.raises(WeightsError, match="Cannot load the weights file"):
        CNNFeatures("alexnet", weights=path, cache=None).fit(make_images(1, 224))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_checkpoints_of_other_networks(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(3, 2)}, path)
    with pytest.raises(
        WeightsError, match=r"Cannot load the weights file .* or has a top for another image size"
    ):
        CNNFeatures("alexnet", weights=path, cache=None).fit(make_images(1, 224))
    with pytest.raises(
        WeightsError, match="is a checkpoint of PyTorch, which only 'alexnet' can read; for 'mobilenet"
    ):
        CNNFeatures("mobilenet_0.25", weights=path, image_size=32, cache=None).fit(make_images(1, 32))


def test_without_pytorch_the_error_has_the_command(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"needs PyTorch: pip install torch\."):
        CNNFeatures("alexnet", weights=path, cache=None).fit(make_images(1, 224))


def test_sizes_that_need_adaptive_pooling_are_refused_without_it(monkeypatch):
    monkeypatch.delattr("keras.layers.AdaptiveAveragePooling2D", raising=False)
    assert layer_table("alexnet", 224)
    with pytest.raises(
        ValueError, match=r"alexnet cannot take images of 96x96 pixels: .* Use image_size=224, or inst"
    ):
        layer_table("alexnet", 96)


def test_the_published_checkpoint_is_found_downloaded_and_checked(tmp_path, monkeypatch):
    name = "alexnet-owt-7be5be79.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    requested = []

    def respond(request, timeout):
        requested.append(request.full_url)
        response = io.BytesIO(b"a page of a proxy")
        response.headers = {"Content-Length": "17"}
        return response

    monkeypatch.setattr("urllib.request.urlopen", respond)
    with pytest.raises(
        WeightsError, match=rf"but its name says 7be5be79.*Expected the file {name} in .*keras"
    ):
        CNNFeatures("alexnet", cache=None).fit(make_images(1, 224))
    assert requested == [f"https://download.pytorch.org/models/{name}"]
    assert not list((tmp_path / "keras").rglob("*.pth"))  # what was downloaded is discarded

    spec = NETWORKS["alexnet"]
    for folder in (tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "keras" / "models"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        for top in (False, True):
            assert find_weights(spec, top=top, image_size=(224, 224)) == folder / name


def test_other_networks_with_layers_of_these_names_are_not_alexnet():
    """A model trained on other values must not silently get AlexNet's normalization."""
    layers = keras().layers
    names = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "pool5"]
    inputs = keras().Input((8, 8, 3))
    model = keras().Sequential([inputs, *(layers.Conv2D(2, 1, name=name) for name in names)], name="alexnet")
    assert find_preprocessing(model) is None
