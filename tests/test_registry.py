"""The table of networks agrees with Keras: builders, weights files and layers."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from tests.networks import build
from tlfeatures import list_layers, list_models
from tlfeatures.errors import UnknownNameError
from tlfeatures.networks import NETWORKS, PRESETS, Backbone, find_network, layer_table
from tlfeatures.networks._graph import Graph
from tlfeatures.networks._weights import published_digest

OWN = {"alexnet", "tiny"}  # built by this package
KERAS = {name: spec for name, spec in NETWORKS.items() if name not in OWN}
MIN_SIZES = {"inception_v3": 75, "inception_resnet_v2": 75, "xception": 71}  # in pixels; 32 for all others
# one of each style of names, built in half a second; tests that build the others are slow
SMALL = {"vgg16", "resnet50", "mobilenet_0.25", "mobilenet_v3_small"}


def test_every_builder_of_keras_has_a_row():
    import keras

    exported = {name for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    assert exported == {spec.builder for spec in KERAS.values()}
    for spec in KERAS.values():
        assert callable(getattr(keras.applications, spec.module).preprocess_input)


def test_every_width_with_weights_has_a_row():
    """Networks of several widths have one row for each."""
    widths = {}
    for spec in KERAS.values():
        kwargs = dict(spec.kwargs)
        if "alpha" in kwargs:
            kind = spec.builder + (" minimalistic" if kwargs.get("minimalistic") else "")
            widths.setdefault(kind, set()).add(kwargs["alpha"])
    assert widths == {
        "MobileNet": {0.25, 0.5, 0.75, 1.0},
        "MobileNetV2": {0.35, 0.5, 0.75, 1.0, 1.3, 1.4},
        "MobileNetV3Large": {0.75, 1.0},
        "MobileNetV3Small": {0.75, 1.0},
        "MobileNetV3Large minimalistic": {1.0},
        "MobileNetV3Small minimalistic": {1.0},
    }


def test_rows_are_complete_and_frozen():
    assert list_models() == [*NETWORKS, *PRESETS]
    for name, spec in NETWORKS.items():
        assert spec.name == name == name.lower()
        assert 4 <= len(spec.taps) <= 7 and len(set(spec.taps)) == len(spec.taps)
        assert spec.licence and spec.image_size >= 96
        assert spec.image_size in (spec.weight_sizes or (spec.image_size,))
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.name = "other"


# --- names ---------------------------------------------------------------------------------------------


def spellings(spec):
    for name in (spec.name, *spec.aliases):
        yield from (name, name.upper(), name.title(), name.replace("_", ""), name.replace("_", "-"))


def test_every_spelling_names_one_network():
    names = {}
    for spec in NETWORKS.values():
        for spelling in spellings(spec):
            assert find_network(spelling) is spec, spelling
            assert names.setdefault(spelling, spec.name) == spec.name


def test_the_names_of_keras_are_accepted():
    for spec in KERAS.values():
        plain = not dict(spec.kwargs) or (dict(spec.kwargs)["alpha"] == 1.0 and "minimal" not in spec.name)
        if plain:
            assert find_network(spec.builder) is spec
        if spec.module == spec.builder.lower():
            assert find_network(spec.module).module == spec.module


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", r"Unknown network 'vgg'. Did you mean 'vgg19' or 'vgg16'\? See `tlfeatures models`"),
        ("mobilenet_0.7", r"Unknown network 'mobilenet_0.7'. Did you mean 'mobilenet_0.75'"),
        ("ResNet51", r"Did you mean 'resnet50'"),
        ("", r"Unknown network ''. See `tlfeatures models` for all names"),
    ],
)
def test_an_unknown_name_raises_an_error_with_near_matches(name, message):
    with pytest.raises(UnknownNameError, match=message) as caught:
        find_network(name)
    assert isinstance(caught.value, ValueError)


# --- weights -------------------------------------------------------------------------------------------


class DownloadRequested(Exception):
    """Raised in place of a download."""


@pytest.fixture
def requested_file(monkeypatch):
    """Function from a row to the file, address and digest that Keras requests."""

    def refuse(fname, origin, file_hash=None, **options):
        raise DownloadRequested(fname, origin, file_hash)

    def request(spec, top, size):
        import keras

        builder = getattr(keras.applications, spec.builder)
        with pytest.raises(DownloadRequested) as caught:
            builder(include_top=top, input_shape=(*size, 3), **dict(spec.kwargs))
        return caught.value.args

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", refuse)
    return request


def one_network_per_family():
    """Iterate over the cheapest network of each module with and without its top, and sizes of MobileNets.

    All are slow but MobileNet in two sizes, MobileNetV2 in a size that is not square, and MobileNetV3 with its top.
    """
    quick = [
        ("mobilenet_0.25", False, (128, 128)),
        ("mobilenet_0.25", False, (96, 96)),
        ("mobilenet_v2", False, (96, 128)),
        ("mobilenet_v3_small", True, (224, 224)),
    ]
    for case in _one_network_per_family():
        yield pytest.param(*case, marks=() if case in quick else pytest.mark.slow)


def _one_network_per_family():
    for name in (
        "vgg16", "vgg19", "resnet50", "resnet50_v2", "inception_v3", "xception", "densenet121", "nasnet_mobile",
        "mobilenet_v3_small", "mobilenet_v3_small_0.75", "mobilenet_v3_large_minimalistic", "efficientnet_b0",
        "efficientnet_v2_b0", "convnext_tiny",
    ):  # fmt: skip
        size = NETWORKS[name].image_size
        yield from ((name, top, (size, size)) for top in (False, True))
    for name in ("mobilenet", "mobilenet_0.25"):
        yield from ((name, False, (size, size)) for size in (128, 160, 192, 224, 96))
    for name in ("mobilenet_v2", "mobilenet_v2_1.4"):
        yield from ((name, False, (size, size)) for size in (96, 128, 224, 100))
    yield from [("mobilenet_0.5", True, (128, 128)), ("mobilenet_v2_0.35", True, (96, 96))]
    yield from [("mobilenet", False, (160, 192)), ("mobilenet_v2", False, (96, 128))]


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")
@pytest.mark.parametrize(("name", "top", "size"), list(one_network_per_family()))
def test_weights_files_are_those_that_keras_requests(name, top, size, requested_file):
    spec = NETWORKS[name]
    file, url = spec.weights_file(top=top, image_size=size), spec.weights_url(top=top, image_size=size)
    assert (file, url, published_digest(file) or None) == requested_file(spec, top, size)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("name", sorted(KERAS.keys() - {name for name, *_ in _one_network_per_family()}))
def test_weights_files_of_all_other_networks(name, top, requested_file):
    spec, size = NETWORKS[name], (NETWORKS[name].image_size,) * 2
    file, url = spec.weights_file(top=top, image_size=size), spec.weights_url(top=top, image_size=size)
    assert (file, url, published_digest(file) or None) == requested_file(spec, top, size)


def test_no_two_networks_share_a_weights_file():
    files = {}
    for spec in KERAS.values():
        for size in spec.weight_sizes or (spec.image_size,):
            for top in (False, True):
                file = spec.weights_file(top=top, image_size=(size, size))
                assert files.setdefault(file, (spec.name, size, top)) == (spec.name, size, top)
                assert spec.weights_url(top=top, image_size=(size, size)).startswith(
                    "https://storage.googleapis.com/"
                )


# --- taps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in KERAS]
)
def test_taps_exist_in_order_and_end_with_the_output(name):
    spec = NETWORKS[name]
    model = build(spec, MIN_SIZES.get(name, 32))
    graph = Graph.of(model, canonical=True)
    assert set(spec.taps) <= set(graph.taps)
    order = list(graph.operations)
    assert sorted(spec.taps, key=order.index) == list(spec.taps)
    assert graph.taps[spec.taps[-1]] is model.outputs[0]
    shapes = [graph.taps[tap].shape for tap in spec.taps]
    assert all(len(shape) == 4 for shape in shapes)
    sides = [shape[1] for shape in shapes]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "vgg16",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("efficientnet_b0", "xception")),
    ],
)
def test_taps_exist_in_networks_with_their_top(name):
    """Keras numbers some of them; the top must not change the numbers."""
    spec, size = NETWORKS[name], MIN_SIZES.get(name, 32)
    without_top, with_top = (Graph.of(build(spec, size, top), canonical=True) for top in (False, True))
    for tap in spec.taps:
        assert without_top.taps[tap].shape == with_top.taps[tap].shape
    assert list(without_top.operations) == list(with_top.operations)[: len(without_top.operations)]
    assert list(with_top.taps)[-1] == spec.top


def test_layers_are_listed_in_order_with_the_top():
    layers = list_layers("VGG16")
    assert layers[:3] == ["block1_conv1", "block1_conv2", "block1_pool"]
    assert layers[-5:] == ["block5_pool", "flatten", "fc1", "fc2", "predictions"]
    rows = {row["layer"]: row for row in layer_table("vgg16", image_size=64)}
    assert (rows["block5_pool"]["type"], rows["block5_pool"]["shape"]) == ("MaxPooling2D", (2, 2, 512))
    sizes = {"shape": (4096,), "width": 4096}
    assert rows["fc2"] == {
        "layer": "fc2",
        "type": "Dense",
        **sizes,
        "standard": False,
        "fully_connected": True,
    }
    assert tuple(layer for layer in rows if rows[layer]["standard"]) == NETWORKS["vgg16"].taps


@pytest.mark.slow
def test_layers_of_both_variants_are_listed():
    """ConvNeXt has different last layers with and without its top; no single network has both."""
    listed = list_layers("convnext_tiny")
    assert {"layer_normalization", "convnext_tiny_head_layernorm", "convnext_tiny_head_dense"} <= set(listed)
    backbone = Backbone("convnext_tiny", None, 32)
    message = r"'convnext_tiny_head_dense' is in convnext_tiny with its top, 'layer_normalization' in the one without"
    with pytest.raises(ValueError, match=message):
        backbone.describe(["layer_normalization", "convnext_tiny_head_dense"])
