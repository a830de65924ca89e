"""Common parameters and methods of estimators that accept images.

These estimators are dataclasses: their parameters are the fields of the class and of its bases, and the constructor,
which only assigns, is generated from the fields. `inspect.signature`, `get_params`, `clone` and type checkers
see an ordinary constructor with explicit parameters.
"""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sklearn.base import BaseEstimator

from tlfeatures._image_options import IMAGE_CONSTRAINTS
from tlfeatures._network_options import NETWORK_CONSTRAINTS, POOLINGS, is_network
from tlfeatures._params import Constraint, boolean, integer, path
from tlfeatures._warnings import warn
from tlfeatures.errors import RandomWeightsWarning

# Modules that read networks and the store are imported lazily, so that a saved model loads quickly.
if TYPE_CHECKING:
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.store import EmbeddingStore

__all__ = ["ImageEstimator", "ImageInputMixin", "LayerParameters"]


def _is_store(value: Any) -> bool:
    from tlfeatures.store import EmbeddingStore

    return isinstance(value, EmbeddingStore)


class ImageInputMixin:
    """Mixin that sets the input tags of estimators that accept images."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True  # an array of paths
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


@dataclass(kw_only=True, eq=False, repr=False)
class LayerParameters:
    """Parameters that choose the embedding; see `CNNFeatures`."""

    layer: str | list[str] | None = None
    pooling: Literal["avg", "max", "avgmax", "gem", "flatten", "cls", "clsavg"] = "avg"

    _layer_constraints: ClassVar[dict[str, list[Any]]] = {
        "layer": [
            None,
            Constraint("the name of a layer", lambda value: isinstance(value, str) and bool(value)),
            Constraint(
                "a list of names",
                lambda value: isinstance(value, (list, tuple)) and _all_names(value),
                hint="Layers are addressed by name: `tlfeatures layers NAME` and list_layers(model) list them.",
            ),
        ],
        "pooling": list(POOLINGS),
    }


@dataclass(eq=False, repr=False)
class ImageEstimator(ImageInputMixin, BaseEstimator):
    """Base class of estimators that run one network on images; see `CNNFeatures` for the parameters."""

    model: Any = "mobilenet"
    _: KW_ONLY
    weights: str | os.PathLike[str] | None = "imagenet"
    image_size: int | tuple[int, int] | None = None
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    interpolation: str = "bilinear"
    decode: Literal["scaled", "exact"] = "scaled"
    max_value: int | None = None
    window: tuple[float, float] | None = None
    normalization: Any = "auto"
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    batch_size: int = 32
    cache: str | os.PathLike[str] | EmbeddingStore | None = "auto"
    n_jobs: int | None = None
    verbose: int = 0

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NETWORK_CONSTRAINTS,
        **IMAGE_CONSTRAINTS,
        "batch_size": [integer(minimum=1)],
        "cache": ["auto", path("the path of a folder"), Constraint("an EmbeddingStore", _is_store), None],
        "n_jobs": [None, -1, integer(minimum=1)],
        "verbose": [boolean(), integer(minimum=0)],
    }

    @property
    def _n_threads(self) -> int | None:
        """Number of decoding threads; None is one per core, at most 8."""
        return None if self.n_jobs == -1 else self.n_jobs

    def _decoding(self) -> dict[str, Any]:
        """Return the parameters of :class:`~tlfeatures.images.Decoder` except for the size."""
        return {name: getattr(self, name) for name in IMAGE_CONSTRAINTS}

    def _specify(
        self,
        layer: str | list[str] | None,
        pooling: str,
        normalization: Any,
        store: EmbeddingStore | None,
        runtime: str | None = None,
    ) -> FeatureSpec:
        """Return the specification of embeddings; warns if the weights of the network are random."""
        from tlfeatures.extract import FeatureSpec
        from tlfeatures.networks import open_backbone

        backbone = open_backbone(
            self.model, self.weights, self.image_size, normalization, self.precision, runtime
        )
        if self.weights is None:
            warn(
                f"{backbone.name} has random weights: its embeddings are not pretrained. Leave out `weights=None` to "
                "use the ImageNet weights.",
                RandomWeightsWarning,
            )
        layers = [layer] if isinstance(layer, str) else layer
        return FeatureSpec.make(backbone, layers, pooling, store, **self._decoding())

    def __sklearn_clone__(self) -> Any:
        if not is_network(self.model):
            return super().__sklearn_clone__()
        # clones share the model instead of copying it, because no estimator modifies it
        without_model = type(self).__new__(type(self))
        without_model.__dict__.update({**vars(self), "model": None})
        clone = super(ImageEstimator, without_model).__sklearn_clone__()
        clone.model = self.model
        return clone


def _all_names(values: Any) -> bool:
    return bool(values) and all(isinstance(value, str) and value for value in values)
