"""`FineTuneClassifier`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from tlfeatures._inputs import as_labels, is_missing
from tlfeatures.finetune._base import FineTune
from tlfeatures.finetune._dense_head import LinearStart
from tlfeatures.store import EmbeddingStore

__all__ = ["FineTuneClassifier"]


class FineTuneClassifier(ClassifierMixin, FineTune):
    """A pretrained ConvNet trained on, from a chosen layer, to tell classes of images.

    Two stages (linear probe, then fine-tune; Kumar et al. 2022): first the head alone, on embeddings out of the
    store, in seconds; then the head and the chosen top of the network, at a low rate.

    Parameters
    ----------
    model, layer, pooling, weights, image_size, resize, interpolation, decode, max_value, precision, cache,
    n_jobs
        As in :class:`~tlfeatures.CNNFeatures`; the head stands on ``layer``. "bfloat16" and "float16" train in mixed
        precision.
    train_from : str or int, default="head"
        "head" leaves the network as it is; "all" trains all of it; the name of a layer (`tlfeatures layers NAME`)
        trains that and all that follow; a number trains so many of the last blocks, which end at the standard taps
        (in networks of your own: where the feature map shrinks).
    head : sequence of numbers or callable, default=()
        Widths of hidden layers with ReLU, where a number below 1 is a dropout rate: ``[256, 0.5]``. Or a callable
        from a feature map (None, h, w, c) of Keras to a vector; ``pooling`` then does not matter. The output layer
        is added to it, and regularizers of its layers do not count: ``weight_decay`` does.
    normalization : "auto", "data" or (mean, std), default="auto"
        As in `CNNFeatures`; "data" is the mean and standard deviation of the training images.
    start : None or "linear", default=None
        "linear": in place of a first stage by gradient descent, a logistic regression on standardized stored
        embeddings becomes the output layer. :meth:`from_pipeline` sets it to coefficients that are there.
    head_epochs, head_learning_rate : int, float, default=20, 1e-3
        Of the first stage, where there are two.
    epochs, learning_rate : int, float or None, default=20, None
        Of the last stage, which with ``train_from="head"`` is the only one. 0 epochs leave it out. None is 1e-3 for
        the head alone, and 3e-4 for a network with its head. The optimizer is AdamW.
    layer_decay : float, default=1.0
        What the rate is multiplied with for each block further down.
    schedule : {"cosine", "step", "constant"}, default="cosine"
        "cosine" rises over the first twentieth and falls to 0; "step" falls to a tenth at a half and at three quarters.
    weight_decay : float, default=1e-4
        Decoupled; on kernels only.
    batch_size : int, default=32
        Images a step.
    train_batchnorm : bool, default=False
        Whether batch normalization is trained too; otherwise it stays in inference mode.
    augment : dict or None, default=None
        Random views: ``{"crop": 4, "flip": "horizontal", "rotation": 0.05, "color": 0.2}``, see
        :class:`~tlfeatures.finetune.Augmenter`. With ``train_from="head"`` every epoch then runs the frozen network;
        otherwise only the second stage sees views.
    tta : int, default=0
        So many augmented views are averaged with the picture itself when predicting (`tlfeatures predict` does not).
    class_weight : "balanced", dict or None, default=None
    validation_fraction : float, default=0.1
        Of the images, set apart by class, and by group where `fit` gets groups; the epoch with the highest accuracy
        on them, of equals the one with the lowest loss, is kept. 0 trains on all and keeps the last epoch.
    patience : int or None, default=None
        Epochs without a better one after which a stage ends.
    checkpoint_dir : path or None, default=None
        Where to keep the state after each epoch, in a folder named by the digest of parameters, images, labels and
        weights: the same fit goes on from there after a crash.
    callbacks : list of keras.callbacks.Callback or None, default=None
        For ``keras.Model.fit``, such as ``CSVLogger`` or ``TensorBoard``. Each stage gets copies of them, so the
        objects given here do not change; ``CSVLogger(path, append=True)`` writes one file for both stages.
        Callbacks that set the learning rate need ``schedule="constant"``.
    on_error : {"raise", "drop"}, default="raise"
        Whether `fit` stops at unreadable images or leaves them out, with a warning.
    random_state : int, RandomState or None, default=None
        The same int gives the same network, on the same machine.
    verbose : int, default=0
        Above 0, progress with the time left on standard error.

    Attributes
    ----------
    classes_ : ndarray
    history_ : DataFrame
        One row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds. Epoch 0 of the
        network is before its first step.
    best_epoch_ : int
        Of the last stage, the one whose weights are kept.
    network_ : keras.Model
        See :attr:`network_`.
    training_digests_ : ndarray of uint8, shape (n, 16)
        Digests of the training and validation images, to recognize them again.
    normalization_, layers_ : what the network is fed with, and where the head stands
    start_pipeline_ : Pipeline
        The linear head that was fitted for ``start="linear"``.

    Raises
    ------
    UnknownNameError, ValueError
        When a parameter or y is not as above: a single class, or a class with one image that cannot be validated on.
    ImageReadError
        An ``OSError``, when an image cannot be read, also in the midst of training.
    OutOfMemoryError
        A ``MemoryError``; says which batch size to try.
    FloatingPointError
        When the loss is no number before the first epoch is complete. Later on training stops, the best epoch is
        restored, and a ``TrainingStoppedWarning`` says why.

    Notes
    -----
    Decoded images are kept in memory up to 512 MB in all; beyond that they are decoded anew in every epoch. A pickle
    holds all weights; :meth:`save` writes files that run no code when they are loaded.

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures import FineTuneClassifier
    >>> X = np.zeros((8, 32, 32, 3), "uint8")
    >>> X[::2, 8:24, 8:24] = 255
    >>> y = ["square", "empty"] * 4
    >>> clf = FineTuneClassifier("tiny", image_size=32, head_epochs=30, train_from="block10_dw", epochs=1,
    ...                          validation_fraction=0, random_state=0, cache=None)
    >>> clf.fit(X, y).predict(X[:2])
    array(['square', 'empty'], dtype='<U6')
    >>> clf.history_["stage"].value_counts().to_dict()
    {'head': 30, 'network': 2}
    """

    def __init__(
        self,
        model: Any = "mobilenet",
        *,
        train_from: str | int = "head",
        head: Any = (),
        layer: str | list[str] | None = None,
        pooling: Literal["avg", "max", "avgmax", "gem", "flatten"] = "avg",
        weights: str | os.PathLike[str] | None = "imagenet",
        image_size: int | tuple[int, int] | None = None,
        resize: Literal["stretch", "crop", "pad"] = "stretch",
        interpolation: str = "bilinear",
        decode: Literal["scaled", "exact"] = "scaled",
        max_value: int | None = None,
        normalization: Any = "auto",
        precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32",
        start: LinearStart | Literal["linear"] | None = None,
        head_epochs: int = 20,
        epochs: int = 20,
        head_learning_rate: float = 1e-3,
        learning_rate: float | None = None,
        layer_decay: float = 1.0,
        schedule: Literal["cosine", "step", "constant"] = "cosine",
        weight_decay: float = 1e-4,
        batch_size: int = 32,
        train_batchnorm: bool = False,
        augment: Mapping[str, Any] | None = None,
        tta: int = 0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Any] | None = None,
        cache: str | os.PathLike[str] | EmbeddingStore | None = "auto",
        on_error: Literal["raise", "drop"] = "raise",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            model,
            train_from=train_from,
            head=head,
            layer=layer,
            pooling=pooling,
            weights=weights,
            image_size=image_size,
            resize=resize,
            interpolation=interpolation,
            decode=decode,
            max_value=max_value,
            normalization=normalization,
            precision=precision,
            start=start,
            head_epochs=head_epochs,
            epochs=epochs,
            head_learning_rate=head_learning_rate,
            learning_rate=learning_rate,
            layer_decay=layer_decay,
            schedule=schedule,
            weight_decay=weight_decay,
            batch_size=batch_size,
            train_batchnorm=train_batchnorm,
            augment=augment,
            tta=tta,
            validation_fraction=validation_fraction,
            patience=patience,
            checkpoint_dir=checkpoint_dir,
            callbacks=callbacks,
            cache=cache,
            on_error=on_error,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> FineTuneClassifier:
        """Train.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        y : array-like of shape (n,)
            Classes: text, numbers or booleans.
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            What validation keeps together, such as patients.

        Returns
        -------
        FineTuneClassifier
        """
        y = column_or_1d(as_labels(y), warn=True)
        if missing := sum(map(is_missing, y.tolist())):
            raise ValueError(
                f"y contains NaN or None in {missing} of {len(y)} places; give each image a class, or leave it out."
            )
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if not len(classes):
            raise ValueError("y is empty; expected a class for each image.")
        if len(classes) < 2:
            raise ValueError(
                f"All {len(y)} images are of one class, {classes.tolist()[0]!r}; a classifier can't be trained when "
                "only one class is present. Give images of two classes or more."
            )
        self._train(X, codes.astype(np.int32), classes, sample_weight, groups)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            In the order of ``classes_``.
        """
        return self._probabilities(self._outputs(X))

    def _probabilities(self, z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return (e / e.sum(axis=-1, keepdims=True)).mean(axis=0)

    def _decide(self, z: np.ndarray) -> np.ndarray:
        return self.classes_[self._probabilities(z).argmax(axis=1)]

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each image.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,)
        """
        return self._decide(self._outputs(X))
