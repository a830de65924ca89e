"""Heads with calibrated probabilities, fitted on embeddings, and pipelines that predict from images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from tlfeatures._warnings import warn
from tlfeatures.calibration._calibrated_head import CalibratedHead
from tlfeatures.heads import blas_threads

__all__ = ["fit_calibrated_head", "fit_calibrated_pipeline"]


def fit_calibrated_head(head: Any, X: Any, y: Any, groups: Any = None) -> Any:
    """Fit a head on embeddings, with calibrated class probabilities if it is a classifier.

    Regressors are only fitted, and so is logistic regression, whose probabilities are calibrated already.

    Parameters
    ----------
    head : estimator
        A head, such as those of :func:`~tlfeatures.heads.make_head`. It is not changed.
    X : array-like of shape (n, d)
    y : array-like of shape (n,)
    groups : array-like of shape (n,), optional
        Rows of one group, such as duplicates, are kept in one fold of the calibration.

    Returns
    -------
    estimator
        A fitted :class:`CalibratedHead`, or a fitted clone of ``head``. If a class or the groups are too small for
        calibration, a warning is issued, and it has decision values only.

    Examples
    --------
    >>> from tlfeatures.heads import make_head
    >>> X = np.array([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]])
    >>> fit_calibrated_head(make_head("svm"), X, ["cat"] * 3 + ["dog"] * 3).predict_proba([[0.05]]).shape
    (1, 2)
    """
    head = clone(head)
    last = head[-1] if isinstance(head, Pipeline) else head
    if not is_classifier(head) or isinstance(last, LogisticRegression):
        return head.fit(X, y)
    try:
        return CalibratedHead(head).fit(X, y, groups=groups)
    except ValueError as error:
        warn(f"no class probabilities, only decision values: {error}")
        return head.fit(X, y)


def fit_calibrated_pipeline(
    cnn: Any,
    head: Any,
    features: np.ndarray,
    y: np.ndarray,
    keys: np.ndarray,
    groups: np.ndarray | None = None,
    fit_head: Callable[..., Any] = fit_calibrated_head,
) -> Pipeline:
    """Fit a head on embeddings, and make a pipeline that predicts from images.

    Parameters
    ----------
    cnn : CNNFeatures
        Fitted transformer; its ``verbose`` is set to 0.
    head : estimator
        It is not changed.
    features : ndarray of shape (n, d)
        Embeddings of the training images.
    y : ndarray of shape (n,)
    keys : ndarray of uint8, shape (n, 16)
        Digests of the training images.
    groups : ndarray of shape (n,), optional
        Rows of one group, such as duplicates, are kept in one fold of the calibration.
    fit_head : callable, optional
        Another function with the parameters of :func:`fit_calibrated_head`.

    Returns
    -------
    Pipeline
        Steps "cnn" and "head", see :func:`fit_calibrated_head`. Its attribute ``training_digests_`` tells which test
        images were used for training.
    """
    with blas_threads(*features.shape):
        fitted = fit_head(head, features, y, groups)
    pipeline = Pipeline([("cnn", cnn.set_params(verbose=0)), ("head", fitted)])
    pipeline.training_digests_ = np.unique(keys, axis=0)
    return pipeline
