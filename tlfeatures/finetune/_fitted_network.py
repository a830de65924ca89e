"""Fitted networks: prediction, and conversion to JSON and arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._keras import is_model, keras, to_numpy, untouched_random_state
from tlfeatures._keras.frozen import compile_frozen
from tlfeatures.errors import ImageReadError
from tlfeatures.finetune._trunk import join
from tlfeatures.images import Decoder, Images, decode_batches
from tlfeatures.networks import full_config

__all__ = ["FittedNetwork"]


@dataclass
class FittedNetwork:
    """A trained network with its head.

    Attributes
    ----------
    trunk_source : keras.Model or callable
        The trunk, or a function that builds it on first use.
    head : keras.Model
        Model from the embedding to the outputs.
    columns : list of (int, str, int or None)
        Index of the output of the trunk, pooling, and number of tokens that are not those of patches, of each part of
        the embedding.
    decoding : dict
        Arguments of :class:`~tlfeatures.images.Decoder`.
    precision : str
    """

    trunk_source: Any
    head: Any
    columns: list[tuple[int, str, int | None]]
    decoding: dict[str, Any]
    precision: str

    @cached_property
    def trunk(self) -> Any:
        """The network, from pixels in 0..255 to the taps, including normalization."""
        return self.trunk_source if is_model(self.trunk_source) else self.trunk_source()

    @cached_property
    def model(self) -> Any:
        """The model from pixels to the outputs of the head."""
        return join(self.trunk, self.columns, self.head)

    @cached_property
    def embedding_model(self) -> Any:
        """The model from pixels to the embedding, which is the input of the head."""
        return join(self.trunk, self.columns, keras().layers.Identity(name="embedding", dtype="float32"))

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder of images."""
        return Decoder(**{**self.decoding, "image_size": tuple(self.decoding["image_size"])})

    @cached_property
    def _run(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        ops = keras().ops
        return compile_frozen(
            self.model, lambda x: ops.cast(x, "float32"), lambda ys: [ops.cast(y, "float32") for y in ys],
            self.precision,
        )  # fmt: skip

    def outputs(
        self,
        images: Images,
        batch_size: int,
        n_threads: int | None = None,
        views: Callable[[np.ndarray, int], list[np.ndarray]] | None = None,
    ) -> np.ndarray:
        """Return the outputs of the head, float64 of shape (n_views + 1, n, n_outputs).

        Parameters
        ----------
        images : Images
        batch_size : int
        n_threads : int, optional
        views : callable, optional
            Function from the pixels and the number of a batch to a list of augmented views of it.
        """
        outputs, failures = [], []
        size = min(batch_size, len(images))
        for i, (part, _, batch, errors) in enumerate(
            decode_batches(images, np.arange(len(images)), self.decoder, size, n_threads)
        ):
            failures += [(images.name(row), reason) for row, reason in errors.items()]
            if failures:  # later images are only decoded, so that the error lists all unreadable ones
                continue
            padded = np.resize(np.arange(len(part)), size)
            all_views = [batch, *(views(batch, i) if views else ())]
            outputs.append([self._run(view[padded])[0][: len(part)] for view in all_views])
        if failures:
            raise ImageReadError.of(failures, len(images), "check_images(X) lists them all.")
        return np.stack([np.concatenate(batches) for batches in zip(*outputs, strict=True)]).astype(
            np.float64
        )

    # -- conversion -----------------------------------------------------------------------------

    def to_parts(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Convert to a JSON object and arrays, the arguments of :meth:`from_parts`."""
        about = {
            "trunk": _describe_model(self.trunk),
            "head": json.loads(self.head.to_json()),
            "columns": [list(column) for column in self.columns],
            "decoding": self.decoding,
            "precision": self.precision,
            "trunk_weights": len(self.trunk.weights),
        }
        return about, [to_numpy(v) for v in (*self.trunk.weights, *self.head.weights)]

    @classmethod
    def from_parts(
        cls, about: dict[str, Any], arrays: list[np.ndarray], trust: bool = False
    ) -> FittedNetwork:
        """Build from the result of :meth:`to_parts`; with ``trust``, layers may run any code."""
        n = about["trunk_weights"]
        trunk = cls.model_from(about["trunk"], arrays[:n], trust)
        return cls(
            trunk,
            cls.model_from(about["head"], arrays[n:], trust),
            [tuple(column) for column in about["columns"]],
            about["decoding"],
            about["precision"],
        )

    @staticmethod
    def model_from(config: dict[str, Any], arrays: list[np.ndarray], trust: bool = False) -> Any:
        """Build a model of Keras from its configuration and weights."""
        with untouched_random_state():
            model = keras().saving.deserialize_keras_object(config, safe_mode=not trust)
        model.set_weights(arrays)
        for layer in model.layers:
            if hasattr(layer, "finalize_state"):  # Normalization derives attributes from its weights
                layer.finalize_state()
        return model


def _describe_model(model: Any) -> dict[str, Any]:
    """Return the configuration of a model as JSON, from which all of its layers can be made again."""
    description = json.loads(model.to_json())
    for record in description["config"]["layers"]:
        config, full = record["config"], full_config(model.get_layer(record["config"]["name"]))
        record["config"] = {name: config.get(name, value) for name, value in full.items()}
    return description
