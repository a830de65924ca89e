"""CNNFeatures with PyTorch modules: equality with plain PyTorch, identity, and errors."""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import pickle
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, FeatureSearchCV, FineTuneClassifier, embed_images, list_layers
from tlfeatures._torch import TorchFunction
from tlfeatures.errors import InvalidParameterError, RecipeMismatchError, UnknownNameError
from tlfeatures.networks import layer_table
from tlfeatures.selection._candidates import EmbeddingGrid, plan_passes
from tlfeatures.store import EmbeddingStore

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

pytestmark = pytest.mark.slow  # PyTorch comes with `make test-full`

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
X = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def seed():
    """Give modules the same random weights in each run and in each order of the tests."""
    torch.manual_seed(0)


class Residual(nn.Module):
    """A block of a class that is not PyTorch's; its `relu` is called twice."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


def make_network(seed=0, stride=2):
    """Return a network of PyTorch's own classes, with statistics that differ from the initial ones."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3),
        nn.Hardtanh(0, 1.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    network(torch.rand(8, 3, 20, 24))  # in training mode
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), Residual(6), nn.MaxPool2d(2))


def features(module, **options):
    options = {"image_size": (20, 24), "normalization": (MEAN, STD), "cache": None, **options}
    return CNNFeatures(module, **options)


def plain(module, depth):
    """Return the output of the first layers in plain PyTorch, without in-place operations on it."""
    module = copy.deepcopy(module).eval()
    x = (torch.from_numpy(X).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        return module[:depth](x.permute(0, 3, 1, 2)).clone()


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("avg", lambda y: y.mean((2, 3))),
        ("max", lambda y: y.amax((2, 3))),
        ("avgmax", lambda y: torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1)),
        ("gem", lambda y: y.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
        ("flatten", lambda y: y.permute(0, 2, 3, 1).flatten(1)),
    ],
)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_poolings_equal_plain_pytorch(network, pooling, pool, depth):
    result = features(network, layer=str(depth - 1), pooling=pooling).fit_transform(X)
    np.testing.assert_allclose(result, pool(plain(network, depth)).numpy(), rtol=1e-5, atol=1e-5)


def test_vectors_and_lists_of_layers_equal_plain_pytorch(network):
    result = features(network, layer=["7", "1"]).fit_transform(X)
    expected = torch.cat([plain(network, 8), plain(network, 2).mean((2, 3))], 1)
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_paths_inside_submodules_and_tokens():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tokens = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Unflatten(1, (8,)))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.encoder = tokens, nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            return self.encoder(self.patches(x).transpose(1, 2)).mean(1)

    module = Transformer()
    assert features(module).fit(X).layers_ == ["encoder"]  # not the map of patches before
    result = features(module, layer="encoder.layers.1").fit_transform(X)
    x = (torch.from_numpy(X).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(x.permute(0, 3, 1, 2))
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_default_layer_is_the_last_feature_map(network, residual):
    assert features(network).fit(X).layers_ == ["4"]
    assert features(residual).fit(X).layers_ == ["2"]


def test_layers_are_listed_in_the_order_of_computation_without_those_called_twice(residual):
    names = ["0", "1.conv1", "1.bn1", "1.conv2", "1.bn2", "1", "2"]
    assert list_layers(residual) == names
    rows = layer_table(residual, image_size=(20, 24))
    assert rows[-1] | {"layer": "2", "type": "MaxPool2d", "shape": (9, 11, 6), "width": 6} == rows[-1]
    with pytest.raises(UnknownNameError, match=r"layer of Sequential.*'1\.relu'.*called more than once"):
        features(residual, layer="1.relu").fit(X)


def test_the_module_is_not_changed_and_copies_share_it(network):
    before = copy.deepcopy(network.state_dict())
    cnn = features(network, layer="4")
    rows = cnn.fit_transform(X)
    assert network.training and not network[1]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert clone(cnn).model is network
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cnn)).transform(X), rows)


