"""Predictions and scores of fitted models for images, some of which may be unreadable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from tlfeatures._text import count
from tlfeatures.evaluation import (
    ClassificationScores,
    RegressionScores,
    match_labels,
    score_classes,
    score_numbers,
)
from tlfeatures.extract import Extracted
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor
from tlfeatures.images import Images
from tlfeatures.trust import (
    ConformalClassifier,
    ConformalPredictions,
    ConformalRegressor,
    describe_coverage,
    predict_conformal,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["Evaluation", "FittedModel", "Predictions"]


@dataclass(frozen=True)
class Predictions:
    """Predictions for the images that could be read.

    Attributes
    ----------
    extracted : Extracted
        Result of the extraction: the reason for each unreadable image, digests, and counts.
    rows : ndarray of int, shape (m,)
        Rows of the images that could be read.
    values : ndarray of shape (m,)
        Predicted labels or numbers.
    classes : ndarray of shape (n_classes,) or None
        None for regression.
    probabilities : ndarray of shape (m, n_classes) or None
        None if the model has no probabilities.
    decision : ndarray of shape (m,) or None
        Decision value of the predicted class, for classifiers without probabilities.
    conformal : ConformalPredictions or None
        Sets of classes or intervals; None unless the last step of the model is a
        :class:`~tlfeatures.ConformalClassifier` or :class:`~tlfeatures.ConformalRegressor`.
    """

    extracted: Extracted
    rows: np.ndarray
    values: np.ndarray
    classes: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    decision: np.ndarray | None = None
    conformal: ConformalPredictions | None = None

    def to_frame(self, names: Sequence[str], proba: bool = False) -> pandas.DataFrame:
        """Make a table with one row for each image, including the unreadable ones.

        Parameters
        ----------
        names : sequence of str
            Path or name of each image.
        proba : bool, default=False
            Whether to add a column for the probability of each class.

        Returns
        -------
        DataFrame
            Columns: "path"; "prediction"; "probability" or "decision" of the predicted class, if available; "set"
            (classes separated by "|") and "p_value" of the predicted class, or "lower" and "upper", and "unusual", if
            available; "proba_CLASS" for each class, if ``proba``; and "error", the reason if the image could not be
            read, else None. An unreadable image has None in all columns between "path" and "error".
        """
        import pandas

        columns: dict[str, Any] = {"prediction": self.values}
        if self.probabilities is not None:
            columns["probability"] = self._of_predicted_class(self.probabilities)
        elif self.decision is not None:
            columns["decision"] = self.decision
        if self.conformal is not None:
            columns |= self.conformal.make_columns(self.classes)
        if self.probabilities is not None and proba:
            columns |= {f"proba_{c}": self.probabilities[:, i] for i, c in enumerate(self.classes.tolist())}
        frame = pandas.DataFrame({"path": list(names)}, dtype=object)
        for name, values in columns.items():
            column = np.full(len(frame), None, object)
            column[self.rows] = values.tolist()
            frame[name] = pandas.Series(column, dtype=object)  # pandas would convert None to NaN
        errors = self.extracted.errors
        frame["error"] = pandas.Series([errors.get(row) for row in range(len(frame))], dtype=object)
        return frame

    def _of_predicted_class(self, values: np.ndarray) -> np.ndarray:
        return values[np.arange(len(values)), np.searchsorted(self.classes, self.values)]


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on labelled images.

    Attributes
    ----------
    scores : ClassificationScores or RegressionScores
    predictions : Predictions
    n_used_for_training : int or None
        Number of images that were used for training; None if the model has no digests of its training images.
    conformal : dict or None
        Coverage and mean size of sets or intervals, and the share of unusual images; None if the model has none.
    """

    scores: ClassificationScores | RegressionScores
    predictions: Predictions
    n_used_for_training: int | None
    conformal: dict[str, float] | None = None

    def summary(self) -> dict[str, Any]:
        """Summarize the evaluation in one dict.

        Returns
        -------
        dict
            "task"; "evaluated", the number of images; "used_for_training", the number of these; the numbers of images
            by the source of their embeddings; "skipped", the reason for each row that could not be read; the scores;
            and "conformal", if the model has sets or intervals.
        """
        extracted = self.predictions.extracted
        return {
            "task": "regression" if self.predictions.classes is None else "classification",
            "evaluated": len(self.predictions.rows),
            "used_for_training": self.n_used_for_training,
            **vars(extracted.counts),
            "skipped": extracted.errors,
            **vars(self.scores),
            **({} if self.conformal is None else {"conformal": self.conformal}),
        }

    def describe(self) -> list[str]:
        """Describe the scores and, if the model has sets or intervals, their coverage.

        Returns
        -------
        list of str
            One or two sentences.
        """
        sentences = [f"{self.scores.describe()} on {count(len(self.predictions.rows), 'image')}"]
        if self.conformal is not None:
            unusual = ""
            if "unusual" in self.conformal:
                unusual = f"; {self.conformal['unusual']:.1%} of the images are unusual"
            sentences.append(f"{describe_coverage(self.conformal)}{unusual}.")
        return sentences


