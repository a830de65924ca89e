"""Scores of predictions on labelled test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    get_scorer_names,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)

from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError, UnknownNameError

if TYPE_CHECKING:
    import pandas

__all__ = [
    "DEFAULT_SCORING",
    "ClassificationScores",
    "RegressionScores",
    "check_scorer_name",
    "match_labels",
    "score_classes",
    "score_numbers",
]

DEFAULT_SCORING = {"classification": "accuracy", "regression": "r2"}
_N_SHOWN = 5  # labels in a message
_N_CLASSES_SHOWN = 12


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of predicted classes.

    Attributes
    ----------
    accuracy, balanced_accuracy : float
        The latter is the mean recall of the classes that have images.
    classes : DataFrame
        One row for each class: class, precision, recall, f1, images.
    confusion_matrix : ndarray of int, shape (n_classes, n_classes)
        Rows are true classes, and columns are predicted ones, in the order of ``classes``.
    """

    accuracy: float
    balanced_accuracy: float
    classes: pandas.DataFrame
    confusion_matrix: np.ndarray

    def describe(self) -> str:
        """Describe the scores in one line.

        Returns
        -------
        str
        """
        return f"accuracy {self.accuracy:.4f}, balanced accuracy {self.balanced_accuracy:.4f}"


@dataclass(frozen=True)
class RegressionScores:
    """Scores of predicted numbers.

    Attributes
    ----------
    r2 : float
        NaN if there is one image.
    mae, rmse : float
        Mean absolute error and root mean squared error, in the unit of the target.
    """

    r2: float
    mae: float
    rmse: float

    def describe(self) -> str:
        """Describe the scores in one line.

        Returns
        -------
        str

        Examples
        --------
        >>> RegressionScores(np.nan, 1.0, 1.5).describe()
        'R2 not defined, MAE 1, RMSE 1.5'
        """
        r2 = "not defined" if np.isnan(self.r2) else f"{self.r2:.4f}"
        return f"R2 {r2}, MAE {self.mae:.4g}, RMSE {self.rmse:.4g}"


def score_classes(y: np.ndarray, y_pred: np.ndarray, classes: np.ndarray) -> ClassificationScores:
    """Score predicted classes.

    Parameters
    ----------
    y, y_pred : ndarray of shape (n,)
        True and predicted labels.
    classes : ndarray of shape (n_classes,)
        Classes of the classifier; ``y`` may contain other labels.

    Returns
    -------
    ClassificationScores

    Examples
    --------
    >>> y = np.array(["cat", "cat", "dog"])
    >>> scores = score_classes(y, np.array(["cat", "dog", "dog"]), np.array(["cat", "dog"]))
    >>> scores.balanced_accuracy, scores.confusion_matrix.tolist()
    (0.75, [[1, 1], [0, 1]])
    """
    import pandas

    labels = np.union1d(y, classes)
    columns = ("precision", "recall", "f1", "images")
    per_class = dict(
        zip(columns, precision_recall_fscore_support(y, y_pred, labels=labels, zero_division=0), strict=True)
    )
    return ClassificationScores(
        accuracy=float(accuracy_score(y, y_pred)),
        balanced_accuracy=float(per_class["recall"][per_class["images"] > 0].mean()),
        classes=pandas.DataFrame({"class": labels.tolist(), **per_class}),
        confusion_matrix=confusion_matrix(y, y_pred, labels=labels),
    )


def score_numbers(y: np.ndarray, y_pred: np.ndarray) -> RegressionScores:
    """Score predicted numbers.

    Parameters
    ----------
    y, y_pred : ndarray of shape (n,)
        True and predicted numbers.

    Returns
    -------
    RegressionScores

    Examples
    --------
    >>> score_numbers(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    RegressionScores(r2=0.5, mae=0.5, rmse=0.707...)
    """
    return RegressionScores(
        r2=float(r2_score(y, y_pred)) if len(y) > 1 else np.nan,
        mae=float(mean_absolute_error(y, y_pred)),
        rmse=float(root_mean_squared_error(y, y_pred)),
    )


def match_labels(y: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """Convert test labels to the type of the training labels, such as the folder name "0" to the class 0.

    Parameters
    ----------
    y : ndarray of shape (n,)
    classes : ndarray of shape (n_classes,) or None
        Classes of a classifier; None for a regressor.

    Returns
    -------
    ndarray of shape (n,)
        Text if the classes are numbers and a label is not a whole number.

    Raises
    ------
    InvalidParameterError
        If no label is a class, or a label for a regressor is not a number. If some labels are not classes, a warning
        is issued.

    Examples
    --------
    >>> match_labels(np.array(["0", "1"]), np.array([0, 1, 2])).tolist()
    [0, 1]
    """
    if classes is None:
        if y.dtype.kind not in "iufb":
            raise InvalidParameterError(
                f"`y` must be numeric, because the model predicts numbers; got text, such as {y.tolist()[0]!r}. Pass "
                "other labels, for example from another `target` column.",
                "y",
            )
        return y
    is_text, names = classes.dtype.kind in "US", {value: value for value in classes.tolist()}
    matched = [_match_label(label, names, classes.dtype.kind) for label in y.tolist()]
    is_class = np.array([label in names for label in matched], bool)
    is_mixed = not is_text and any(isinstance(label, str) for label in matched)
    y = np.array([str(label) for label in matched] if is_mixed else matched)
    others = ", ".join(map(str, np.unique(y[~is_class])[:_N_SHOWN].tolist()))
    if not is_class.any():
        more = ", ..." if len(classes) > _N_CLASSES_SHOWN else ""
        raise InvalidParameterError(
            f"`y` must be classes of the model; got {others}; expected "
            f"{', '.join(map(str, classes[:_N_CLASSES_SHOWN].tolist()))}{more}. Pass other labels, "
            "for example from another `target` column.",
            "y",
        )
    if not is_class.all():
        warn(
            f"The labels of {int((~is_class).sum()):,} of {len(y):,} images are not classes of the model ({others}); "
            "their predictions count as wrong."
        )
    return y


def _match_label(label: Any, classes: dict[Any, Any], kind: str) -> Any:
    """Return the class that a label denotes; if there is none, the label as text or as a number."""
    if label in classes:
        return classes[label]
    text = str(label)
    if kind in "US":
        is_whole = text not in classes and isinstance(label, float) and label.is_integer()
        return str(int(label)) if is_whole else text
    if kind == "b" and text in ("False", "True"):
        return text == "True"
    try:
        number = float(label)
    except (TypeError, ValueError):
        return text
    is_whole = number.is_integer() and abs(number) < 2**53
    return classes.get(number, int(number) if is_whole else text)


def check_scorer_name(name: str) -> str:
    """Return ``name``, or raise an error if scikit-learn has no such scorer.

    Raises
    ------
    UnknownNameError
        The message lists the nearest names.

    Examples
    --------
    >>> check_scorer_name("acuracy")
    Traceback (most recent call last):
    tlfeatures.errors.UnknownNameError: Unknown scorer 'acuracy'. Did you mean 'accuracy'...
    """
    names = get_scorer_names()
    if name not in names:
        raise UnknownNameError.of(
            "scorer", name, names, "`sklearn.metrics.get_scorer_names()` for all of them"
        )
    return name
