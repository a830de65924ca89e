"""Specification of embeddings: network, decoder and columns, and the recipe of each block of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures.errors import ImageReadError, InvalidParameterError
from tlfeatures.images import Decoder, Images, decode_batches, list_views
from tlfeatures.networks import Backbone, Description, Tap, pooling_parts, pooling_width
from tlfeatures.store import EmbeddingStore

__all__ = ["FeatureBlock", "FeatureSpec"]

_CALIBRATION_IMAGES = 256
_RECIPE_FORMAT = 2  # rows of other formats in a store are recomputed


@dataclass(frozen=True)
class FeatureBlock:
    """The columns of one pooled tap, with their own recipe.

    Parameters
    ----------
    tap : Tap
    part : str
        The stored pooling.
    recipe : dict
        Everything that determines the values, except for the decoder of encoded images.
    """

    tap: Tap
    part: str
    recipe: dict[str, Any] = field(hash=False)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.recipe["width"]


@dataclass(frozen=True)
class FeatureSpec:
    """Specification of embeddings: the network, the pixels that it gets and the columns of the result.

    Parameters
    ----------
    backbone : Backbone
    description : Description
    decoder : Decoder
    columns : tuple of FeatureBlock
        In the order of the result.
    views : str or None, default=None
        The kind of views of each image whose embeddings are averaged; see `list_views`.
    """

    backbone: Backbone
    description: Description
    decoder: Decoder
    columns: tuple[FeatureBlock, ...]
    views: str | None = None

    @classmethod
    def make(
        cls,
        backbone: Backbone,
        layers: Sequence[str] | None,
        pooling: str,
        store: EmbeddingStore | None = None,
        **decoding: Any,
    ) -> FeatureSpec:
        """Make the specification of the concatenated embeddings of layers.

        Parameters
        ----------
        backbone : Backbone
        layers : sequence of str or None
            None means the last feature map.
        pooling : str
        store : EmbeddingStore or None
            The store of the metadata of the network.
        **decoding
            ``resize``, ``interpolation``, ``decode``, ``max_value`` and ``window`` of
            :class:`~tlfeatures.images.Decoder`.
        """
        pooling_parts(pooling, 2)  # raise for an unknown name before a network is loaded
        description = backbone.describe(layers, store)
        decoder = Decoder(description.image_size, **decoding)
        spec = cls(backbone, description, decoder, ())
        columns = [spec.column(tap, part) for tap in description.taps for part in tap.parts(pooling)]
        return cls(backbone, description, decoder, tuple(columns))

    def with_views(self, views: str | None) -> FeatureSpec:
        """Return the specification of the mean embeddings of the views of each image."""
        spec = replace(self, views=views)
        return replace(spec, columns=tuple(spec.column(c.tap, c.part) for c in self.columns))

    def with_calibration(self, images: Any, n_threads: int | None = None) -> FeatureSpec:
        """Return the specification of the embeddings of the network in 8-bit integers.

        Parameters
        ----------
        images : images, as :class:`~tlfeatures.images.Images` accepts them
            At most 256 are used, at equal distances; an array of pixels of the right size is used as it is.
        n_threads : int or None
            Number of decoding threads.

        Raises
        ------
        InvalidParameterError
            If there are several layers.
        ImageReadError
            If an image cannot be read.
        """
        if len(self.description.taps) > 1:
            raise InvalidParameterError(
                f"`layer` must be a single layer with precision='int8', because the values of a layer would depend on "
                f"the others; got {[tap.layer for tap in self.description.taps]}. Concatenate several CNNFeatures, for "
                "example with sklearn.pipeline.make_union.",
                "layer",
            )
        self.backbone.quantize(_decode_calibration(Images.of(images), self.decoder, n_threads))
        return self.with_views(self.views)

    def by_view(self) -> list[FeatureSpec]:
        """Return the specification of the embeddings of each view; the first is that of the images themselves."""
        decoders = [replace(self.decoder, view=view) for view in list_views(self.views)]
        return [replace(self, decoder=decoder).with_views(None) for decoder in decoders]

    def column(self, tap: Tap, part: str) -> FeatureBlock:
        """Return the block of columns of one tap and stored pooling, with its recipe."""
        recipe = {
            "format": _RECIPE_FORMAT,
            "network": self.description.name,
            "digest": tap.digest,
            "layer": tap.layer,
            "pooling": part,
            "normalization": self.description.normalization,
            "precision": self.backbone.precision,
            "width": pooling_width(part, tap.shape),
            "dtype": "float32",
            **self.decoder.recipe(),
        }
        if self.backbone.runtime is not None and self.backbone.precision != "float32":
            recipe["runtime"] = self.backbone.runtime  # in float32, runtimes differ by rounding only
        recipe |= self.backbone.quantization
        if tap.process is not None:
            recipe["process"] = tap.process
        if self.views is not None:
            recipe["views"] = self.views
        return FeatureBlock(tap, part, recipe)

    @cached_property
    def slices(self) -> list[slice]:
        """The columns of each block in the result."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return [slice(end - column.width, end) for end, column in zip(ends, self.columns, strict=True)]

    @property
    def width(self) -> int:
        """Number of columns of the result."""
        return sum(column.width for column in self.columns)

    def add_free_poolings(self, columns: Sequence[FeatureBlock]) -> list[FeatureBlock]:
        """Add the average and the maximum of the same taps, which the same pass computes almost for free."""
        free = [self.column(c.tap, part) for c in columns for part in c.tap.parts("avgmax")]
        return list({(c.tap.layer, c.part): c for c in [*columns, *free]}.values())


def _decode_calibration(images: Images, decoder: Decoder, n_threads: int | None) -> np.ndarray:
    """Return the pixels of the images with which a network is quantized; uint8 (n, h, w, 3)."""
    rows = np.linspace(0, len(images) - 1, min(len(images), _CALIBRATION_IMAGES)).astype(int).tolist()
    parts: list[np.ndarray] = []
    errors: dict[int, str] = {}
    for _, _, batch, unreadable in decode_batches(images, rows, decoder, 32, n_threads):
        parts.append(batch)
        errors |= unreadable
    if errors:
        failures = [(images.name(row), reason) for row, reason in sorted(errors.items())]
        raise ImageReadError.of(failures, len(rows), "Leave it out of `calibration_images`.")
    return np.concatenate(parts)