class FittedModel:
    """A fitted model that predicts for all readable images, and gives the reason for each unreadable one.

    Parameters
    ----------
    estimator : Pipeline, TrainOnViews, search or fine-tuned estimator
        A fitted scikit-learn Pipeline that begins with :class:`~tlfeatures.CNNFeatures`, a fitted
        :class:`~tlfeatures.TrainOnViews`, a fitted search over these, a fitted
        :class:`~tlfeatures.FineTuneClassifier` or :class:`~tlfeatures.FineTuneRegressor`, or a
        :class:`~tlfeatures.ConformalClassifier` or :class:`~tlfeatures.ConformalRegressor` of such a pipeline.

    Attributes
    ----------
    cnn : CNNFeatures
    head : estimator
        The steps of the pipeline after ``cnn``.
    classes : ndarray or None
        None for regression.
    confidence : {"probability", "decision"} or None
        The value that the model can give for its confidence in a prediction.

    Raises
    ------
    TypeError
        If ``estimator`` is another object.

    Notes
    -----
    Embeddings are read from the store. With test-time augmentation (``tta`` of a fine-tuned estimator) the network runs
    for each prediction.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> X = np.zeros((4, 32, 32, 3), "uint8")
    >>> X[2:, 8:24, 8:24] = 255
    >>> pipeline = Pipeline([("cnn", CNNFeatures("tiny", image_size=32, cache=None)), ("svm", SVC())])
    >>> model = FittedModel(pipeline.fit(X, ["empty", "empty", "square", "square"]))
    >>> model.predict(X[1:3]).to_frame(["a", "b"])["prediction"].tolist()
    ['empty', 'square']
    >>> model.evaluate(X, np.array(["empty", "empty", "square", "square"])).scores.accuracy
    1.0
    """

    def __init__(self, estimator: Any) -> None:
        for name in ("best_estimator_", "pipeline_"):  # of a search such as GridSearchCV, and of TrainOnViews
            estimator = getattr(estimator, name, estimator)
        self._training_digests = getattr(estimator, "training_digests_", None)
        self._with_views = None
        pipeline = estimator
        if isinstance(estimator, (FineTuneClassifier, FineTuneRegressor)):
            pipeline = estimator.to_pipeline()
            self._with_views = estimator if estimator.tta else None
        elif isinstance(estimator, (ConformalClassifier, ConformalRegressor)) and hasattr(estimator, "cnn_"):
            pipeline = estimator.to_pipeline()
        steps = pipeline.steps if isinstance(pipeline, Pipeline) else []
        if len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures) or not hasattr(pipeline, "predict"):
            raise TypeError(
                f"`estimator` is an object of type {type(estimator).__name__}; expected a scikit-learn Pipeline that "
                "begins with CNNFeatures, or a fine-tuned estimator."
            )
        self.cnn: CNNFeatures = steps[0][1]
        self.head: Any = pipeline[1:]

    @property
    def pipeline(self) -> Pipeline:
        """Pipeline with the steps "cnn" and "head"."""
        return Pipeline([("cnn", self.cnn), ("head", self.head)])

    @property
    def classes(self) -> np.ndarray | None:
        """Classes of the model; None for regression."""
        return getattr(self.head, "classes_", None)

    @property
    def confidence(self) -> str | None:
        """The value that the model can give for its confidence in a prediction: "probability", "decision" or None."""
        if self.classes is None:
            return None
        methods = {"probability": "predict_proba", "decision": "decision_function"}
        return next((name for name, method in methods.items() if hasattr(self.head, method)), None)

    def predict(self, X: Any) -> Predictions:
        """Predict for the images that can be read.

        Parameters
        ----------
        X : images, as in :class:`~tlfeatures.CNNFeatures`

        Returns
        -------
        Predictions
        """
        images = Images.of(X)
        extracted = embed(self.cnn, images, on_error="nan")
        rows, classes = extracted.rows, self.classes
        if not len(rows):
            return self._predict_nothing(extracted)
        model, inputs = self.head, extracted.features[rows]
        if self._with_views is not None:
            model, inputs = self._with_views, images.take(rows)
        elif hasattr(self.head, "feature_names_in_"):  # fitted with set_output(transform="pandas")
            import pandas

            inputs = pandas.DataFrame(inputs, columns=self.cnn.get_feature_names_out())
        if self._with_views is not None and self.confidence == "probability":
            probabilities = np.asarray(model.predict_proba(inputs))
            return Predictions(extracted, rows, classes[probabilities.argmax(1)], classes, probabilities)
        probabilities = np.asarray(model.predict_proba(inputs)) if self.confidence == "probability" else None
        values = np.asarray(model.predict(inputs))
        decision = self._decide(inputs, values) if probabilities is None else None
        conformal = predict_conformal(self.head, inputs)
        return Predictions(extracted, rows, values, classes, probabilities, decision, conformal)

    def _predict_nothing(self, extracted: Extracted) -> Predictions:
        rows, empty, classes = np.empty(0, int), np.empty(0), self.classes
        conformal = predict_conformal(self.head, extracted.features[rows])
        if classes is None:
            return Predictions(extracted, rows, empty, conformal=conformal)
        probabilities = np.empty((0, len(classes))) if self.confidence == "probability" else None
        decision = empty if self.confidence == "decision" else None
        return Predictions(extracted, rows, classes[:0], classes, probabilities, decision, conformal)

    def _decide(self, inputs: Any, values: np.ndarray) -> np.ndarray | None:
        """Return the decision value of the predicted class; NaN if the head has no value for each class."""
        if self.confidence is None:
            return None
        decision = np.asarray(self.head.decision_function(inputs))
        indices = np.searchsorted(self.classes, values)
        if decision.ndim == 1:  # two classes: positive values predict the second
            return np.where(indices == 1, decision, -decision)
        if decision.shape[1] != len(self.classes):
            return np.full(len(indices), np.nan)
        return decision[np.arange(len(indices)), indices]

    def evaluate(self, X: Any, y: np.ndarray) -> Evaluation:
        """Score the predictions for labelled images; unreadable images are left out.

        Parameters
        ----------
        X : images
        y : ndarray of shape (n,)
            Labels, which are converted to the type of the classes.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            If there is not one label for each image, no label is a class of the model, or no image can be read.
        """
        images, y = Images.of(X), np.asarray(y)
        if y.shape != (len(images),):
            raise ValueError(
                f"`y` must have one label for each of the {len(images)} images; got the shape {y.shape}."
            )
        y = match_labels(y, self.classes)
        predictions = self.predict(images)
        rows = predictions.rows
        if not len(rows):
            raise ValueError("None of the images could be read; check_images(X) gives the reasons.")
        classes, values, conformal = self.classes, predictions.values, predictions.conformal
        # some labels may be text although the classes are numbers
        if classes is not None and y.dtype.kind == "U":
            classes, values = classes.astype(str), values.astype(str)
        scores: Any = (
            score_numbers(y[rows], values) if classes is None else score_classes(y[rows], values, classes)
        )
        about = None if conformal is None else conformal.describe(y[rows], classes)
        n_used = self._count_training_images(predictions.extracted.keys[rows])
        return Evaluation(scores, predictions, n_used, about)

    def _count_training_images(self, keys: np.ndarray) -> int | None:
        if self._training_digests is None:
            return None
        used = {digest.tobytes() for digest in np.asarray(self._training_digests)}
        return sum(key.tobytes() in used for key in keys)
