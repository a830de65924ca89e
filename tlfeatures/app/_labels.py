"""Labels of training images that are corrected on the page, and the head that is trained again on them."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.pipeline import Pipeline

from tlfeatures.app._journal import Journal
from tlfeatures.app._model import ServedModel
from tlfeatures.app._problems import Problem
from tlfeatures.app._retraining import Retraining
from tlfeatures.errors import SavedModelError
from tlfeatures.saved_models import load_model, save_pipeline
from tlfeatures.trust import audit, suggest

__all__ = ["Labels"]

_QUEUE = 100  # images


class Labels:
    """Labels of the training images of a model, which can be changed on the page.

    Parameters
    ----------
    model : ServedModel
        With training images.
    journal : Journal
        Changes in it are applied at once. Images are recognized by their content, so they may be in another order or
        under other names.

    Attributes
    ----------
    current : ndarray of object, shape (n,)
        None where an image has no label.
    """

    def __init__(self, model: ServedModel, journal: Journal) -> None:
        self.model, self.training, self.journal = model, model.training, journal
        self.texts = {str(label): label for label in model.fitted.classes.tolist()}
        # folders have names, such as "0", also if the classes of the model are numbers
        self.original = self.training.labels.copy()
        self.original[:] = [
            None if label is None else self.texts.get(str(label), label) for label in self.original
        ]
        self.current = self.training.current = self.original.copy()
        self._lock = threading.RLock()
        self._starting, self._saving = threading.Lock(), threading.Lock()
        self._history: list[dict[int, Any]] = []
        self.retraining = Retraining(model)
        self._positions: dict[str, list[int]] = {}
        for row, key in zip(self.training.rows.tolist(), self.training.keys, strict=True):
            self._positions.setdefault(key.tobytes().hex(), []).append(row)
        self._keys = {row: key for key, rows in self._positions.items() for row in rows}
        for number, entry in enumerate(journal.entries, start=1):
            try:
                self._apply(entry)
            except (KeyError, TypeError):
                raise journal.make_error(number) from None
        if len(labelled := self._find_labelled(self.current[self.training.rows])):
            self.retraining.prepare(labelled)

    def change(self, rows: Sequence[int], label: str) -> int:
        """Change the label of some images, after the change was written to the journal; return their number.

        Raises
        ------
        Problem
            If the label is not a class of the model, or there is no such image.
        """
        if label not in self.texts:
            raise Problem(422, "unknown-label", f"{label[:100]!r} is not a class of the model.")
        unknown = [row for row in rows if row not in self._keys]
        if unknown or not rows:
            detail = (
                f"There is no readable image with the number {unknown[0]}."
                if unknown
                else "No image is chosen."
            )
            raise Problem(422, "unknown-image", detail)
        with self._lock:
            keys = list(dict.fromkeys(self._keys[row] for row in rows))
            entry = {"time": round(time.time(), 3), "images": keys, "label": label}
            self._append(entry)
            return self._apply(entry)

    def undo(self) -> list[int]:
        """Undo the last change; return the rows of its images, none if there is no change."""
        with self._lock:
            if not self._history:
                return []
            entry = {"time": round(time.time(), 3), "undo": True}
            self._append(entry)
            rows = list(self._history[-1])
            self._apply(entry)
            return rows

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self.journal.append(entry)
        except OSError as error:
            detail = (
                f"The change cannot be written to {self.journal.path!r} ({error.strerror or error}), so the labels "
                "are unchanged. Make the file writable or free some space, then repeat the change."
            )
            raise Problem(500, "journal-not-written", detail) from None

    def _apply(self, entry: dict[str, Any]) -> int:
        if entry.get("undo"):
            for row, label in (self._history.pop() if self._history else {}).items():
                self.current[row] = label
            return 0
        rows = [row for key in entry["images"] for row in self._positions.get(key, [])]
        self._history.append({row: self.current[row] for row in rows})
        for row in rows:
            self.current[row] = self.texts.get(entry["label"], entry["label"])
        return len(rows)

    @property
    def changed(self) -> np.ndarray:
        """Rows whose label differs from the original one."""
        return np.flatnonzero([a != b for a, b in zip(self.current, self.original, strict=True)])

    def describe(self, rows: Sequence[int], notes: dict[int, str] | None = None) -> list[dict[str, Any]]:
        """Return name, label and original label of some rows, and the notes on them."""
        return [
            {
                "row": int(row),
                "name": self.training.names[row],
                "label": None if self.current[row] is None else str(self.current[row]),
                "original": None if self.original[row] is None else str(self.original[row]),
                "note": (notes or {}).get(row, ""),
            }
            for row in rows
        ]

    def list_rows(self, choice: str) -> tuple[list[int], dict[int, str]]:
        """Return the rows that a filter selects, and notes on them.

        Parameters
        ----------
        choice : str
            "all", "changed", "suspected" (label errors), "next" (unlabelled images to label next), or a class after
            "class:".
        """
        rows = self.training.rows
        if choice == "changed":
            return self.changed.tolist(), {}
        if choice.startswith("class:"):
            labelled = (row for row in rows.tolist() if self.current[row] is not None)
            return [row for row in labelled if str(self.current[row]) == choice[6:]], {}
        if choice == "suspected":
            table = audit(self.training.embeddings, self.current[rows]).suspected.head(_QUEUE)
            suspected = rows[table["row"].to_numpy(int)].tolist()
            notes = [f"probably {label}" for label in table["suggestion"]]
            return suspected, dict(zip(suspected, notes, strict=True))
        if choice == "next":
            if all(self.current[row] is not None for row in rows):
                return [], {}
            chosen = suggest(self.training.embeddings, self.current[rows], n=20).rows
            return rows[chosen].tolist(), {}
        return rows.tolist(), {}

    def retrain(self) -> dict[str, Any]:
        """Train the head on the current labels, as described by `Retraining`; return its state.

        Raises
        ------
        Problem
            If the head cannot be trained on these labels.
        """
        with self._starting:  # the last call uses the latest labels
            with self._lock:
                current = self.current[self.training.rows]
                before = np.where(self.original == None, self.current, self.original)[self.training.rows]  # noqa: E711
            labelled = self._find_labelled(current)
            if not len(labelled):
                raise Problem(422, "cannot-train", "No image has a label.")
            return self.retraining.start(
                labelled, *(_to_array(labels[labelled]) for labels in (current, before))
            )

    def save(self) -> str:
        """Save the retrained model as a new file beside the old one; return its path.

        Raises
        ------
        Problem
            If the head was not trained again, its training continues, the file of the model cannot be read again, or
            the new file cannot be written.
        """
        head = self.retraining.head
        old, number = Path(self.model.path), 1
        try:
            cnn = load_model(old).cnn  # uses the store, which the served model does not
        except (OSError, SavedModelError) as error:
            detail = (
                f"The file of the model, {str(old)!r}, is needed to save the new model, and cannot be read: {error}. "
                "Put it back, then save again."
            )
            raise Problem(500, "model-not-saved", detail) from None
        pipeline = Pipeline([("cnn", cnn), *head.steps])
        pipeline.training_digests_ = np.unique(self.training.keys[self.training.is_for_training], axis=0)
        with self._saving:  # so that two files never get the same name
            while (path := old.with_name(f"{old.stem}-labels-{number}{old.suffix}")).exists():
                number += 1
            try:
                save_pipeline(pipeline, path)
            except OSError as error:
                detail = (
                    f"The model cannot be saved as {str(path)!r} ({error.strerror or error}). Make the folder writable "
                    "or free some space, then save it again."
                )
                raise Problem(500, "model-not-saved", detail) from None
        return str(path)

    def export(self) -> str:
        """Return a manifest with the path, the current and the original label of each image, and its split, as CSV."""
        text, training = io.StringIO(), self.training
        columns = {"label": self.current, "original_label": self.original}
        if training.split is not None:
            columns["split"] = training.split
        writer = csv.writer(text)
        writer.writerow(["path", *columns])
        for path, *values in zip(training.paths, *columns.values(), strict=True):
            path = os.path.abspath(path) if os.path.exists(path) else path
            writer.writerow([path, *("" if value is None else value for value in values)])
        return text.getvalue()

    def _find_labelled(self, labels: np.ndarray) -> np.ndarray:
        """Return the positions of the labelled images on which the head is trained."""
        is_labelled = np.array([label is not None for label in labels])
        return np.flatnonzero(is_labelled & self.training.is_for_training)


def can_train(model: ServedModel) -> bool:
    """Return whether the head of a model can be trained again with other labels: classifiers that can be cloned."""
    if model.fitted.classes is None or not is_classifier(model.fitted.head[-1]):
        return False
    try:
        clone(model.fitted.head)
    except TypeError:  # the head of a fine-tuned network
        return False
    return model.fitted._with_views is None


def _to_array(labels: np.ndarray) -> np.ndarray:
    return np.array(labels.tolist())
