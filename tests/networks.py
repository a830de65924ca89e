"""What tests of networks share: a small one of each family, healthy weights, embeddings by hand."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import numpy as np

# only Keras 3.8 among the supported versions; ../constraints-oldest.txt has it
KERAS_3_8 = metadata.version("keras").startswith("3.8.")
# the cheapest network of each module of keras.applications, and the side in pixels that it is tested at
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


def pictures(n, size, seed=0):
    """Smooth colour fields with noise: uint8 (n, size, size, 3), no two alike; more begin with the same."""
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        coarse = rng.uniform(0, 255, (4, 4, 3)).repeat(-(-size // 4), axis=0).repeat(-(-size // 4), axis=1)
        made.append(coarse[:size, :size] + rng.normal(0, 20, (size, size, 3)))
    return np.clip(made, 0, 255).astype("uint8")


def build(spec, size, top=False, **options):
    """The network as Keras builds it, untrained."""
    import keras

    build = getattr(keras.applications, spec.builder)
    return build(
        weights=None, include_top=top, input_shape=(size, size, 3), **{**dict(spec.kwargs), **options}
    )


def preprocess(spec, x):
    """Keras's own preprocessing of a copy of ``x``."""
    import keras

    return getattr(keras.applications, spec.module).preprocess_input(np.array(x, "float32"))


def give_weights(model, x, seed=0):
    """Random weights under which every picture of ``x`` (preprocessed) gives another embedding.

    Kernels are He-normal, all else is random too; the statistics of batch normalization are those of
    ``x``, changed by up to a third so that training mode gives other results.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if kind == "variance":  # of the Normalization in EfficientNet, which sees pixels in 0..1
            value = rng.uniform(0.03, 0.09, shape)
        elif kind == "mean":
            value = rng.uniform(0.3, 0.6, shape)
        elif kind == "gamma":
            value = rng.uniform(0.6, 1.2, shape)
        elif kind == "beta":  # above zero, where rectifiers let rounding errors grow less
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
        mean, variance = numbers(layer.moving_mean), numbers(layer.moving_variance)
        # channels that hardly vary would be blown up, and rounding errors with them
        least = np.maximum(0.5 * variance.mean(), 0.5 * mean**2)
        layer.moving_variance.assign(np.maximum(variance * rng.uniform(0.7, 1.4, variance.shape), least))


def numbers(y):
    """A tensor or variable as an array."""
    import keras

    return keras.ops.convert_to_numpy(y)


def pooled(y):
    """Average and maximum of a feature map, side by side."""
    y = numbers(y)
    return np.concatenate([y.mean((1, 2)), y.max((1, 2))], axis=1)


def off(ours, theirs):
    """The largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def cosines(a, b):
    """The cosine of each row of ``a`` to that of ``b``."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def run(code, *args, env=None, timeout=240):
    """Standard output of Python code in a process of its own."""
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
