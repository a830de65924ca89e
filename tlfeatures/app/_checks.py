"""Checks of the training images in the background: a map, mistakes, label errors, duplicates and outliers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas
from sklearn.decomposition import PCA

from tlfeatures.app._model import ServedModel
from tlfeatures.app._out_of_fold import N_FOLDS, OutOfFold, predict_out_of_fold
from tlfeatures.report import map_embeddings
from tlfeatures.selection import sample_embeddings
from tlfeatures.trust import audit_search_rows

__all__ = ["NO_POINT", "CheckResult", "DataChecks"]

NO_POINT = 65535  # coordinate of an image that could not be read
_TSNE_ROWS = 1000  # largest number of images for t-SNE, as in the report
_ALL_COMPONENTS = 2000  # features up to which PCA is exact


@dataclass(frozen=True)
class CheckResult:
    """Results of the checks of the training images, by the rows of the source.

    Attributes
    ----------
    labels : ndarray of object, shape (n,)
        Labels that were checked.
    suspected, duplicates, outliers : DataFrame
        As in :class:`tlfeatures.results.AuditResult`, suspected label errors only.
    out_of_fold : OutOfFold or None
        Its ``rows`` are those of the source.
    notes : list of str
        Checks that were not possible, with the reasons.
    """

    labels: np.ndarray
    suspected: pandas.DataFrame
    duplicates: pandas.DataFrame
    outliers: pandas.DataFrame
    out_of_fold: OutOfFold | None
    notes: list[str]


class DataChecks:
    """Checks of the training images, made in a thread from their embeddings; the network does not run.

    Parameters
    ----------
    model : ServedModel
        With training images.
    get_labels : callable
        Returns the current labels, shape (n,), None where an image has no label.

    Attributes
    ----------
    points : bytes or None
        Map of the embeddings: x and y of each image as little-endian uint16, `NO_POINT` for unreadable images.
    map_note : str
        The projection, and how to read the map.
    result : CheckResult or None
        The result of the last checks that finished.
    """

    def __init__(self, model: ServedModel, get_labels: Callable[[], np.ndarray]) -> None:
        self.model, self.get_labels = model, get_labels
        self.points: bytes | None = None
        self.map_note = ""
        self.result: CheckResult | None = None
        self.number = 0  # number of the last checks that finished
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._step, self._failure = (0, 1, ""), ""

    def start(self, again: bool = False) -> None:
        """Start the checks unless they are running; if they have finished, only if ``again`` is True."""
        with self._lock:
            is_running = self._thread is not None and self._thread.is_alive()
            if is_running or (self._thread is not None and not again):
                return
            self._failure = ""
            self._report(0, "Mapping the embeddings")
            self._thread = threading.Thread(target=self._run, name="checks", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until the checks that were started are finished."""
        if self._thread is not None:
            self._thread.join()

    def describe(self) -> dict[str, Any]:
        """Return the state, "running", "failed" or "done", the progress and the number of the last result."""
        is_running = self._thread is not None and self._thread.is_alive()
        done, total, doing = self._step
        return {
            "state": "running" if is_running else "failed" if self._failure else "done",
            "progress": done / total,
            "doing": doing,
            "failure": self._failure,
            "number": self.number,
            "map": self.map_note if self.points is not None else None,
        }

    def _report(self, done: int, doing: str) -> None:
        self._step = (done, N_FOLDS + 3, doing)

    def _run(self) -> None:
        try:
            if self.points is None:
                self._map()
            self.result = self._check(self.get_labels())
            self.number += 1
        except Exception as error:  # shown on the page
            self._failure = f"The training images could not be checked: {error}"

    def _map(self) -> None:
        training = self.model.training
        xy, method, note = project(training.embeddings)
        low, high = xy.min(axis=0), xy.max(axis=0)
        scale = (NO_POINT - 1) / max(float((high - low).max()), 1e-12)  # one scale for both axes
        points = np.full((len(training), 2), NO_POINT, "<u2")
        points[training.rows] = np.round((xy - (low + high) / 2) * scale + (NO_POINT - 1) / 2)
        self.map_note, self.points = f"{method}. {note}", points.tobytes()

    def _check(self, labels: np.ndarray) -> CheckResult:
        training, rows = self.model.training, self.model.training.rows
        about = pandas.DataFrame({"row": rows, "image": [training.names[row] for row in rows]})
        is_labelled = np.array([label is not None for label in labels[rows]])
        if self.model.trained.classes is not None and is_labelled.any():
            about["label"] = labels[rows]
        if training.split is not None:
            about["split"] = training.split[rows]
        results: list[OutOfFold | None] = []
        notes: list[str] = []

        def predict(groups: np.ndarray) -> np.ndarray | None:
            result = self._predict(labels[rows], np.flatnonzero(is_labelled), groups, notes)
            results.append(result)
            self._report(2 + N_FOLDS, "Searching for label errors")
            return None if result is None else result.spread_probabilities(len(rows))

        self._report(1, "Searching for similar images")
        audit = audit_search_rows(training.embeddings, training.keys, about, predict)
        (result,) = results
        return CheckResult(
            labels,
            audit.label_errors[audit.label_errors["suspected"]],
            audit.duplicates,
            audit.outliers,
            None if result is None else replace(result, rows=rows[result.rows]),
            [*audit.notes, *notes],
        )

    def _predict(
        self, y: np.ndarray, labelled: np.ndarray, groups: np.ndarray, notes: list[str]
    ) -> OutOfFold | None:
        """Predict the labelled images out of fold; None, with a note, if that is not possible."""

        def report(done: int, total: int) -> None:
            self._report(2 + done, f"Predicting out of fold, fold {done + 1} of {total}")

        if not len(labelled):
            notes.append("No image has a label, so mistakes and scores are not available.")
            return None
        X, targets = self.model.training.embeddings[labelled], np.array(y[labelled].tolist())
        try:
            result = predict_out_of_fold(self.model.trained.head, X, targets, groups[labelled], report)
        except ValueError as error:
            notes.append(f"Mistakes and scores are not available: {error}")
            return None
        except TypeError:
            notes.append(
                "A fine-tuned network is not trained again, so mistakes and scores are not available."
            )
            return None
        return replace(result, rows=labelled[result.rows])


def project(X: np.ndarray) -> tuple[np.ndarray, str, str]:
    """Project embeddings of shape (n, d) to the plane; return the points, the method and a note, always the same.

    It is the map of the report for up to 1,000 images, by t-SNE, and the first two principal components for more.
    """
    if len(X) <= _TSNE_ROWS:
        result = map_embeddings(sample_embeddings(X))
        return result.xy, result.method, result.note
    solver = "covariance_eigh" if X.shape[1] <= _ALL_COMPONENTS else "randomized"
    pca = PCA(2, svd_solver=solver, random_state=0)
    with np.errstate(invalid="ignore"):  # equal embeddings have no variance to explain
        xy = pca.fit_transform(X)
    share = np.nan_to_num(pca.explained_variance_ratio_).sum()
    note = f"The first two components explain {share:.0%} of the variance; others may separate the classes."
    return xy, "PCA", note
