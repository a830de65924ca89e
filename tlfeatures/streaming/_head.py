"""`fit_head`: standardize and train an estimator with ``partial_fit`` on batches, with early stopping."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures._params import boolean, check_parameter, integer, number
from tlfeatures._threads import one_blas_thread
from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_groups, check_labels, split_validation
from tlfeatures.streaming._ridge import ALPHAS, RidgeSums

__all__ = ["ReadBatches", "StreamedHead", "fit_head"]

ReadBatches = Callable[[int | None], Iterable[tuple[np.ndarray, np.ndarray]]]

_VALIDATION_ROWS = 10_000  # kept in memory
_REFIT_FRACTION = 0.01


@dataclass(frozen=True)
class StreamedHead:
    """A head trained on batches.

    Attributes
    ----------
    head : Pipeline
        The fitted steps "scale" (``StandardScaler``) and "linear", or "estimator" if one was passed.
    task : {"classification", "regression"}
    losses : ndarray of float64, shape (m,)
        Loss of the validation rows after each epoch, or for each of the 13 penalties of ridge regression: log loss for
        classifiers with probabilities, otherwise 1 - score.
    best : int
        Index of the lowest loss, except for decreases below ``tol``.
    validation_score : float
        Accuracy or R2 of the validation rows at this index.
    n_validation : int
    refitted : bool
        Whether ``head`` was trained again on all rows, for the same number of epochs or with the same penalty.
    """

    head: Pipeline
    task: str
    losses: np.ndarray
    best: int
    validation_score: float
    n_validation: int
    refitted: bool

    def summary(self) -> dict[str, Any]:
        """Summarize the validation in one dict.

        Returns
        -------
        dict
            "scoring", the name of the score; "score"; "images", the number of validation rows; and "losses".
        """
        return {
            "scoring": "accuracy" if self.task == "classification" else "r2",
            "score": self.validation_score,
            "images": self.n_validation,
            "losses": self.losses,
        }


def fit_head(
    read_batches: ReadBatches,
    y: Any,
    *,
    estimator: Any = None,
    task: str = "auto",
    groups: Any = None,
    validation_fraction: float = 0.1,
    max_epochs: int = 500,
    patience: int = 5,
    tol: float = 1e-3,
    refit: bool | None = None,
    random_state: int = 0,
) -> StreamedHead:
    """Train a head on batches of rows that need not fit into memory.

    A first pass computes the exact means and variances of the columns. Ridge regression, the default for numbers, needs
    one more pass. For other estimators, each epoch is one pass in another order, and training stops when the loss of
    the validation rows has not decreased for some epochs.

    Parameters
    ----------
    read_batches : callable
        ``read_batches(seed)`` returns an iterable of (positions in y, rows), float32 (m, d). Each position occurs once.
        With None the order is arbitrary; with an integer, it is shuffled with that seed. For example
        ``functools.partial(store.batches, recipe, keys, 4096)``.
    y : array-like of shape (n,)
        Labels or numbers.
    estimator : estimator with ``partial_fit``, optional
        By default multinomial logistic regression with C=1, trained by Adam (``MLPClassifier`` without hidden layers),
        or exact ridge regression, whose penalty is chosen by the validation rows. The step of a default estimator is
        named "linear".
    task : {"auto", "classification", "regression"}, default="auto"
    groups : array-like of shape (n,), optional
        Rows of one group are either trained on or validated on.
    validation_fraction : float, default=0.1
        Fraction of validation rows, which are kept in memory: at most about 10,000 rows, but more if groups are large,
        because groups are not split.
    max_epochs : int, default=500
    patience : int, default=5
        Number of epochs without improvement after which training stops.
    tol : float, default=1e-3
        Smallest relative decrease of the loss that counts as an improvement.
    refit : bool or None, default=None
        Whether to train again on all rows, for the best number of epochs or with the best penalty. None refits if more
        than 1% of the rows are validation rows.
    random_state : int, default=0
        Seed of the split, the orders and the default estimator.

    Returns
    -------
    StreamedHead

    Raises
    ------
    ValueError
        If labels are missing or all equal, a class has only one row, a regression has only one validation row, or a
        row contains NaN or infinity.
    InvalidParameterError
        If a parameter is invalid, or the estimator has no ``partial_fit``.

    Notes
    -----
    One batch, the validation rows, y and what ``read_batches`` needs are in memory, and for ridge regression the square
    of the number of columns. Identical rows may be both trained on and validated on; pass ``groups`` if this matters.
    ``python benchmarks/stream.py`` compares the accuracy with that of logistic regression in memory.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 5)).astype("float32")
    >>> y = np.where(X[:, 0] > 0, "warm", "cold")
    >>> def read_batches(seed):
    ...     order = np.arange(300) if seed is None else np.random.default_rng(seed).permutation(300)
    ...     return ((part, X[part]) for part in np.split(order, 3))
    >>> result = fit_head(read_batches, y, tol=0.1)
    >>> result.validation_score > 0.9
    True
    >>> result.head.predict(X[:2]).tolist() == y[:2].tolist()
    True
    """
    _check(estimator, validation_fraction, max_epochs, patience, tol, refit, random_state)
    y, task = check_labels(y, len(np.asarray(y)), task)
    groups = check_groups(groups, len(y))
    classes, codes = np.unique(y, return_inverse=True) if task == "classification" else (None, y)
    fraction = min(validation_fraction, _VALIDATION_ROWS / len(y))
    fix = "Pass more images, or fit a head in memory."
    _, validation = split_validation(codes, classes, groups, fraction, [random_state], fix)
    if task == "regression" and len(validation) < 2:
        raise ValueError(
            f"R2 needs two validation images or more; validation_fraction={validation_fraction:g} of {len(y)} images "
            f"gives {len(validation)}. Pass a larger validation_fraction. {fix}"
        )
    is_training = np.ones(len(y), bool)
    is_training[validation] = False
    training = _Training(read_batches, y, classes, estimator, random_state)
    X_validation = training.standardize(is_training)
    if task == "regression" and estimator is None:
        losses, best, model = training.fit_ridge(is_training, X_validation, y[validation])
    else:
        losses, best, model = training.fit_epochs(
            is_training, X_validation, y[validation], max_epochs, patience, tol
        )
    head = training.make_head(model)
    score = float(head.score(X_validation, y[validation]))
    refit = len(validation) > _REFIT_FRACTION * len(y) if refit is None else bool(refit)
    if refit:
        head = training.make_head(training.fit_again(best, X_validation, y[validation]))
    return StreamedHead(head, task, np.array(losses), best, score, len(validation), refit)


class _Training:
    """Passes over the batches."""

    def __init__(
        self, read_batches: ReadBatches, y: np.ndarray, classes: np.ndarray | None, estimator: Any, seed: int
    ) -> None:
        self.read_batches, self.y, self.classes = read_batches, y, classes
        self.estimator, self.seed = estimator, seed
        self.scaler = StandardScaler()
        self.sums: RidgeSums | None = None

    def standardize(self, is_training: np.ndarray) -> np.ndarray:
        """Compute the means and variances of the training rows, and return the validation rows in the order of y."""
        indices, rows = np.cumsum(~is_training) - 1, np.empty((0, 0), np.float32)
        for positions, batch in self.read_batches(None):
            selected = is_training[positions]
            if not np.isfinite(batch).all():
                raise ValueError(
                    f"{(~np.isfinite(batch).all(axis=1)).sum()} rows of a batch contain NaN or infinity; expected "
                    "finite embeddings. Leave these rows out."
                )
            if not rows.size:
                rows = np.empty((indices[-1] + 1, batch.shape[1]), np.float32)
            rows[indices[positions[~selected]]] = batch[~selected]
            if selected.any():
                self.scaler.partial_fit(batch[selected])
        return rows

    def fit_ridge(
        self, is_training: np.ndarray, X: np.ndarray, y: np.ndarray
    ) -> tuple[list[float], int, Any]:
        """Fit ridge regression with several penalties; return the losses, the index of the lowest, and its model."""
        self.sums = RidgeSums(X.shape[1])
        for positions, batch in self.read_batches(None):
            selected = is_training[positions]
            if selected.any():
                self.sums.add(self.scaler.transform(batch[selected]), self.y[positions[selected]])
        models = self.sums.solve(ALPHAS)
        losses = [self.compute_loss(model, X, y) for model in models]
        best = int(np.argmin(losses))
        return losses, best, models[best]

    def fit_epochs(
        self,
        is_training: np.ndarray,
        X: np.ndarray,
        y: np.ndarray,
        max_epochs: int,
        patience: int,
        tol: float,
    ) -> tuple[list[float], int, Any]:
        """Train until the loss has not decreased for some epochs; return the losses, the best index and its model."""
        losses: list[float] = []
        best, best_model = 0, None
        for model in self.run(is_training, max_epochs):
            losses.append(self.compute_loss(model, X, y))
            if best_model is None or losses[-1] < losses[best] * (1 - tol):
                best, best_model = len(losses) - 1, copy.deepcopy(model)
            if len(losses) - 1 - best >= patience:
                return losses, best, best_model
        warn(
            f"Training reached max_epochs={max_epochs} before the loss had stopped decreasing for patience={patience} "
            "epochs. Pass a larger `max_epochs`.",
            ConvergenceWarning,
        )
        return losses, best, best_model

    def fit_again(self, best: int, X: np.ndarray, y: np.ndarray) -> Any:
        """Fit on all rows, with the validation rows X and y."""
        if self.sums is not None:
            self.sums.add(self.scaler.transform(X), y)
            scale = self.scaler.scale_.copy()
            self.sums.rescale(scale / self.scaler.partial_fit(X).scale_)
            return self.sums.solve(ALPHAS[[best]])[0]
        self.scaler.partial_fit(X)
        *_, model = self.run(np.ones(len(self.y), bool), best + 1)
        return model

    def compute_loss(self, model: Any, X: np.ndarray, y: np.ndarray) -> float:
        """Return the loss of rows that are not standardized yet."""
        X = self.scaler.transform(X)
        if self.classes is not None and hasattr(model, "predict_proba"):
            return float(log_loss(y, model.predict_proba(X), labels=self.classes))
        return 1.0 - float(model.score(X, y))

    def run(self, is_training: np.ndarray, epochs: int) -> Iterable[Any]:
        """Train a new estimator; yield it after each epoch."""
        model = self._make_estimator(int(is_training.sum()))
        options = {} if self.classes is None else {"classes": self.classes}
        for epoch in range(epochs):
            # threads would wait for each other longer than the product of a small batch takes
            with warnings.catch_warnings(), one_blas_thread:
                # the last batch may have fewer rows than a step
                warnings.filterwarnings("ignore", "Got `batch_size` less than 1 or larger")
                for positions, batch in self.read_batches(self.seed + epoch):
                    selected = is_training[positions]
                    if selected.any():
                        X = self.scaler.transform(batch[selected])
                        if self.estimator is None and not hasattr(model, "coefs_"):
                            self._start_from_zero(model, X.shape[1], options)
                        model.partial_fit(X, self.y[positions[selected]], **options)
            yield model

    def _make_estimator(self, n: int) -> Any:
        if self.estimator is not None:
            return clone(self.estimator)
        batch_size = int(np.clip(n // 1000, 32, 512))
        return MLPClassifier(
            hidden_layer_sizes=(),
            alpha=batch_size / n,  # the penalty is divided by the size of each batch
            batch_size=batch_size,
            learning_rate_init=0.03 / np.sqrt(self.scaler.n_features_in_),
            random_state=self.seed,
        )

    def _start_from_zero(self, model: Any, width: int, options: dict[str, Any]) -> None:
        """Set the weights to 0: random ones would stay where a column has the same value in all training rows."""
        model.partial_fit(np.zeros((1, width), np.float32), self.y[:1], **options)
        for array in (*model.coefs_, *model.intercepts_):
            array[:] = 0

    def make_head(self, model: Any) -> Pipeline:
        """Return copies of the scaler and the estimator."""
        name = "linear" if self.estimator is None else "estimator"
        return Pipeline([("scale", copy.deepcopy(self.scaler)), (name, copy.deepcopy(model))])


def _check(
    estimator: Any, fraction: Any, max_epochs: Any, patience: Any, tol: Any, refit: Any, random_state: Any
) -> None:
    if estimator is not None and not hasattr(estimator, "partial_fit"):
        raise InvalidParameterError(
            f"`estimator` must have the method `partial_fit`; got {type(estimator).__name__}. Use for example "
            "SGDClassifier, or MLPClassifier with hidden layers.",
            "estimator",
        )
    check_parameter("validation_fraction", fraction, [number(above=0, below=1)])
    check_parameter("max_epochs", max_epochs, [integer(minimum=1)])
    check_parameter("patience", patience, [integer(minimum=1)])
    check_parameter("tol", tol, [number(minimum=0)])
    check_parameter("refit", refit, [boolean(), None])
    check_parameter("random_state", random_state, [integer(minimum=0)])
