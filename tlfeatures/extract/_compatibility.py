"""Check that the recipes and the image decoder are the same as in an earlier fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL

from tlfeatures._warnings import warn
from tlfeatures.errors import RecipeMismatchError
from tlfeatures.images import probe_pixels

__all__ = ["check_decoder", "check_recipes", "find_recipe_changes"]


def find_recipe_changes(fitted: list[dict[str, Any]], current: list[dict[str, Any]]) -> list[str]:
    """List the differences of recipes, such as "precision: 'float32' became 'bfloat16'"."""
    # "process" identifies custom code, which is pickled with the model; it differs between processes
    fitted, current = (
        [{k: v for k, v in recipe.items() if k != "process"} for recipe in each] for each in (fitted, current)
    )
    if len(fitted) != len(current):
        return [f"{len(fitted)} blocks of columns became {len(current)}"]
    pairs = [(a, b, k) for a, b in zip(fitted, current, strict=True) for k in sorted(a.keys() | b.keys())]
    changes = (f"{k}: {a.get(k)!r} became {b.get(k)!r}" for a, b, k in pairs if a.get(k) != b.get(k))
    return list(dict.fromkeys(changes))


def check_recipes(fitted: list[dict[str, Any]], current: list[dict[str, Any]]) -> None:
    """Raise an error if the embeddings would differ from those of `fit`."""
    changes = find_recipe_changes(fitted, current)
    if not changes:
        return
    if fitted[0].get("format") != current[0]["format"]:
        raise RecipeMismatchError(
            f"This transformer was fitted by another version of tlfeatures, under recipe format "
            f"{fitted[0].get('format')}; this version has format {current[0]['format']}. Fit it again."
        )
    raise RecipeMismatchError(
        f"The recipe of transform differs from that of fit: {'; '.join(changes[:4])}. Fit again, or restore "
        "the parameters or the weights file that changed."
    )


_decoders_warned: set[bytes] = set()


def check_decoder(fitted: np.ndarray | None) -> None:
    """Warn or raise an error if the installed image decoder differs from that of `fit`.

    ``fitted`` are the pixels of `probe_pixels` at the time of `fit`, or None if only arrays were passed to `fit`.
    """
    current = probe_pixels()
    if fitted is None or np.array_equal(fitted, current):
        return
    difference = 255
    if fitted.shape == current.shape:
        difference = int(np.abs(fitted.astype(int) - current).max())
    text = (
        f"The installed image decoder (Pillow {PIL.__version__}) differs from the one of fit by up to {difference} "
        "of 255 grey levels on a test image"
    )
    if difference > 1:
        raise RecipeMismatchError(
            f"{text}, so embeddings would differ from those of fit. Fit again, or install the Pillow version of fit."
        )
    if fitted.tobytes() not in _decoders_warned:
        _decoders_warned.add(fitted.tobytes())
        warn(f"{text}. Embeddings of image files differ slightly from those of fit; fit again to avoid this.")