def test_rows_are_shared_by_equal_networks_and_not_by_others(tmp_path):
    store = EmbeddingStore(tmp_path)
    recipe = features(make_network(), cache=store).fit(X).recipes_[0]
    rows = features(make_network(), cache=store).fit_transform(X)
    assert "process" not in recipe
    result = embed_images(X, features(make_network(), cache=store).fit(X))
    assert result.computed == 0
    np.testing.assert_array_equal(result.features, rows)
    assert features(make_network(seed=1), cache=store).fit(X).recipes_[0]["digest"] != recipe["digest"]
    other = make_network()
    other[3].dilation = (2, 2)  # a setting without weights
    assert features(other).fit(X).recipes_[0]["digest"] != recipe["digest"]


def test_training_after_fit_is_noticed():
    network = make_network()
    cnn = features(network).fit(X)
    with torch.no_grad():
        network[0].weight += 0.1
    with pytest.raises(RecipeMismatchError, match="digest"):
        cnn.transform(X)


def test_a_pooling_that_is_used_twice_changes_the_identity():
    conv1, conv2, pool = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)
    networks = [
        nn.Sequential(OrderedDict(conv1=conv1, pool1=pool, **options, conv2=conv2))
        for options in ({}, {"pool2": pool})
    ]
    first, second = (features(n, layer="conv2").fit(X).recipes_[0]["digest"] for n in networks)
    assert first != second


@pytest.mark.parametrize("change", ["number", "tensor", "hook"])
def test_settings_of_own_classes_may_change(change, tmp_path):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor, self.offset = 2, torch.zeros(1)

        def forward(self, x):
            return x * self.factor + self.offset

    module = nn.Sequential(nn.Conv2d(3, 4, 3), Scale())
    cnn = features(module, layer="1", cache=tmp_path)
    before = cnn.fit_transform(X)
    if change == "number":
        module[1].factor = 6
    elif change == "tensor":
        module[1].offset += 4
    else:
        module[1].register_forward_hook(lambda *args: args[2] * 3)
    expected = before + 4 if change == "tensor" else before * 3
    np.testing.assert_allclose(cnn.fit_transform(X), expected, rtol=1e-5, atol=1e-6)


