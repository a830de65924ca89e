"""``ZeroShotClassifier``: classes described in words, compared with images by a network that embeds both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import NotFittedError

from tlfeatures._image_estimator import ImageEstimator
from tlfeatures._image_options import IMAGE_CONSTRAINTS
from tlfeatures._inputs import as_labels, is_missing
from tlfeatures._params import Constraint, check_parameters
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.networks import embed_texts, identify_texts, preset_resizing

__all__ = ["ZeroShotClassifier"]

_UNREADABLE = "unreadable"


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and value.count("{}") == 1


@dataclass(eq=False, repr=False)
class ZeroShotClassifier(ClassifierMixin, ImageEstimator):
    """Classify images by the similarity of their embeddings to those of descriptions of the classes.

    Networks such as CLIP and SigLIP embed images and texts in one space. No image is needed for training: a class is
    described by its name in a template. The embeddings of the images come from the store like those of `CNNFeatures`,
    so that other classes or templates can be tried without running the network on the images again.

    Parameters
    ----------
    model : str or path, default="clip_vit_base_patch32"
        The name of a network with a text encoder, which begins with "clip" or "siglip" (see `tlfeatures models`), or
        the folder of such a preset of KerasHub.
    classes : sequence of str, or mapping, optional
        Names of two classes or more, or a mapping from the label of each class to its name, for labels that do not
        describe the images: ``{0: "dog", 1: "cat"}``. Labels are all texts or all numbers. By default, `fit` takes the
        labels of ``y``, which must then be texts, as names.
    template : str or sequence of str, default="a photo of a {}."
        Text in which ``{}`` stands for the name of the class. The embeddings of several templates are averaged, which
        often raises the accuracy by a few points [1]_.
    resize, interpolation : str, default="auto"
        As in :class:`~tlfeatures.CNNFeatures`; "auto" is how the images of the network's training were resized.
    weights, image_size, decode, max_value, window, normalization, precision
        As in :class:`~tlfeatures.CNNFeatures`.
    batch_size, cache, n_jobs, verbose
        As in :class:`~tlfeatures.CNNFeatures`.
    on_error : {"raise", "nan"}, default="raise"
        On unreadable images, raise an :class:`~tlfeatures.errors.ImageReadError`; or warn once, and return rows of
        NaN as probabilities. The prediction is then "unreadable", or the lowest label minus 1 if labels are numbers.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes in sorted order, which is that of the columns of `predict_proba`.
    text_embeddings_ : ndarray of float32, shape (n_classes, n_features)
        Embeddings of the classes, of length 1.
    logit_scale_ : float
        The factor by which the network multiplies cosine similarities.

    Raises
    ------
    InvalidParameterError
        If the network has no text encoder, or a parameter is invalid. Also a ``ValueError``.
    MissingDependencyError
        If KerasHub is not installed. Also an ``ImportError``.
    ImageInputError, ImageReadError
        If X is not a batch of images (also a ``ValueError``), or an image cannot be read (also an ``OSError``).

    See Also
    --------
    ImageNetClassifier : A network with its own 1,000 classes.

    Notes
    -----
    Probabilities are the softmax of the scaled similarities [1]_. SigLIP is trained with one sigmoid for each pair of
    image and text [2]_; its probabilities here also add up to 1 over the classes, and the most probable class is the
    same. `fit` learns nothing from images. It need not be called if ``classes`` are given.

    References
    ----------
    .. [1] Radford et al. 2021, "Learning transferable visual models from natural language supervision",
       https://arxiv.org/abs/2103.00020
    .. [2] Zhai et al. 2023, "Sigmoid loss for language image pre-training", https://arxiv.org/abs/2303.15343

    Examples
    --------
    >>> from tlfeatures import ZeroShotClassifier
    >>> clf = ZeroShotClassifier(classes=["cat", "dog", "horse"], template="a photo of a {}.")
    >>> clf.predict(["cat.jpg"])  # doctest: +SKIP
    array(['cat'], dtype='<U5')
    """

    model: Any = "clip_vit_base_patch32"
    _: KW_ONLY
    resize: Literal["auto", "stretch", "crop", "pad"] = "auto"
    interpolation: str = "auto"
    classes: Sequence[str] | Mapping[Any, str] | None = None
    template: str | Sequence[str] = "a photo of a {}."
    on_error: Literal["raise", "nan"] = "raise"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageEstimator._parameter_constraints,
        "resize": ["auto", *IMAGE_CONSTRAINTS["resize"]],
        "interpolation": ["auto", *IMAGE_CONSTRAINTS["interpolation"]],
        "classes": [
            None,
            Constraint("a sequence of two or more different names", lambda value: _are_names(value)),
            Constraint(
                "a mapping from two or more labels, all texts or all numbers, to names",
                lambda value: (
                    isinstance(value, Mapping) and _are_labels(list(value)) and _are_texts(value.values())
                ),
            ),
        ],
        "template": [
            Constraint("a text in which {} stands once for the name of the class", _is_template),
            Constraint(
                "a sequence of such texts",
                lambda value: (
                    isinstance(value, (list, tuple)) and bool(value) and all(map(_is_template, value))
                ),
            ),
        ],
        "on_error": ["raise", "nan"],
    }

    def fit(self, X: Any = None, y: Any = None) -> ZeroShotClassifier:
        """Embed the descriptions of the classes.

        Parameters
        ----------
        X : ignored
        y : array-like of shape (n,), optional
            Labels, needed if ``classes`` is None. If ``classes`` are given, they must contain all labels.

        Returns
        -------
        ZeroShotClassifier

        Raises
        ------
        ValueError
            If there is one class only, a label is not in ``classes``, a description is longer than the network can
            read, or two classes have the same description.
        """
        check_parameters(self)
        return self._embed_classes(self._name_classes(y))

    def _name_classes(self, y: Any) -> dict[Any, str]:
        """Return the names of the classes by their labels, in sorted order."""
        labels = [] if y is None else list(dict.fromkeys(np.asarray(as_labels(y)).tolist()))
        if any(map(is_missing, labels)):
            raise ValueError("y contains missing labels; expected a class for each image.")
        if self.classes is None:
            if len(labels) < 2 or not _are_texts(labels):
                raise ValueError(
                    f"`classes` is None and y has {len(labels)} classes: {labels[:5]}. Expected the names of two "
                    "classes or more. Pass classes=['cat', 'dog'], or classes={0: 'cat', 1: 'dog'} for labels that are "
                    "numbers."
                )
            return {label: label for label in sorted(labels)}
        names = (
            dict(self.classes) if isinstance(self.classes, Mapping) else {name: name for name in self.classes}
        )
        if unknown := [label for label in labels if label not in names]:
            raise ValueError(
                f"y has labels that are not in `classes`: {', '.join(map(repr, unknown[:5]))}. Add them, or pass a "
                f"mapping from each label to a name, such as classes={{{unknown[0]!r}: 'cat', ...}}."
            )
        if self.on_error == "nan" and _UNREADABLE in names:
            raise ValueError(
                f"`classes` contains {_UNREADABLE!r}, which with on_error='nan' is the prediction for unreadable "
                "images. Pass on_error='raise', or a mapping from another label."
            )
        return {label: names[label] for label in sorted(names)}

    def _embed_classes(self, names: dict[Any, str]) -> ZeroShotClassifier:
        texts, n_templates = self._describe_classes(names)
        embeddings, self.logit_scale_, self._layer = embed_texts(self.model, texts)
        self._resizing = preset_resizing(self.model)
        self._make_cnn()._make_spec()  # raises errors of the parameters
        means = _normalize(embeddings).reshape(len(names), n_templates, -1).mean(axis=1)
        for i, name in enumerate(names.values()):
            if (means[:i] == means[i]).all(axis=1).any():
                raise ValueError(
                    f"The network reads the same text for {name!r} and another class: {texts[i * n_templates]!r}. "
                    "Expected names that differ in more than capitals and punctuation."
                )
        self._names, self.classes_ = names, np.array(list(names))
        self.text_embeddings_ = _normalize(means)
        self._texts = identify_texts(self.model, texts)
        return self

    def _describe_classes(self, names: dict[Any, str]) -> tuple[list[str], int]:
        """Return the text of each class in each template, and the number of templates."""
        templates = [self.template] if isinstance(self.template, str) else list(self.template)
        return [text.replace("{}", name) for name in names.values() for text in templates], len(templates)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most similar class of each image.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,)
        """
        fitted = self._fitted()
        probabilities = fitted.predict_proba(X)
        readable = ~np.isnan(probabilities).any(axis=1)
        labels = fitted.classes_[np.where(readable[:, None], probabilities, 0).argmax(axis=1)]
        if readable.all():
            return labels
        return np.where(
            readable, labels, _UNREADABLE if labels.dtype.kind in "US" else fitted.classes_.min() - 1
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Compute the probabilities of the classes.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float32, shape (n, n_classes)
            In the order of ``classes_``. Rows of NaN for unreadable images when ``on_error="nan"``.
        """
        fitted = self._fitted()
        features = embed(fitted._make_cnn().fit(X), X).features
        return softmax(fitted.logit_scale_ * (_normalize(features) @ fitted.text_embeddings_.T), axis=1)

    def _make_cnn(self) -> CNNFeatures:
        """Make the transformer whose embeddings are compared with those of texts."""
        parameters = self.get_params(deep=False)
        del parameters["classes"], parameters["template"]
        for name, value in self._resizing.items():
            if parameters[name] == "auto":
                parameters[name] = value
        return CNNFeatures(layer=self._layer, **parameters)

    def _fitted(self) -> ZeroShotClassifier:
        """Return the fitted estimator: this one, or a copy if the classes, templates or network have changed."""
        check_parameters(self)
        if self.classes is None and not hasattr(self, "_names"):
            raise NotFittedError(
                "This ZeroShotClassifier has no classes yet. Pass classes=['cat', 'dog'], or call `fit` with labels."
            )
        names = self._names if self.classes is None else self._name_classes(None)
        texts, _ = self._describe_classes(names)
        if getattr(self, "_texts", None) == identify_texts(self.model, texts) and list(self._names) == list(
            names
        ):
            return self
        return clone(self)._embed_classes(names)

    def __sklearn_is_fitted__(self) -> bool:
        return self.classes is not None or hasattr(self, "text_embeddings_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) and value.strip() for value in values)


def _are_names(value: Any) -> bool:
    names = list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
    return len(names) > 1 and _are_texts(names) and len(set(names)) == len(names)


def _are_labels(labels: list[Any]) -> bool:
    are_numbers = all(isinstance(label, Real) and not is_missing(label) for label in labels)
    return len(labels) > 1 and (are_numbers or all(isinstance(label, str) for label in labels))


def _normalize(rows: np.ndarray) -> np.ndarray:
    """Scale rows to length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
