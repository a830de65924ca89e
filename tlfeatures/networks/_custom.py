"""Models of the user's own: load them, make a graph of them, and find which pixels they expect."""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import check_fork, keras, untouched_random_state
from tlfeatures.errors import WeightsError
from tlfeatures.networks._graph import Graph, canonical_operations, walk
from tlfeatures.networks._registry import NETWORKS, NetworkSpec

__all__ = ["as_graph", "default_tap", "input_size", "open_model", "preprocessing_of"]


def open_model(path: str) -> Any:
    """Load a ``.keras`` file; nothing in it is executed.

    Raises
    ------
    WeightsError
        When it is not a ``.keras`` file, is damaged, or needs code of the user's own.
    """
    check_fork()
    try:
        with untouched_random_state():
            return keras().saving.load_model(path, compile=False)
    except Exception as error:
        raise WeightsError(
            f"Cannot load {path!r}: {' '.join(str(error).split())[:300]}. Expected a model saved by "
            "model.save('name.keras'); one with Lambda layers or custom classes must be loaded by you and passed as "
            "a keras.Model."
        ) from error


def as_graph(model: Any) -> Any:
    """Convert a model to a graph of operations that can be tapped.

    Raises
    ------
    ValueError
        When it is not a graph of layers, or its input is not RGB images.
    """
    if not hasattr(model, "operations"):
        try:
            model = keras().Model(model.inputs, model.outputs)
        except Exception as error:
            raise ValueError(
                f"The model {model.name!r} is not a graph of layers; expected a Functional model, or a Sequential one "
                "that is built (give it an Input), so that its layers can be tapped."
            ) from error
    shapes = [tuple(each.shape) for each in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise ValueError(
            f"The model {model.name!r} takes inputs of shape {shapes}; expected one input (None, height, width, 3) of "
            "RGB images."
        )
    return model


def default_tap(graph: Graph) -> str:
    """The last feature map, or the last vector of a model without feature maps."""
    maps = [name for name, output in graph.taps.items() if len(output.shape) == 4]
    if not graph.taps:
        raise ValueError(
            f"The model {graph.model.name!r} has no layer with a feature map or a vector as its output."
        )
    return (maps or list(graph.taps))[-1]


def input_size(model: Any, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width for a model: its own if it fixes them, else ``wanted``, else 224.

    Raises
    ------
    ValueError
        When the model fixes another size than ``wanted``.
    """
    own = tuple(model.inputs[0].shape[1:3])
    height, width = wanted or (224, 224)
    size = own[0] or height, own[1] or width
    if wanted not in (None, size):
        raise ValueError(
            f"The model {model.name!r} takes images of {own[0]}x{own[1]} pixels, not {wanted[0]}x{wanted[1]}; leave "
            "image_size out."
        )
    return size


# operations without weights that do not change the scale of pixels; all others count as normalization
_NEUTRAL = {"InputLayer", "ZeroPadding2D", "Resizing", "CenterCrop", "Cropping2D", "Dropout", "GaussianNoise"}
_NORMALIZING = {"Rescaling", "Normalization"}


def preprocessing_of(model: Any) -> str | None:
    """Find the normalization that a model expects.

    Returns
    -------
    str or None
        "raw" if it starts with layers or arithmetic that normalize; the module of
        ``keras.applications`` if it is, or begins with, one of those networks; None if neither
        can be determined.
    """
    if _normalizes(model):
        return "raw"
    graphs = [each for each in (model, *walk(model)) if hasattr(each, "operations")]
    return next((spec.module for spec in map(_application, graphs) if spec is not None), None)


def _normalizes(model: Any) -> bool:
    for operation in walk(model):
        kind = type(operation).__name__
        if kind in _NORMALIZING:
            return True
        if hasattr(operation, "layers") or kind in _NEUTRAL or kind.startswith("Random"):
            continue
        return not getattr(operation, "weights", None)
    return False


def _application(model: Any) -> NetworkSpec | None:
    """The network of ``keras.applications`` that a model is, possibly with another top."""
    names = list(canonical_operations(model))
    # networks that can be built without their preprocessing cannot be recognized by their layers
    candidates = [spec for spec in NETWORKS.values() if not spec.options and not spec.entry]
    fits = [spec for spec in candidates if set(spec.taps) <= set(names)]
    # ResNet50V2 has all taps of ResNet50, and more after them
    return max(fits, key=lambda spec: names.index(spec.taps[-1]), default=None)
