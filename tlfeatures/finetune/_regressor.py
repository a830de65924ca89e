"""`FineTuneRegressor`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d

from tlfeatures._inputs import as_labels
from tlfeatures.finetune._base import FineTune

__all__ = ["FineTuneRegressor"]


class FineTuneRegressor(RegressorMixin, FineTune):
    """Fine-tune a pretrained ConvNet for regression on images.

    Parameters and attributes are those of :class:`~tlfeatures.FineTuneClassifier`, except for ``class_weight`` and
    ``classes_``; ``history_`` has the mean absolute error, ``mae``, instead of the accuracy. The loss is the squared
    error of the target, which is standardized for training.

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures import FineTuneRegressor
    >>> y = np.arange(0, 256, 16)
    >>> X = np.broadcast_to(y[:, None, None, None], (16, 32, 32, 3)).astype("uint8")
    >>> reg = FineTuneRegressor("tiny", image_size=32, start="linear", epochs=0, random_state=0, cache=None)
    >>> float(reg.fit(X, y).score(X, y)) > 0.9
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> FineTuneRegressor:
        """Fit the head and the network.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        y : array-like of float, shape (n,)
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            Groups, such as patients, that are not split between training and validation.

        Returns
        -------
        FineTuneRegressor
        """
        y = column_or_1d(as_labels(y), warn=True, dtype=np.float64)
        if not len(y) or not np.isfinite(y).all():
            raise ValueError(
                "y contains NaN or infinity, or is empty; expected one finite number for each image."
            )
        self._train(X, y, None, sample_weight, groups)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict a number for each image.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        return self._decide(self._outputs(X))

    def _decide(self, outputs: np.ndarray) -> np.ndarray:
        mean, std = self._target
        return outputs.mean(axis=0)[:, 0] * std + mean
