"""Custom models: load them, convert them to graphs, and determine which pixels they expect."""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import check_fork, keras, untouched_random_state
from tlfeatures.errors import WeightsError
from tlfeatures.networks._graph import Graph, canonical_operations, walk
from tlfeatures.networks._registry import NETWORKS, NetworkSpec

__all__ = ["as_graph", "default_tap", "find_preprocessing", "input_size", "open_model"]


def open_model(path: str) -> Any:
    """Load a ``.keras`` file; nothing in it is executed.

    Raises
    ------
    WeightsError
        When it is damaged or needs custom code.
    """
    check_fork()
    try:
        with untouched_random_state():
            return keras().saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise WeightsError(
            f"Cannot load {path!r}: {' '.join(str(error).split())[:300]}. Expected a model saved by "
            "model.save('name.keras'). If it has Lambda layers or custom classes, load it yourself and pass it as a "
            "keras.Model."
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
    """Return the name of the last feature map, or of the last vector of a model without feature maps."""
    maps = [name for name, output in graph.taps.items() if len(output.shape) == 4]
    if not graph.taps:
        raise ValueError(
            f"The model {graph.model.name!r} has no layer with a feature map or a vector as its output."
        )
    return (maps or list(graph.taps))[-1]


def input_size(model: Any, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width for a model: its own if it fixes them, else ``image_size``, else 224.

    Raises
    ------
    ValueError
        When the model has a fixed input size other than ``image_size``.
    """
    fixed = tuple(model.inputs[0].shape[1:3])
    height, width = image_size or (224, 224)
    size = fixed[0] or height, fixed[1] or width
    if image_size not in (None, size):
        raise ValueError(
            f"`image_size` must be {fixed}, the input size of the model {model.name!r}; got {image_size}. Leave it "
            "out to use that size."
        )
    return size


# operations without weights that do not change the scale of pixels; all others count as normalization
_NEUTRAL = {
    "InputLayer",
    "Cast",
    "CenterCrop",
    "Concatenate",
    "Dropout",
    "Flatten",
    "GaussianNoise",
    "GetItem",
    "Identity",
    "Permute",
    "Reshape",
    "Resize",
    "Resizing",
    "SpatialDropout2D",
    "Transpose",
}
_NEUTRAL_PREFIXES = (
    "Average", "Cropping", "GlobalAverage", "GlobalMax", "MaxPool", "Random", "UpSampling", "ZeroPadding",
)  # fmt: skip
_NORMALIZING = {"Rescaling", "Normalization"}


def find_preprocessing(model: Any) -> str | None:
    """Find the normalization that a model expects.

    Returns
    -------
    str or None
        "raw" if layers or arithmetic that normalize come before its first layer with weights; the module of
        ``keras.applications`` if it is, or contains, one of those networks; None if neither
        can be determined.
    """
    if _normalizes(model):
        return "raw"
    graphs = [each for each in (model, *walk(model)) if hasattr(each, "operations")]
    return next((spec.module for spec in map(_matching_network, graphs) if spec is not None), None)


def _normalizes(model: Any) -> bool:
    for operation in walk(model):
        kind = type(operation).__name__
        if kind in _NORMALIZING:
            return True
        if hasattr(operation, "layers") or kind in _NEUTRAL or kind.startswith(_NEUTRAL_PREFIXES):
            continue
        return not getattr(operation, "weights", None)
    return False


def _matching_network(model: Any) -> NetworkSpec | None:
    """Return the network of ``keras.applications`` whose standard layers a model has; its top may differ."""
    names = list(canonical_operations(model))
    # not recognized by their layers: networks that can be built without their preprocessing, and AlexNet, because
    # other networks have layers called "conv3" and "pool5" too
    candidates = [s for s in NETWORKS.values() if not s.options and not s.entry and s.name != "alexnet"]
    matches = [spec for spec in candidates if set(spec.taps) <= set(names)]
    # ResNet50V2 has all taps of ResNet50, and more after them
    return max(matches, key=lambda spec: names.index(spec.taps[-1]), default=None)
