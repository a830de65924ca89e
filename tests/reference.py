"""Reference values in this folder: embeddings (``golden.npz``) and digests of recipes (``digests.json``).

``python -m tests.reference`` writes both anew. They must not change: old stores would no longer serve, or
embeddings would be others. Whoever writes them anew says why in the commit message.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from tlfeatures import CNNFeatures
from tlfeatures.errors import RandomWeightsWarning
from tlfeatures.fingerprints import recipe_digest

FOLDER = Path(__file__).parent
GOLDEN, DIGESTS = FOLDER / "golden.npz", FOLDER / "digests.json"

# name of the case -> arguments of CNNFeatures; random weights are seeded
CASES = {
    "tiny": {"model": "tiny", "layer": ["block2_pw_relu", "block6_pw_relu", "block10_pw_relu"]},
    "mobilenet": {"model": "mobilenet_0.25", "layer": ["conv_pw_5_relu", "conv_pw_13_relu"]},
    "vgg16": {"model": "vgg16", "layer": ["block2_pool", "block4_pool"]},
    "resnet50_v2": {"model": "resnet50_v2", "layer": "conv3_block4_out"},
    "densenet": {"model": "densenet121", "layer": "pool3_pool"},
    "efficientnet": {"model": "efficientnet_b0", "layer": "block4a_expand_activation"},
    "mobilenet_v3": {"model": "mobilenet_v3_small"},
    "alexnet": {"model": "alexnet", "layer": ["pool1", "pool5"], "image_size": 64},
}
COMMON = {"image_size": 48, "pooling": "avgmax", "cache": None}
WEIGHTS = {"tiny": "bundled"}


def images() -> np.ndarray:
    """Three images by integer arithmetic, the same with every version of NumPy: uint8 (3, 60, 72, 3)."""
    y, x, channel = np.mgrid[:60, :72, :3]
    stripes = (3 * x + 2 * y) % 256
    checks = ((x // 9 + y // 7) % 2) * 170 + 40 * channel
    rings = ((x - 36) ** 2 + (y - 30) ** 2) // 5 + 60 * channel
    return np.stack([stripes + 20 * channel, checks, rings]).astype("uint16").astype("uint8")


def embed(name: str) -> tuple[np.ndarray, list[str]]:
    """Embeddings of a case, and the digest of each of its recipes."""
    cnn = CNNFeatures(**{**COMMON, **CASES[name]}, weights=WEIGHTS.get(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        features = cnn.fit_transform(images())
    # how Pillow resizes is part of a recipe, and changes with Pillow alone
    recipes = [{k: v for k, v in recipe.items() if k != "pixel_probe"} for recipe in cnn.recipes_]
    return features, [recipe_digest(recipe) for recipe in recipes]


def write() -> None:
    """Write both files."""
    results = {name: embed(name) for name in CASES}
    np.savez_compressed(GOLDEN, **{name: features for name, (features, _) in results.items()})
    DIGESTS.write_text(json.dumps({name: digests for name, (_, digests) in results.items()}, indent=1) + "\n")


if __name__ == "__main__":
    write()
