"""Networks: the same numbers as Keras by hand, the same names in every process, and what fails says how."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.networks import FAMILIES, build, give_weights, off, pictures, pooled, preprocess
from tlfeatures import CNNFeatures
from tlfeatures.networks.backbone import Backbone
from tlfeatures.networks.graph import canonical_operations
from tlfeatures.registry import NETWORKS

# families in which Keras numbers layers, so that their names depend on what was built before
NUMBERED = (
    "inception_v3", "inception_resnet_v2", "xception", "nasnet_mobile", "mobilenet_v3_small",
    "efficientnet_b0", "convnext_tiny",
)  # fmt: skip


def run(code, *args, env=None, timeout=240):
    """Standard output of Python code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# --- fidelity --------------------------------------------------------------------------------------


def test_every_family_is_here():
    assert {NETWORKS[name].module for name in FAMILIES} == {spec.module for spec in NETWORKS.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_those_of_keras_by_hand(name, tmp_path):
    import keras

    spec, size = NETWORKS[name], FAMILIES[name]
    X = pictures(4, size)
    model, x = build(spec, size), preprocess(spec, X)
    give_weights(model, x)
    model.save_weights(tmp_path / "made.weights.h5")
    cnn = CNNFeatures(
        name, layer=list(spec.taps), pooling="avgmax", weights=tmp_path / "made.weights.h5", image_size=size,
        cache=None, batch_size=3,
    )  # fmt: skip
    ours = cnn.fit_transform(X)

    operations = canonical_operations(model)  # Keras has built this network twice by now
    by_hand = keras.Model(model.input, [operations[tap].output for tap in spec.taps])
    theirs = np.concatenate([pooled(y) for y in by_hand(x, training=False)], axis=1)
    at = 0
    for tap, y in zip(spec.taps, by_hand.outputs, strict=True):
        place = slice(at, at := at + 2 * y.shape[-1])
        assert off(ours[:, place], theirs[:, place]) < 1e-4, tap
    # the comparison would notice: other pixels, other pictures and training mode all give other numbers
    last = [each[:, place] for each in (ours, theirs)]
    assert np.abs(last[1] - last[1][::-1]).max() > 1e-2 * np.abs(last[1]).max()
    if not (spec.options or spec.entry):  # others do it inside
        assert off(pooled(model(X.astype("float32"), training=False)), last[1]) > 1e-2
    if any("moving_mean" in v.path for v in model.weights):
        assert off(pooled(model(x, training=True)), last[1]) > 1e-2
