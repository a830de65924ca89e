"""Train the head of a served model again: a provisional head at once, the model's own head in the background."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from tlfeatures.app._model import ServedModel
from tlfeatures.app._out_of_fold import unwrap_head
from tlfeatures.app._problems import Problem
from tlfeatures.app._provisional import RidgeDecomposition
from tlfeatures.calibration import CalibratedHead
from tlfeatures.heads import blas_threads
from tlfeatures.predictions import FittedModel
from tlfeatures.trust import ConformalClassifier

__all__ = ["Retraining"]

_FOLDS = 5
_logger = logging.getLogger("tlfeatures.app")


class _Replaced(Exception):
    """Labels were submitted again, so this training is not continued."""


class Retraining:
    """Train the head of a model again, in two steps.

    A linear head is computed at once and used for predictions, which are marked as provisional. The model's own head,
    with its calibration and prediction sets, is trained by a thread and then replaces it. The thread also compares the
    accuracies before and after the user changed labels, by cross-validation.

    Parameters
    ----------
    model : ServedModel
        With training images.
    """

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self._decomposition: tuple[bytes, RidgeDecomposition] | None = None
        self._lock, self._training_lock = threading.Lock(), threading.Lock()
        self._number = 0  # number of the last call of `start`
        self._state: dict[str, Any] = {"state": "unchanged"}

    @property
    def head(self) -> Any:
        """The model's own head after it was trained again.

        Raises
        ------
        Problem
            If it was not trained again, or is still being trained.
        """
        state = self.describe()["state"]
        if state in ("unchanged", "failed"):
            raise Problem(409, "not-retrained", "Train the head again before you save the model.")
        if state == "training":
            raise Problem(
                409,
                "still-training",
                "The head is still being trained. Save the model when that is finished.",
            )
        return self.model.trained.head

    def prepare(self, rows: np.ndarray) -> RidgeDecomposition:
        """Return the decomposition of some rows of the embeddings; reuse the last one if the rows are the same."""
        key = rows.tobytes()
        if self._decomposition is None or self._decomposition[0] != key:
            self._decomposition = key, RidgeDecomposition(self.model.training.embeddings[rows])
        return self._decomposition[1]

    def start(self, rows: np.ndarray, labels: np.ndarray, labels_before: np.ndarray) -> dict[str, Any]:
        """Replace the head by a provisional one at once, and start the training of the model's own head.

        Calls must not overlap.

        Parameters
        ----------
        rows : ndarray of int, shape (m,)
            Indices of the embeddings that have a label.
        labels, labels_before : ndarray of shape (m,)
            Current labels, and the labels before the user changed them.

        Returns
        -------
        dict
            See `describe`.

        Raises
        ------
        Problem
            If no head can be trained on these labels.
        """
        start = time.perf_counter()
        try:
            head = Pipeline([("provisional", self.prepare(rows).fit(labels))])
        except ValueError as error:
            raise Problem(422, "cannot-train", str(error)) from None
        n_folds = min(_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
        n_fits = 1 + (2 * n_folds if n_folds > 1 else 0)
        with self._lock:  # locked only briefly, because `describe` waits for it
            self._number += 1
            self._use(head)
            seconds = time.perf_counter() - start
            self._state = {"state": "training", "done": 0, "total": n_fits, "provisional_seconds": seconds}
            state = dict(self._state)
            args = self._number, rows, labels, labels_before, n_folds
        threading.Thread(target=self._run, args=args, name="tlfeatures-training", daemon=True).start()
        return state

    def describe(self) -> dict[str, Any]:
        """Describe the progress.

        Returns
        -------
        dict
            "state": "unchanged", "training" (predictions are provisional), "comparing" (the model's own head is used),
            "finished" or "failed"; "done" and "total", numbers of fits; "provisional_seconds" and "seconds", the
            training times of the provisional head and of the model's own head; "scores", the accuracies; "error", why
            the head or the scores failed.
        """
        with self._lock:
            return dict(self._state)

    def _run(self, number: int, rows: np.ndarray, y: np.ndarray, before: np.ndarray, n_folds: int) -> None:
        with self._training_lock:  # one training at a time
            try:
                self._train(number, self.model.training.embeddings[rows], y, before, n_folds)
            except _Replaced:
                return
            except Exception as error:
                if not isinstance(error, (ValueError, TypeError)):
                    _logger.exception("the head could not be trained")
                with self._lock:
                    if number != self._number:
                        return
                    if self._state["state"] == "training":
                        self.model.use(self.model.trained)
                        detail = f"The head cannot be trained on these labels, so the previous head is used: {error}"
                        self._state |= {"state": "failed", "error": detail}
                    else:
                        self._state |= {
                            "state": "finished",
                            "error": f"The scores cannot be computed: {error}",
                        }

    def _train(self, number: int, X: np.ndarray, y: np.ndarray, before: np.ndarray, n_folds: int) -> None:
        start = time.perf_counter()
        self._update(number)
        with blas_threads(*X.shape):
            head = clone(self.model.trained.head).fit(X, y)
        with self._lock:
            self._check(number)
            self._use(head)
            self._state |= {"state": "comparing", "done": 1, "seconds": time.perf_counter() - start}
        if n_folds < 2:
            raise ValueError("each class needs at least two images for cross-validation.")
        scores = {"before": 0.0, "after": 0.0}
        head = unwrap_head(head, (CalibratedHead, ConformalClassifier))
        for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=0).split(X, y):
            for name, labels in (("before", before), ("after", y)):
                with blas_threads(*X.shape):
                    predicted = clone(head).fit(X[train], labels[train]).predict(X[test])
                scores[name] += float(np.sum(predicted == y[test]) / len(y))
                self._update(number, steps=1)
        with self._lock:
            self._check(number)
            self._state |= {"state": "finished", "scores": {**scores, "folds": n_folds, "images": len(y)}}

    def _update(self, number: int, steps: int = 0) -> None:
        with self._lock:
            self._check(number)
            self._state["done"] += steps

    def _check(self, number: int) -> None:
        if number != self._number:
            raise _Replaced

    def _use(self, head: Any) -> None:
        self.model.use(FittedModel(Pipeline([("cnn", self.model.fitted.cnn), *head.steps])))
