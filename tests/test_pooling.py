"""Named poolings compared with NumPy on outputs of every rank."""

from __future__ import annotations

import numpy as np
import pytest

from tests.networks import to_array
from tlfeatures import CNNFeatures
from tlfeatures._network_options import POOLINGS
from tlfeatures.errors import UnknownNameError
from tlfeatures.networks import pool, pooling_parts, pooling_width

MAP_POOLINGS = [pooling for pooling in POOLINGS if "cls" not in pooling]  # see test_presets.py for tokens
RNG = np.random.default_rng(0)
MAPS = {rank: RNG.normal(0, 2, (*(3, 5, 4)[: rank - 1], 6)).astype("float32") for rank in (2, 3, 4)}


def by_numpy(x, part):
    inner = tuple(range(1, x.ndim - 1))
    return {
        "avg": lambda: x.mean(inner),
        "max": lambda: x.max(inner),
        "gem": lambda: (np.maximum(x.astype("float64"), 1e-6) ** 3).mean(inner) ** (1 / 3),
        "flatten": lambda: x.reshape(len(x), -1),
        "none": lambda: x,
    }[part]()


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("part", ["avg", "max", "gem", "flatten"])
def test_poolings_equal_numpy(part, rank):
    got = to_array(pool(MAPS[rank], part))
    want = by_numpy(MAPS[rank], part)
    assert got.dtype == np.float32
    assert got.shape == (len(want), pooling_width(part, MAPS[rank].shape[1:]))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_vector_is_not_pooled():
    assert {pooling_parts(pooling, 2) for pooling in POOLINGS} == {("none",)}
    np.testing.assert_array_equal(to_array(pool(MAPS[2], "none")), MAPS[2])
    assert pooling_width("none", (6,)) == 6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_pooled_in_float32(dtype):
    """The mean of 10,000 equal values in float16 would be wrong by several percent."""
    import keras

    x = keras.ops.cast(np.full((1, 100, 100, 2), 0.1, "float32"), dtype)
    for part in ("avg", "gem"):
        got = to_array(pool(x, part))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, float(to_array(keras.ops.cast(x, "float32"))[0, 0, 0, 0]), rtol=1e-4)


def test_gem_is_between_average_and_maximum_and_finite_for_zeros():
    x = np.abs(MAPS[4])
    avg, gem, maximum = (to_array(pool(x, part)) for part in ("avg", "gem", "max"))
    assert (avg < gem).all() and (gem < maximum).all()
    np.testing.assert_allclose(to_array(pool(np.zeros_like(x), "gem")), 1e-6, rtol=1e-3)
    assert np.isfinite(to_array(pool(-x, "gem"))).all()


@pytest.mark.parametrize("rank", [3, 4])
def test_parts_and_widths(rank):
    shape = MAPS[rank].shape[1:]
    assert {pooling: pooling_parts(pooling, rank) for pooling in MAP_POOLINGS} == {
        "avg": ("avg",), "max": ("max",), "avgmax": ("avg", "max"), "gem": ("gem",), "flatten": ("flatten",),
    }  # fmt: skip
    assert pooling_width("avg", shape) == pooling_width("max", shape) == pooling_width("gem", shape) == 6
    assert pooling_width("flatten", shape) == np.prod(shape)


@pytest.mark.parametrize(
    ("name", "near"),
    [("average", "'avg'"), ("flat", "'flatten'"), ("Max", "'max'"), ("xyz", "Valid names: avg")],
)
def test_an_unknown_pooling_raises_an_error_with_near_matches(name, near):
    with pytest.raises(UnknownNameError, match=f"Unknown pooling '{name}'.*{near}"):
        pooling_parts(name, 4)
    with pytest.raises(ValueError, match="`pooling` must be "):
        CNNFeatures("vgg16", pooling=name, cache=None).fit(["x.jpg"])  # before weights are downloaded


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_poolings_of_an_estimator(store):
    """avgmax is avg followed by max; flatten keeps the order of the map, rows first."""
    X = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype="uint8")
    options = {"layer": "conv_pw_11_relu", "weights": None, "image_size": 64, "cache": store}
    got = {
        pooling: CNNFeatures("mobilenet_0.25", pooling=pooling, **options).fit_transform(X)
        for pooling in MAP_POOLINGS
    }
    y = got["flatten"].reshape(3, 4, 4, 128)
    for pooling in ("avg", "max", "gem"):
        np.testing.assert_allclose(got[pooling], by_numpy(y, pooling), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got["avgmax"], np.concatenate([got["avg"], got["max"]], axis=1))


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_a_vector_has_the_same_recipe_for_all_poolings(store):
    X = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    options = {"layer": "predictions", "weights": None, "image_size": 32, "cache": store}
    fitted = [CNNFeatures("mobilenet_0.25", pooling=pooling, **options).fit(X) for pooling in POOLINGS]
    assert all(each.recipes_ == fitted[0].recipes_ for each in fitted)
    assert fitted[0].get_feature_names_out()[0] == "predictions_000"
