"""Helpers for tests of networks: a small network of each family, random weights, reference embeddings."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

# the cheapest network of each module of keras.applications, and the side in pixels of its test images
FAMILIES = {
    "vgg16": 48,
    "vgg19": 48,
    "resnet50": 64,
    "resnet50_v2": 64,
    "inception_v3": 75,
    "inception_resnet_v2": 75,
    "xception": 71,
    "densenet121": 48,
    "nasnet_mobile": 48,
    "mobilenet_0.25": 64,
    "mobilenet_v2_0.35": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_b0": 64,
    "convnext_tiny": 32,
}


def make_images(n, size, seed=0):
    """Make distinct color fields with noise, uint8 (n, size, size, 3); image i does not depend on n."""
    images = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        coarse = rng.uniform(0, 255, (4, 4, 3)).repeat(-(-size // 4), axis=0).repeat(-(-size // 4), axis=1)
        images.append(coarse[:size, :size] + rng.normal(0, 20, (size, size, 3)))
    return np.clip(images, 0, 255).astype("uint8")


def build(spec, size, top=False, **options):
    """Build the network of Keras without pretrained weights."""
    import keras

    build = getattr(keras.applications, spec.builder)
    return build(
        weights=None, include_top=top, input_shape=(size, size, 3), **{**dict(spec.kwargs), **options}
    )


def preprocess(spec, x):
    """Apply Keras's preprocessing to a copy of ``x``."""
    import keras

    return getattr(keras.applications, spec.module).preprocess_input(np.array(x, "float32"))


def set_random_weights(model, x, seed=0):
    """Set random weights for which every image of ``x`` (preprocessed) has a different embedding.

    Kernels are He-normal, and all other weights are random too. The statistics of batch normalization are those
    of ``x``, changed by up to a third so that training mode gives different results.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if kind == "variance":  # of the Normalization in EfficientNet, whose input is in 0..1
            value = rng.uniform(0.03, 0.09, shape)
        elif kind == "mean":
            value = rng.uniform(0.3, 0.6, shape)
        elif kind == "gamma":
            value = rng.uniform(0.6, 1.2, shape)
        elif kind == "beta":  # above zero, where rounding errors grow less in rectifiers
            value = rng.normal(0.8, 0.4, shape)
        elif kind in ("count", "moving_mean", "moving_variance"):
            continue
        elif len(shape) < 2:
            value = rng.normal(0, 0.2, shape)
        else:
            fan_in = np.prod(shape[:2] if "depthwise" in variable.path or shape[-1] == 1 else shape[:-1])
            value = rng.normal(0, np.sqrt(2 / fan_in), shape)
        variable.assign(value.astype("float32"))
    for layer in model.layers:
        if type(layer).__name__ == "Normalization" and layer.weights:
            layer.finalize_state()
    normalizations = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    if not normalizations:
        return
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    model(x, training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = to_array(layer.moving_mean), to_array(layer.moving_variance)
        # channels with a small variance would amplify rounding errors
        min_variance = np.maximum(0.5 * variance.mean(), 0.5 * mean**2)
        layer.moving_variance.assign(
            np.maximum(variance * rng.uniform(0.7, 1.4, variance.shape), min_variance)
        )


def to_array(y):
    """Convert a tensor or variable to an array."""
    import keras

    return keras.ops.convert_to_numpy(y)


def avg_and_max(y):
    """Concatenate the average and the maximum of a feature map."""
    y = to_array(y)
    return np.concatenate([y.mean((1, 2)), y.max((1, 2))], axis=1)


def relative_difference(ours, theirs):
    """Return the largest difference relative to the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def cosines(a, b):
    """Return the cosine of the angle between each row of ``a`` and that of ``b``."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def run(code, *args, env=None, timeout=600):
    """Run Python code in a separate process and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
