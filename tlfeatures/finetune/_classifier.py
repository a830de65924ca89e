"""`FineTuneClassifier`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from tlfeatures._inputs import as_labels, is_missing
from tlfeatures._params import instance_of
from tlfeatures.finetune._base import FineTune

__all__ = ["FineTuneClassifier"]


@dataclass(kw_only=True, eq=False, repr=False)
class FineTuneClassifier(ClassifierMixin, FineTune):
    """Fine-tune a pretrained ConvNet to classify images.

    Training has two stages (linear probing, then fine-tuning; Kumar et al. 2022): first the head alone, on stored
    embeddings, which takes seconds; then the head and the top layers of the network, at a low learning rate.

    Parameters
    ----------
    model, layer, pooling, weights, image_size, resize, interpolation, decode, max_value, window, cache, n_jobs
        As in :class:`~tlfeatures.CNNFeatures`; ``layer`` is the input of the head.
    precision : {"float32", "tf32", "bfloat16", "float16"}, default="float32"
        As in :class:`~tlfeatures.CNNFeatures`; "bfloat16" and "float16" train in mixed precision.
    train_from : str or int, default="head"
        What to train besides the head. "head": no layers of the network; "all": all layers; the name of a layer (see
        `tlfeatures layers NAME`): this layer and all later ones; an int: the number of last blocks, which end at the
        standard layers, or in custom models where the size of the feature map decreases.
    head : list of numbers, list of Keras layers, or callable, default=()
        Hidden layers; the output layer is added.

        - Widths of dense layers with ReLU, where a number below 1 is a dropout rate: ``[256, 0.5]``. Their input is
          the pooled embedding.
        - Keras layers, from the feature map of shape (h, w, c) to a vector: ``[Conv2D(64, 3, activation="relu"),
          MaxPooling2D(), Flatten(), Dense(64, "relu")]``, or a ``keras.Sequential``. The whole map is stored, so
          ``pooling`` is ignored. Each `fit` makes new layers from their configuration; their weights are not used.
        - A callable from a Keras tensor with the feature map, (None, h, w, c), to a vector, or to a list of Keras
          layers. It must make new layers in each call. A bundle contains the layers, but not the callable.
    normalization : "auto", "data" or (mean, std), default="auto"
        As in `CNNFeatures`; "data" is the mean and standard deviation of the training images.
    start : None or "linear", default=None
        "linear": instead of the first stage, a logistic regression is fitted on standardized stored embeddings and
        converted to the output layer. :meth:`from_pipeline` sets this parameter to the coefficients of a pipeline.
    head_epochs, head_learning_rate : int, float, default=20, 1e-3
        Number of epochs and learning rate of the first stage, if there are two stages.
    epochs, learning_rate : int, float or None, default=20, None
        Number of epochs and learning rate of the last stage, which is the only one with ``train_from="head"``. With 0
        epochs it is skipped. The default rate is 1e-3 for the head alone and 3e-4 for a network; with ``start`` and
        fewer than 150 training images n, it is 3e-4 * n / 150, because larger steps on few images make a fitted head
        worse. The optimizer is AdamW. The gradients of a network are clipped to a global norm of 1, without which
        single batches can ruin it.
    layer_decay : float, default=1.0
        Learning rate of each block, relative to the block above it.
    schedule : {"cosine", "step", "constant"}, default="cosine"
        Learning rate schedule. "cosine": linear warm-up in the first 5% of the steps, then cosine decay to 0; "step":
        division by 10 after 50% and 75% of the steps.
    weight_decay : float, default=1e-4
        Decoupled weight decay, of kernels only.
    batch_size : int, default=32
        Number of images per step.
    train_batchnorm : bool, default=False
        Whether to train batch normalization; otherwise it runs in inference mode.
    augment : dict or None, default=None
        Augmentation: ``{"crop": 4, "flip": "horizontal", "rotation": 0.05, "color": 0.2}``, see
        :class:`~tlfeatures.finetune.Augmenter`. With ``train_from="head"``, each epoch then runs the frozen network;
        otherwise only the second stage uses augmented views.
    tta : int, default=0
        Number of augmented views to average with the image itself in predictions.
    class_weight : "balanced", dict or None, default=None
    validation_fraction : float, default=0.1
        Fraction of the images for validation, stratified by class, and split by group if `fit` gets groups. The
        weights of the epoch with the highest validation accuracy are kept; ties are broken by the validation loss.
        0 trains on all images and keeps the weights of the last epoch.
    patience : int or None, default=None
        Number of epochs without improvement after which a stage stops.
    checkpoint_dir : path or None, default=None
        Folder for the state after each epoch, in a subfolder named by the digest of parameters, images, labels and
        weights. After an interruption, the same fit resumes from it.
    callbacks : list of keras.callbacks.Callback or None, default=None
        Callbacks for ``keras.Model.fit``, such as ``CSVLogger`` or ``TensorBoard``. Each stage uses deep copies of
        them, so these objects do not change; ``CSVLogger(path, append=True)`` writes one file for both stages.
        Callbacks that set the learning rate need ``schedule="constant"``.
    on_error : {"raise", "drop"}, default="raise"
        Whether `fit` raises an error for unreadable images, or warns and leaves them out.
    random_state : int, RandomState or None, default=None
        Seed; with an int, repeated fits on one machine give equal networks.
    verbose : int, default=0
        Above 0, show progress and the remaining time on standard error.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    history_ : DataFrame
        One row per epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds. Epoch 0 of the
        stage "network" is the evaluation before its first step.
    best_epoch_ : int
        Epoch of the last stage whose weights are kept.
    network_ : keras.Model
        See :attr:`network_`.
    training_digests_ : ndarray of uint8, shape (n, 16)
        Digests of the training and validation images.
    normalization_ : str or tuple
        Normalization of the pixels; with ``normalization="data"``, the mean and standard deviation.
    layers_ : list of str
        Layers whose outputs are the input of the head.
    start_pipeline_ : Pipeline
        Linear head that was fitted for ``start="linear"``.

    Raises
    ------
    UnknownNameError, ValueError
        If a parameter or ``y`` is invalid, for example if there is one class, or a class has too few images for
        validation.
    ImageReadError
        An ``OSError``, if an image cannot be read, before or during training.
    OutOfMemoryError
        A ``MemoryError``; the message suggests a batch size.
    FloatingPointError
        If the loss is not finite in the first epoch. In a later epoch, training stops, the best weights are restored,
        and a ``TrainingStoppedWarning`` is raised.

    Notes
    -----
    Decoded images are kept in memory if they need at most 512 MB; otherwise they are decoded again in each epoch. A
    pickle contains all weights; :meth:`save` writes files that are loaded without running code.

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

    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FineTune._parameter_constraints,
        "class_weight": [None, "balanced", instance_of(Mapping, "a dict from a class to its weight")],
    }

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> FineTuneClassifier:
        """Fit the head and the network.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        y : array-like of shape (n,)
            Classes, as strings, numbers or booleans.
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            Groups, such as patients, that are not split between training and validation.

        Returns
        -------
        FineTuneClassifier
        """
        y = column_or_1d(as_labels(y), warn=True)
        if missing := sum(map(is_missing, y.tolist())):
            raise ValueError(
                f"y contains NaN or None in {missing} of {len(y)} values. Label these images, or remove them."
            )
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if not len(classes):
            raise ValueError("y is empty; expected a class for each image.")
        if len(classes) < 2:
            raise ValueError(
                f"All {len(y)} images are of one class, {classes.tolist()[0]!r}; a classifier can't be trained when "
                "only one class is present. Pass images of two or more classes."
            )
        self._train(X, codes.astype(np.int32), classes, sample_weight, groups)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probabilities of the classes.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Probabilities in the order of ``classes_``.
        """
        return self._probabilities(self._outputs(X))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the mean of the softmax over the views."""
        exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (exp / exp.sum(axis=-1, keepdims=True)).mean(axis=0)

    def _decide(self, logits: np.ndarray) -> np.ndarray:
        return self.classes_[self._probabilities(logits).argmax(axis=1)]

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each image.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,)
        """
        return self._decide(self._outputs(X))