class Windows(nn.Module):
    """Attention in windows: the first axis of what its layers compute has all windows of all images."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        b, c, h, w = x.shape
        windows = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
        y = self.linear(windows.reshape(-1, 4, c)).reshape(windows.shape)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def test_layers_without_a_row_for_each_image_cannot_be_read():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Windows())
    assert list_layers(module) == ["0", "1"]
    with pytest.raises(UnknownNameError, match=r"'1\.linear'.*a row for each image, cannot be read"):
        features(module, layer="1.linear").fit(X)


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Views(nn.Module):
    """A network that needs contiguous outputs of its convolution, and has a parameter or buffer of five axes."""

    def __init__(self, five_axes):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 9 * 11, 4)
        scale = torch.full((1,) * (5 if five_axes else 1), 2.0)
        if five_axes == "buffer":
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale)

    def forward(self, x):
        y = self.conv(x) * self.scale.flatten()
        return self.dense(y.view(len(y), -1))


@pytest.mark.parametrize("five_axes", ["", "parameter", "buffer"])
def test_modules_that_need_contiguous_outputs(five_axes):
    module = Views(five_axes).eval()
    x = (torch.from_numpy(X).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.inference_mode():
        expected = module(x.permute(0, 3, 1, 2).contiguous()).numpy()
    np.testing.assert_allclose(
        features(module, layer="dense").fit_transform(X), expected, rtol=1e-5, atol=1e-5
    )


def test_modules_that_need_contiguous_outputs_in_two_threads():
    second_call = threading.Event()
    n_calls = itertools.count(1)

    class SlowViews(Views):
        def forward(self, x):
            if next(n_calls) == 2:
                second_call.set()
            return super().forward(x)

        def to(self, *args, memory_format):
            if memory_format is torch.contiguous_format:
                second_call.wait(0.5)  # the other thread may not run while the layout changes
            return super().to(*args, memory_format=memory_format)

    function = TorchFunction(SlowViews("").eval(), [("dense", "none")], MEAN, STD)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(function, [X, X])
    np.testing.assert_array_equal(first, second)


def test_maps_with_the_channels_last():
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 2), ChannelsLast(), nn.LayerNorm(16))
    assert [row["shape"] for row in layer_table(module, image_size=(20, 24))] == [(9, 11, 16)] * 3
    for pooling in ("avg", "max", "flatten"):
        expected = features(module, layer="0", pooling=pooling).fit_transform(X)
        result = features(module, layer="1", pooling=pooling).fit_transform(X)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert features(module).fit(X).layers_ == ["2"]
    assert features(module).fit_transform(X).shape == (5, 16)


def test_classes_of_open_clip_are_identified_by_its_version(monkeypatch):
    names = []
    monkeypatch.setattr(importlib.metadata, "version", lambda name: names.append(name) or "2.30")
    layer = type("Block", (nn.Sequential,), {"__module__": "open_clip.transformer"})
    recipe = features(nn.Sequential(nn.Conv2d(3, 4, 3), layer(nn.ReLU()))).fit(X).recipes_[0]
    assert "process" not in recipe
    assert "open_clip_torch" in names and "open_clip" not in names


@pytest.mark.parametrize("change", ["class", "hook", "function", "object"])
def test_what_cannot_be_identified_is_not_shared_with_other_processes(change, residual):
    network = make_network()
    if change == "class":
        network = residual
    elif change == "hook":
        network[0].register_forward_hook(lambda *args: args[2] * 2)
    elif change == "function":
        network[0].forward = lambda x: torch.zeros(len(x), 8, 9, 11)
    else:
        network[0].scale = object()
    assert len(features(network).fit(X).recipes_[0]["process"]) == 32


def test_only_pytorch_is_imported():
    code = (
        "import sys, numpy as np, torch, tlfeatures\n"
        "cnn = tlfeatures.CNNFeatures(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), image_size=8, cache=None,\n"
        "                             normalization=((0, 0, 0), (1, 1, 1)))\n"
        "print(cnn.fit_transform(np.zeros((2, 8, 8, 3), 'uint8')).shape, 'keras' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "(2, 4) False"


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.05), ("tf32", 1e-6)])
def test_precision(network, precision, tolerance):
    exact = features(network, layer="3").fit_transform(X)
    reduced = features(network, layer="3", precision=precision).fit_transform(X)
    assert reduced.dtype == np.float32
    np.testing.assert_allclose(reduced, exact, atol=tolerance)
    assert (precision == "tf32") == np.array_equal(reduced, exact)


def test_a_module_with_bfloat16_weights(network):
    module = copy.deepcopy(network).to(torch.bfloat16)
    result = features(module, layer="3").fit_transform(X)
    np.testing.assert_allclose(result, features(network, layer="3").fit_transform(X), atol=0.05)


def test_the_configuration_of_timm_gives_normalization_and_size(network):
    module = copy.deepcopy(network)
    module.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 20, 24)}
    result = CNNFeatures(module, cache=None).fit_transform(X)
    np.testing.assert_array_equal(result, features(network).fit_transform(X))


def test_search_and_grid_search(network, tmp_path):
    y = np.arange(24) % 2
    images = np.random.default_rng(1).integers(0, 128, (24, 20, 24, 3), dtype=np.uint8)
    images[y == 1, ..., 0] += 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicates: the images are noise
        search = FeatureSearchCV(
            network, layers=["1", "4"], image_sizes=[(20, 24)], resize="stretch", normalization=(MEAN, STD), cv=3,
            cache=tmp_path,
        ).fit(images, y)  # fmt: skip
    assert search.best_score_ == 1
    assert set(search.table()["network"]) == {"Sequential"}
    np.testing.assert_array_equal(search.best_estimator_.predict(images), y)
    grid = GridSearchCV(
        make_pipeline(features(network, cache=tmp_path), LogisticRegression()),
        {"cnnfeatures__layer": ["1", "4"]},
    )
    assert grid.fit(images, y).best_score_ == 1


def test_operations_of_layers_are_counted():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)

        def forward(self, x):
            return self.up(x)

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=4), Transposed(), nn.Flatten(),
        nn.Linear(504, 4),
    )  # fmt: skip
    grid = EmbeddingGrid(
        network, layers=list("01235"), poolings="flatten", image_sizes=[(20, 24)], resize="stretch",
        normalization=(MEAN, STD),
    )  # fmt: skip
    (single_pass,) = plan_passes(grid, None)
    first = 9 * 11 * 8 * 27
    second = first + 7 * 9 * 8 * 18
    third = second + 7 * 9 * 8 * 8
    assert [e.macs for e in single_pass.embeddings] == [first, first, second, third, third + 504 * 4]


def test_the_1se_rule_chooses_the_cheapest_layer(network):
    """Every layer separates the classes, so the first one is the cheapest of equal candidates."""
    y = np.arange(24) % 2
    images = np.random.default_rng(1).integers(0, 128, (24, 20, 24, 3), dtype=np.uint8)
    images[y == 1, ..., 0] += 100
    search = FeatureSearchCV(
        network, layers=["4", "1"], poolings="avg", image_sizes=[(20, 24)], resize="stretch", heads="ridge",
        normalization=(MEAN, STD), cv=3, rule="1se", cache=None,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicates: the images are noise
        search.fit(images, y)
    assert search.best_params_["layer"] == "1"
    assert (search.table()["macs"] > 0).all()


def test_a_search_chooses_layers_at_the_only_size_that_a_module_accepts():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9 * 11, 2))
    search = FeatureSearchCV(
        module, layers="standard", poolings="avg", image_sizes=[(20, 24)], resize="stretch",
        normalization=(MEAN, STD), heads="ridge", cv=2, cache=None,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few images
        search.fit(np.random.default_rng(1).integers(0, 256, (20, 20, 24, 3), "u1"), np.arange(20) % 2)
    assert set(search.table()["layer"]) == {"1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"normalization": "auto"},
            r"`normalization` must be a pair \(mean, std\).*torch.nn.Module.*got 'auto'",
        ),
        ({"weights": None}, "`weights` must be left out for a torch.nn.Module, which has its own; got None"),
        ({"image_size": 2}, "cannot process images of 2x2 pixels.*Pass the `image_size` that it expects"),
        ({"layer": "8"}, "layer of Sequential.*'8'"),
        ({"precision": "int8"}, "`precision` must be"),
    ],
)
def test_errors_name_the_parameter(network, options, message):
    with pytest.raises(ValueError, match=message):
        features(network, **options).fit(X)


def test_a_module_without_layers_is_refused():
    with pytest.raises(ValueError, match="The module Conv2d has no layer whose output is one tensor"):
        features(nn.Conv2d(3, 4, 3)).fit(X)


def test_fine_tuning_is_refused(network):
    with pytest.raises(
        InvalidParameterError,
        match=r"`model` must be the name of a network.*or a keras\.Model; got an object of type Sequential",
    ):
        FineTuneClassifier(network, cache=None).fit(X, [0, 1, 0, 1, 0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_module_on_a_gpu_agrees_with_the_cpu(network):
    on_gpu = features(copy.deepcopy(network).cuda()).fit_transform(X)
    np.testing.assert_allclose(on_gpu, features(network).fit_transform(X), rtol=1e-4, atol=1e-4)
