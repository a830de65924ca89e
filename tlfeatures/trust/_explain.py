"""`explain`: maps of the regions of images that support or oppose a prediction."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from tlfeatures._params import check_parameter, integer
from tlfeatures._warnings import warn
from tlfeatures.errors import ImageReadError, InvalidParameterError, UnknownNameError, UnreadableImagesWarning
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Images
from tlfeatures.trust._conformal_classifier import ConformalClassifier
from tlfeatures.trust._conformal_regressor import ConformalRegressor
from tlfeatures.trust._explain_maps import PooledMaps, gradient_map, iterate_maps, occlusion_map
from tlfeatures.trust._explain_neighbors import TrainingEmbeddings
from tlfeatures.trust._explain_result import Explanations
from tlfeatures.trust._explain_values import HeadValues

__all__ = ["explain"]

_LINEAR = 1e-6  # largest deviation from linearity of a head that counts as linear, relative to its values
_SMOOTH = 0.1  # largest difference between numeric gradients with two step sizes, relative to the gradient


def explain(
    pipeline: Any,
    images: Any,
    *,
    label: Any = None,
    method: Literal["auto", "exact", "gradient", "occlusion"] = "auto",
    X_train: Any = None,
    y_train: Any = None,
    n_neighbors: int = 3,
) -> Explanations:
    """Compute maps of the regions of images that support or oppose a prediction.

    Parameters
    ----------
    pipeline : Pipeline, search or fine-tuned estimator
        A fitted scikit-learn Pipeline that begins with :class:`~tlfeatures.CNNFeatures`, a fitted search over such
        pipelines, a conformal estimator that was fitted on images, or a fitted
        :class:`~tlfeatures.FineTuneClassifier` or :class:`~tlfeatures.FineTuneRegressor`.
    images : images, as in :class:`~tlfeatures.CNNFeatures`
    label : class, optional
        The class that the maps explain; by default the predicted class of each image.
    method : {"auto", "exact", "gradient", "occlusion"}, default="auto"
        "exact" splits the decision value of a linear head among the positions of the feature map. "gradient"
        approximates this split for other heads by averaging numeric gradients on the line from the mean training
        embedding to the embedding of the image. "occlusion" leaves each position out of the pooling in turn. "auto" is
        "exact" for linear heads, "occlusion" for heads without a usable gradient, such as forests, and "gradient" for
        others.
    X_train : images, optional
        Training images; the result lists the nearest ones of each class. Their embeddings are read from the store if
        they are there.
    y_train : array-like of shape (n,), optional
        Labels of ``X_train``.
    n_neighbors : int, default=3
        Number of nearest training images of each class. Images that are identical to the explained one are left out.

    Returns
    -------
    Explanations

    Raises
    ------
    TypeError
        If ``pipeline`` is another object, or its head has no values to explain.
    ValueError
        If a layer of ``pipeline`` has no positions, ``label`` is not a class, or there is not one label for each
        training image.
    ImageReadError
        If no image can be read.

    Notes
    -----
    The network runs once for each image; the gradient is that of the head only, and needs no further pass. For each
    image, the mean of the map plus a constant is the explained value. With average pooling and a linear head, the maps
    are class activation maps (Zhou et al. 2016, "Learning deep features for discriminative localization"). With other
    heads they are those of Grad-CAM (Selvaraju et al. 2017), without its rectifier and with integrated gradients
    (Sundararajan et al. 2017). If the head does not center its input, the line of gradients starts at zero instead of
    the mean training embedding. For nearest neighbors, only the gradient at the embedding of the image is used. With
    maximum pooling, the value of a channel is assigned to the position where it is largest. Each position sees a region
    of the image that is larger than its cell, so maps are coarse.

    The explained value is the decision value of the head. For heads without decision values, it is the logarithm of the
    odds of the class. For nearest neighbors, all training images count, with weights that decrease with their distance,
    because the probabilities of the nearest ones change in steps. For ``SVC`` with three or more classes, whose
    decision values count votes, it is the mean of the pairwise decision values of the class against each other class.
    For fine-tuned networks without hidden layers in the head, it is the logit of the class minus the mean logit, or the
    difference of two logits.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from tlfeatures import CNNFeatures
    >>> X = np.zeros((4, 64, 64, 3), "uint8")
    >>> X[2:, 8:24, 8:24] = 255
    >>> pipeline = make_pipeline(CNNFeatures("tiny", image_size=64, cache=None), LogisticRegression())
    >>> result = explain(pipeline.fit(X, ["empty", "empty", "square", "square"]), X[2:3])
    >>> result.method, result.maps.shape, result.predictions.tolist()
    ('exact', (1, 4, 4), ['square'])
    >>> bool(np.isclose(result.maps[0].mean() + result.constants[0], pipeline.decision_function(X[2:3])[0]))
    True
    """
    check_parameter("method", method, ["auto", "exact", "gradient", "occlusion"])
    check_parameter("n_neighbors", n_neighbors, [integer(minimum=1)])
    cnn, head = _split_pipeline(pipeline)
    values = HeadValues(head)
    column = _find_column(label, values.classes)
    images = Images.of(images)
    training = None if X_train is None and y_train is None else TrainingEmbeddings(cnn, X_train, y_train)
    explainer = _Explainer(head, values, column, method)
    errors: dict[int, str] = {}
    for row, maps in iterate_maps(cnn, images):
        if isinstance(maps, str):
            errors[row] = maps
        else:
            explainer.add(row, maps)
    if errors:
        first = next(iter(errors))
        warn(
            f"{len(errors)} of {len(images)} images could not be read and have no map. The first is "
            f"{images.name(first)!r}: {errors[first]}.",
            UnreadableImagesWarning,
        )
    if not explainer.rows:
        raise ImageReadError.of([(images.name(row), reason) for row, reason in errors.items()], len(images))
    neighbors = None
    if training is not None:
        rows = np.array(explainer.rows)
        keys = images.take(rows).keys()[0]
        neighbors = training.find_nearest(values, rows, np.stack(explainer.embeddings), keys, n_neighbors)
    return explainer.collect(
        images=images,
        errors=errors,
        neighbors=neighbors,
        training_images=training and training.images,
        decoder=cnn._make_spec().decoder,
    )


class _Explainer:
    """Compute the maps of images one by one; the method is chosen at the first image."""

    def __init__(self, head: Any, values: HeadValues, column: int | None, method: str) -> None:
        self.head, self.values, self.column = head, values, column
        self.requested, self.method = method, ""
        self.rows: list[int] = []
        self.embeddings: list[np.ndarray] = []
        self.results: list[tuple[Any, int, float, float, np.ndarray]] = []

    def add(self, row: int, maps: PooledMaps) -> None:
        """Compute the map of an image."""
        embedding = maps.embedding[None]
        prediction = self._predict(embedding)
        column = self.column
        if column is None:
            column = (
                0
                if self.values.classes is None
                else int(np.flatnonzero(self.values.classes == prediction)[0])
            )

        def value(rows: np.ndarray) -> np.ndarray:
            return self.values(rows)[:, column]

        current = float(value(embedding)[0])
        self.method = self.method or self._choose_method(value, maps)
        if self.method == "occlusion":
            result = occlusion_map(value, maps)
        else:
            result = gradient_map(value, maps, self.values.find_baseline(embedding.size))
        constant = current - result.mean()
        if self.method == "exact":
            constant = float(value(np.zeros_like(embedding))[0])
        self.rows.append(row)
        self.embeddings.append(embedding[0])
        self.results.append((prediction, column, current, constant, result))

    def _predict(self, embedding: np.ndarray) -> Any:
        X: Any = embedding.astype(np.float32)
        if hasattr(self.head, "feature_names_in_"):
            import pandas

            X = pandas.DataFrame(X, columns=self.head.feature_names_in_)
        return np.asarray(self.head.predict(X))[0]

    def _choose_method(self, value: Any, maps: PooledMaps) -> str:
        baseline = self.values.find_baseline(maps.embedding.size)
        is_linear = self.values.has_coefficients and _is_linear(value, maps, baseline)
        if self.requested == "exact" and not is_linear:
            raise InvalidParameterError(
                f"`method='exact'` needs a linear head; got {self.values.head_name}. Use `method='auto'`, which "
                "chooses a method for this head.",
                "method",
            )
        if self.requested != "auto":
            return self.requested
        return "exact" if is_linear else "gradient" if _is_smooth(value, maps, baseline) else "occlusion"

    def collect(self, images: Images, **attributes: Any) -> Explanations:
        """Return the maps of all images; ``attributes`` are those of the result that do not depend on the head."""
        predictions, columns, values, constants, maps = zip(*self.results, strict=True)
        classes = self.values.classes
        return Explanations(
            method=self.method,  # type: ignore[arg-type]
            value=self.values.name,
            classes=classes,
            rows=np.array(self.rows),
            names=[images.name(row) for row in self.rows],
            predictions=np.array(predictions),
            labels=None if classes is None else classes[list(columns)],
            values=np.array(values),
            constants=np.array(constants),
            maps=np.stack(maps),
            images=images,
            **attributes,
        )


def _split_pipeline(pipeline: Any) -> tuple[CNNFeatures, Any]:
    """Return the fitted transformer and the head of a pipeline, a search or a fine-tuned estimator."""
    estimator = getattr(pipeline, "best_estimator_", pipeline)
    if isinstance(estimator, (ConformalClassifier, ConformalRegressor)) and hasattr(estimator, "cnn_"):
        return estimator.cnn_, estimator.estimator_
    if hasattr(estimator, "to_pipeline"):
        check_is_fitted(estimator)
        estimator = estimator.to_pipeline()
    steps = estimator.steps if isinstance(estimator, Pipeline) else []
    if len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures):
        raise InvalidParameterError(
            f"`pipeline` is an object of type {type(pipeline).__name__}; expected a fitted scikit-learn Pipeline "
            "that begins with CNNFeatures and ends with a classifier or regressor, a search over such pipelines, or a "
            "fine-tuned estimator.",
            "pipeline",
        )
    check_is_fitted(steps[0][1], "recipes_")
    return steps[0][1], estimator[1:]


def _find_column(label: Any, classes: np.ndarray | None) -> int | None:
    """Return the column of the values of a class; None for the predicted class."""
    if label is None:
        return None
    if classes is None:
        raise InvalidParameterError(
            f"`label` must be None for a head without classes; got {label!r}.", "label"
        )
    columns = [i for i, c in enumerate(classes.tolist()) if c == label or str(c) == str(label)]
    if not columns:
        raise UnknownNameError.of("class", label, map(str, classes.tolist()), parameter="label")
    return columns[0]


def _is_linear(value: Any, maps: PooledMaps, baseline: np.ndarray | None) -> bool:
    """Check at some points whether a value is a linear function of the embedding plus a constant."""
    embedding = maps.embedding
    zero, once, twice = value(np.outer([0.0, 1.0, 2.0], embedding))
    gradient = gradient_map(value, maps, baseline)
    tolerance = _LINEAR * (1 + abs(zero) + abs(once) + np.abs(gradient).mean())
    return abs(zero + twice - 2 * once) <= tolerance and abs(gradient.mean() + zero - once) <= tolerance


def _is_smooth(value: Any, maps: PooledMaps, baseline: np.ndarray | None) -> bool:
    """Return whether a value has a gradient: numeric gradients with two step sizes agree and are not zero."""
    fine, coarse = (gradient_map(value, maps, baseline, step) for step in (1e-3, 2e-3))
    size = np.abs(fine).max()
    return bool(size > 0 and np.abs(fine - coarse).max() <= _SMOOTH * size)
