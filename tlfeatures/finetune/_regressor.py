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
    """A pretrained ConvNet trained on, from a chosen layer, to tell a number from an image.

    Parameters and attributes are those of :class:`~tlfeatures.FineTuneClassifier`, without the classes; ``history_``
    has the mean absolute error, ``mae``, in place of the accuracy. The loss is the squared error of the target, which
    is standardized for training.

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
        """Train.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        y : array-like of float, shape (n,)
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            What validation keeps together, such as patients.

        Returns
        -------
        FineTuneRegressor
        """
        y = column_or_1d(as_labels(y), warn=True, dtype=np.float64)
        if not len(y) or not np.isfinite(y).all():
            raise ValueError(
                "y holds NaN or infinity, or nothing; expected one finite number for each image."
            )
        self._train(X, y, None, sample_weight, groups)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Numbers for images.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        return self._decide(self._outputs(X))

    def _decide(self, z: np.ndarray) -> np.ndarray:
        shift, unit = self._target
        return z.mean(axis=0)[:, 0] * unit + shift
