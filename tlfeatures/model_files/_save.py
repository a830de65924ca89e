"""``save``: a fitted model in one file of JSON and arrays."""

from __future__ import annotations

import copy
import os
from typing import Any

from tlfeatures._archive import MODEL_FORMAT, MODEL_START, is_archive, library_versions, write_arrays
from tlfeatures.errors import InvalidParameterError
from tlfeatures.model_files._card import make_card
from tlfeatures.model_files._encode import ModelEncoder, unwrap_search
from tlfeatures.model_files._self_test import make_self_test

__all__ = ["PICKLES", "is_model_file", "save"]

PICKLES = (".joblib", ".pkl", ".pickle")


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Save a fitted model in one file of JSON and arrays, which :func:`load` reads without running code.

    Parameters
    ----------
    model : estimator
        A fitted pipeline that begins with :class:`~tlfeatures.CNNFeatures`; a fitted search, of which the best
        pipeline is saved; a :class:`~tlfeatures.FineTuneClassifier` or :class:`~tlfeatures.FineTuneRegressor`; a
        meta-estimator of this package; or a head that was fitted on embeddings. Steps may be the scalers, linear
        models, support vector machines, nearest neighbors, discriminant analyses, multilayer perceptrons and other
        estimators of a fixed list.
    path : path
        By convention with the suffix ``.tlf``. The file is replaced when it is complete.

    Raises
    ------
    SavedModelError
        If a step is not in the list, such as trees and estimators of other packages; the message names it. Also a
        ``ValueError``.
    InvalidParameterError
        If the suffix is ``.joblib``, ``.pkl`` or ``.pickle``, or ``model`` is not an estimator.
    NotFittedError
        If the model is not fitted.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file contains the recipe of the embeddings, the fitted attributes of all steps, the classes, the digests of the
    training images, the cross-validated scores if there are any, the licence of the pretrained weights, the versions of
    the libraries, and predictions for two artificial rows, which :func:`load` compares. It does not contain the
    weights of the pretrained network. Not saved are ``cache`` (other than None), ``n_jobs``, ``verbose`` and
    ``memory``, which belong to the machine.

    Examples
    --------
    >>> import numpy as np
    >>> import tlfeatures
    >>> from sklearn.pipeline import make_pipeline
    >>> from tlfeatures import CNNFeatures
    >>> from tlfeatures.heads import make_head
    >>> X = np.zeros((4, 32, 32, 3), "uint8")
    >>> X[2:, 8:24, 8:24] = 255
    >>> pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), make_head("svm"))
    >>> tlfeatures.save(pipeline.fit(X, ["empty", "empty", "square", "square"]), "squares.tlf")
    >>> tlfeatures.load("squares.tlf").predict(X[1:3]).tolist()
    ['empty', 'square']
    """
    if os.fspath(path).lower().endswith(PICKLES):
        raise InvalidParameterError(
            f"`path` must not end in {', '.join(PICKLES)}, which are suffixes of pickles; got {os.fspath(path)!r}. Use "
            "the suffix .tlf, or call joblib.dump(model, path) to make a pickle; loading a pickle can run code.",
            "path",
        )
    _check_fitted(model)
    if hasattr(model, "history_") and hasattr(model, "to_pipeline"):  # a fine-tuned estimator
        copy.copy(model).set_params(verbose=0).save(path)
        return
    model = _choose_best(model)
    encoder = ModelEncoder()
    content, self_test = encoder.encode(model), encoder.encode(make_self_test(model))
    about = {
        "format": MODEL_FORMAT,
        "versions": library_versions(),
        "card": make_card(model),
        "model": content,
        "self_test": self_test,
    }
    write_arrays(path, about, encoder.arrays)


def _check_fitted(model: Any) -> None:
    from sklearn.utils.validation import check_is_fitted  # not imported by `read_card`

    if not hasattr(model, "fit"):
        raise InvalidParameterError(
            f"`model` must be a fitted estimator; got an object of type {type(model).__name__}.", "model"
        )
    check_is_fitted(model)


def _choose_best(model: Any) -> Any:
    """Return the best pipeline of a search, with what the search measured, and other estimators unchanged."""
    best = unwrap_search(model)
    if best is model:
        return model
    best = copy.copy(best)
    for name in ("training_digests_", "cv_scores_"):
        if getattr(model, name, None) is not None:
            setattr(best, name, getattr(model, name))
    return best


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file was written by :func:`save` and contains no fine-tuned network, from its first bytes.

    Parameters
    ----------
    path : str or path
        A file.

    Returns
    -------
    bool
        False for files of other programs.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return is_archive(path, MODEL_START)
