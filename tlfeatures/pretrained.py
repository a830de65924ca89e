"""``ImageNetClassifier``: a pretrained network with its own 1,000 classes, used without training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from sklearn.base import ClassifierMixin

from tlfeatures._image_estimator import ImageEstimator
from tlfeatures._keras import is_model
from tlfeatures._params import check_parameter, check_parameters, integer, path
from tlfeatures.errors import InvalidParameterError
from tlfeatures.extract import Extracted
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.networks import find_network, imagenet_classes, layer_table, names_preset

if TYPE_CHECKING:
    import pandas

__all__ = ["ImageNetClassifier", "TopClasses", "classify"]

_UNREADABLE = "unreadable"


@dataclass(eq=False, repr=False)
class ImageNetClassifier(ClassifierMixin, ImageEstimator):
    """Classify images with a pretrained network and its own 1,000 classes, without training.

    The probabilities come from the store like any other embedding: each image goes through the network once.

    Parameters
    ----------
    model : str, path or keras.Model, default="mobilenet_0.75"
        The name, in any spelling, of a network with ImageNet's 1,000 classes (see `tlfeatures models`), or a
        ``.keras`` file or model whose last layer returns the probabilities of these classes in the same order. The
        default has 0.57 of the multiply-adds of "mobilenet", the default of `CNNFeatures`, and an accuracy of 68.4%
        instead of 70.6% (Howard et al. 2017).
    weights : "imagenet" or path, default="imagenet"
        Pretrained weights, or a ``.weights.h5`` or ``.h5`` file with the weights of all layers.
    image_size, resize, interpolation, decode, max_value, window, normalization, precision
        As in :class:`~tlfeatures.CNNFeatures`. Many networks with fully connected layers accept only their default
        size.
    batch_size, cache, n_jobs, verbose
        As in :class:`~tlfeatures.CNNFeatures`.
    on_error : {"raise", "nan"}, default="raise"
        On unreadable images, raise an :class:`~tlfeatures.errors.ImageReadError`; or warn once, and return rows of
        NaN, the prediction "unreadable" and an empty list of classes.

    Attributes
    ----------
    classes_ : ndarray of str, shape (1000,)
        Names of the classes in the order of the columns of `predict_proba`.
    wordnet_ids_ : ndarray of str, shape (1000,)
        WordNet ids of the classes.

    Raises
    ------
    InvalidParameterError
        If the network does not end in ImageNet's 1,000 classes, or a parameter is invalid. The error is also a
        ``ValueError``.
    WeightsError
        If the weights of all layers are not available; the message says which file is expected where. The error is also
        an ``OSError``.
    ImageInputError, ImageReadError
        If X is not a batch of images (also a ``ValueError``), or an image cannot be read (also an ``OSError``).

    Notes
    -----
    `fit` learns nothing and need not be called. To train a classifier of your own classes on the embeddings of a
    network, use :class:`~tlfeatures.CNNFeatures` in a pipeline.

    Examples
    --------
    >>> from tlfeatures import ImageNetClassifier
    >>> clf = ImageNetClassifier("mobilenet_0.75", resize="crop")
    >>> clf.classes_[[0, 281, 999]].tolist()
    ['tench', 'tabby', 'toilet tissue']
    >>> clf.top(["cat.jpg"], k=3)  # doctest: +SKIP
    [[('n02123045', 'tabby', 0.61), ('n02123159', 'tiger cat', 0.29), ('n02124075', 'Egyptian cat', 0.08)]]
    """

    model: Any = "mobilenet_0.75"
    _: KW_ONLY
    on_error: Literal["raise", "nan"] = "raise"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageEstimator._parameter_constraints,
        "weights": ["imagenet", path("the path of a file with the weights of all layers")],
        "on_error": ["raise", "nan"],
    }

    @property
    def classes_(self) -> np.ndarray:
        """Names of the classes."""
        return np.array([name for _, name in imagenet_classes()])

    @property
    def wordnet_ids_(self) -> np.ndarray:
        """WordNet ids of the classes."""
        return np.array([wordnet_id for wordnet_id, _ in imagenet_classes()])

    def fit(self, X: Any = None, y: Any = None) -> ImageNetClassifier:
        """Check the parameters; learns nothing.

        Parameters
        ----------
        X : ignored
        y : ignored

        Returns
        -------
        ImageNetClassifier
        """
        check_parameters(self)
        _find_top_layer(self.model)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the name of the most probable class of each image.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of str, shape (n,)
            "unreadable" for unreadable images when ``on_error="nan"``.
        """
        probabilities = self.predict_proba(X)
        readable = ~np.isnan(probabilities).any(axis=1)
        names = self.classes_[np.where(readable[:, None], probabilities, 0).argmax(axis=1)]
        return np.where(readable, names, _UNREADABLE)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Compute the probabilities of the classes, or read them from the store.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float32, shape (n, 1000)
            Rows of NaN for unreadable images when ``on_error="nan"``.
        """
        return self._extract(X).features

    def top(self, X: Any, k: int = 5) -> list[list[tuple[str, str, float]]]:
        """Return the k most probable classes of each image, in the form of Keras's ``decode_predictions``.

        Parameters
        ----------
        X : images
        k : int, default=5
            Number of classes, from 1 to 1,000.

        Returns
        -------
        list of n lists of k tuples (WordNet id, name, probability)
            The most probable class comes first. The list of an unreadable image is empty when ``on_error="nan"``.
        """
        return classify(self, X, k).classes

    def _extract(self, X: Any, **kwargs: Any) -> Extracted:
        check_parameters(self)
        cnn = CNNFeatures(layer=_find_top_layer(self.model), **self.get_params(deep=False))
        result = embed(cnn.fit(X), X, **kwargs)
        rows = result.features[~np.isnan(result.features).any(axis=1)]
        if (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1, atol=0.05):  # 0.05: rounding of float16
            raise ValueError(
                f"The outputs of {_describe(self.model)} are not probabilities, which are positive and add up to 1. "
                "Add a softmax layer at its end."
            )
        return result

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


@dataclass(frozen=True)
class TopClasses:
    """The most probable classes of images.

    Attributes
    ----------
    classes : list of n lists of tuples (WordNet id, name, probability)
        The most probable class comes first. The list of an unreadable image is empty.
    extracted : Extracted
        Result of the extraction: the reason for each unreadable image, digests, and counts.
    """

    classes: list[list[tuple[str, str, float]]]
    extracted: Extracted

    def to_frame(self, names: Sequence[str]) -> pandas.DataFrame:
        """Make a table with one row for each class of each image.

        Parameters
        ----------
        names : sequence of str
            Path or name of each image.

        Returns
        -------
        DataFrame
            Columns: "path", "rank" from 1, "class", "probability", "wordnet_id" and "error". An unreadable image has
            one row, with the reason in "error" and None in the columns between.
        """
        import pandas

        rows: list[tuple[Any, ...]] = []
        for i, image in enumerate(names):
            top = enumerate(self.classes[i], start=1)
            rows += [(image, rank, name, probability, key, None) for rank, (key, name, probability) in top]
            if i in self.extracted.errors:
                rows.append((image, None, None, None, None, self.extracted.errors[i]))
        columns = ["path", "rank", "class", "probability", "wordnet_id", "error"]
        return pandas.DataFrame(rows, columns=columns, dtype=object)


def classify(classifier: ImageNetClassifier, X: Any, k: int, **kwargs: Any) -> TopClasses:
    """Return ``classifier.top(X, k)`` with the errors and digests; ``kwargs`` are those of `extract`."""
    check_parameter("k", k, [integer(minimum=1, maximum=len(imagenet_classes()))])
    result = classifier._extract(X, **kwargs)
    top = []
    for row, probabilities in enumerate(result.features):
        # a stable sort: classes with equal probabilities stay in their order, as in `predict`
        columns = [] if row in result.errors else np.argsort(-probabilities, kind="stable")[:k].tolist()
        top.append([(*imagenet_classes()[i], float(probabilities[i])) for i in columns])
    return TopClasses(top, result)


def _find_top_layer(model: Any) -> str:
    """Return the name of the layer with the probabilities of ImageNet's classes."""
    is_file = isinstance(model, os.PathLike) or (isinstance(model, str) and model.endswith(".keras"))
    if is_model(model) or is_file:
        layers = layer_table(model)
        if layers and tuple(layers[-1]["shape"]) == (len(imagenet_classes()),):
            return layers[-1]["layer"]
    elif not names_preset(model) and (top := find_network(model).top):
        return top
    raise InvalidParameterError(
        f"`model` must be a network that ends in the {len(imagenet_classes()):,} classes of ImageNet, such as "
        f"'mobilenet_0.75'; got {_describe(model)}, which does not. Train a classifier of your own classes on its "
        "embeddings: make_pipeline(CNNFeatures(...), LogisticRegression()), or `tlfeatures fit`.",
        "model",
    )


def _describe(model: Any) -> str:
    return f"the model {model.name!r}" if is_model(model) else repr(os.fspath(model))
