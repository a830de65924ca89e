"""What the fine-tune estimators share: parameters, checks, fitting, saving and predicting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from tlfeatures._inputs import is_missing
from tlfeatures._keras import is_callback, is_model, keras
from tlfeatures._params import Constraint, boolean, check_parameters, instance_of, integer, number, path
from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError, OutOfMemoryError
from tlfeatures.features import CNNFeatures
from tlfeatures.finetune._augment import Augmenter, check_augment, draw_augmentations
from tlfeatures.finetune._dense_head import LinearStart, check_head, linear_start
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._stage import TEST_VIEWS
from tlfeatures.finetune._training import Training
from tlfeatures.images import Decoder, Images, decode_batches
from tlfeatures.networks import Backbone
from tlfeatures.store import EmbeddingStore

__all__ = ["FineTune"]

_SHARED = ("model", "layer", "pooling", "weights", "image_size", "resize", "interpolation", "decode", "max_value",
           "normalization", "precision", "batch_size", "cache", "n_jobs")  # fmt: skip
_TTA_ERROR = (
    "`tta` must be 0 without `augment`, for it averages over augmented views; got {}. Set augment, or tta=0."
)


def _are_callbacks(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_callback, value))


class FineTune(BaseEstimator):
    """What both share."""

    _parameter_constraints: ClassVar = {
        "epochs": [integer(minimum=0)],
        "head_epochs": [integer(minimum=0)],
        "learning_rate": [None, number(above=0)],
        "head_learning_rate": [number(above=0)],
        "layer_decay": [number(above=0)],
        "schedule": ["cosine", "step", "constant"],
        "weight_decay": [number(minimum=0)],
        "batch_size": [integer(minimum=1)],
        "train_batchnorm": [boolean()],
        "tta": [integer(minimum=0)],
        "validation_fraction": [number(minimum=0, below=1)],
        "patience": [None, integer(minimum=1)],
        "checkpoint_dir": [None, path("a path to a folder")],
        "callbacks": [None, Constraint("a list of keras.callbacks.Callback", _are_callbacks)],
        "start": [None, "linear", instance_of(LinearStart, "what from_pipeline sets")],
        "on_error": ["raise", "drop"],
        "n_jobs": [None, -1, integer(minimum=1)],
    }

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
        self.model = model
        self.train_from = train_from
        self.head = head
        self.layer = layer
        self.pooling = pooling
        self.weights = weights
        self.image_size = image_size
        self.resize = resize
        self.interpolation = interpolation
        self.decode = decode
        self.max_value = max_value
        self.normalization = normalization
        self.precision = precision
        self.start = start
        self.head_epochs = head_epochs
        self.epochs = epochs
        self.head_learning_rate = head_learning_rate
        self.learning_rate = learning_rate
        self.layer_decay = layer_decay
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.train_batchnorm = train_batchnorm
        self.augment = augment
        self.tta = tta
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_pipeline(cls, pipeline: Any, **params: Any) -> Any:
        """Start from a fitted pipeline: `CNNFeatures`, perhaps scalers, and a head.

        The network, its layer and its pixels are the pipeline's. A logistic or linear regression behind any number
        of ``StandardScaler`` becomes the output layer exactly, so that with ``epochs=0`` the network predicts what
        the pipeline predicts. For every other head a linear one is fitted on the stored embeddings when `fit` is
        called, with a warning: then ``epochs=0`` predicts what that one (``start_pipeline_``) predicts.

        All images are trained on and the last epoch is kept (``validation_fraction=0``), for the pipeline's head has
        seen them all, and on images that it knows the first epoch would look best.

        Parameters
        ----------
        pipeline : fitted sklearn.pipeline.Pipeline, or a fitted search over one
        **params
            Parameters of this class.

        Returns
        -------
        estimator
            Not yet fitted.

        Raises
        ------
        ValueError
            When it is not such a pipeline, or not fitted.
        """
        for name in ("best_pipeline_", "best_estimator_"):
            pipeline = getattr(pipeline, name, pipeline)
        steps = [step for _, step in getattr(pipeline, "steps", [])]
        if len(steps) < 2 or not isinstance(steps[0], CNNFeatures):
            raise ValueError(
                f"Got an object of type {type(pipeline).__name__}; expected a fitted scikit-learn Pipeline that begins "
                "with CNNFeatures and ends with a head."
            )
        check_is_fitted(steps[0], "recipes_")
        check_is_fitted(steps[-1])
        start: Any = linear_start(steps[1:])
        if start is not None and (start.classes is None) != issubclass(cls, RegressorMixin):
            kind = "numbers" if start.classes is None else "classes"
            raise ValueError(f"The pipeline predicts {kind}, which {cls.__name__} does not.")
        if start is None:
            head = " + ".join(type(step).__name__ for step in steps[1:])
            warn(
                f"The head {head} is no linear model with a softmax or a number behind a StandardScaler, so it cannot "
                "become a dense layer. A linear head is fitted on the stored embeddings in its place.",
                UserWarning,
            )
            start = "linear"
        held = steps[0].get_params(deep=False)
        given = {name: held[name] for name in _SHARED} | {"start": start, "validation_fraction": 0.0}
        return cls(**{**given, **params})

    @property
    def network_(self) -> Any:
        """The fine-tuned network as a ``keras.Model`` from pixels (0..255, RGB) to its feature map.

        ``CNNFeatures(clf.network_)`` taps it, under a recipe of its own; save it as ``.keras`` for parallel search.
        """
        return self._live().trunk

    @property
    def head_(self) -> Any:
        """The head as a fitted scikit-learn estimator on the embeddings that ``network_`` gives."""
        return _Head(self)

    def save(self, path: str | os.PathLike[str], whole: bool = False) -> None:
        """Write the fitted estimator to one file that loads without running code from it.

        Parameters
        ----------
        path : str or path
            By custom ``name.keras-bundle``.
        whole : bool, default=False
            With all of the network. Otherwise only what training changed, the head above all, and the digest of the
            network that it belongs to: megabytes, and it loads only where that network is.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        from tlfeatures.finetune._bundle import save_bundle

        check_is_fitted(self, "history_")
        save_bundle(self, path, whole)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, trust: bool = False, **params: Any) -> Any:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or path
        trust : bool, default=False
            Allow layers that are not Keras's own, which run code of theirs.
        **params
            Parameters to replace, such as ``model`` or ``cache``.

        Returns
        -------
        fitted estimator

        Raises
        ------
        ValueError
            A damaged file, one of another estimator, one with code, or another network than it was trained on.
        """
        from tlfeatures.finetune._bundle import load_bundle

        return load_bundle(path, trust=trust, expected={cls.__name__: cls}, **params)

    def draw_augmentations(self, X: Any, n_images: int = 6, views: int = 7) -> bytes:
        """Draw some of the images, each in a row with augmented views as training sees them.

        Neither a fit nor the weights of the network are needed.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        n_images, views : int
            Rows, which are chosen at random, and augmented views in each.

        Returns
        -------
        bytes
            A PNG file.

        Raises
        ------
        ValueError
            If ``augment`` is None, or none of the chosen images can be read.
        """
        self.check_params()
        if not self.augment:
            raise ValueError("augment is None; expected a dict such as {'crop': 4, 'flip': 'horizontal'}.")
        seed = self._seed()
        images = Images.of(X)
        rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:n_images])
        backbone = Backbone(self.model, self.weights, self.image_size)
        known = backbone.spec and (backbone.image_size or (backbone.spec.image_size,) * 2)  # without weights
        size = known or backbone.describe(None).image_size
        decoding = {name: getattr(self, name) for name in ("resize", "interpolation", "decode", "max_value")}
        decoder = Decoder(size, **decoding)
        pixels = next(iter(decode_batches(images, rows, decoder, len(rows))))[2]
        if not len(pixels):
            raise ValueError(f"None of the {len(rows)} images that were chosen could be read; pass others.")
        return draw_augmentations(pixels, self.augment, seed, views)

    # -- fitting -----------------------------------------------------------------------------

    def _train(
        self,
        X: Any,
        y: np.ndarray,
        classes: np.ndarray | None,
        sample_weight: Any,
        groups: Any,
    ) -> None:
        images = Images.of(X)
        self.check_params()
        if len(y) != len(images):
            raise ValueError(
                f"Got {len(images)} images and {len(y)} labels; expected one label for each image."
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, np.empty((len(images), 1)))
            if (sample_weight < 0).any():
                raise ValueError("sample_weight holds negative values; expected weights of 0 or more.")
        if groups is not None:
            groups = column_or_1d(groups)
            if any(map(is_missing, groups.tolist())):
                raise ValueError("groups contains NaN or None; expected a group for each image.")
            groups = np.unique(groups, return_inverse=True)[1]
            if len(groups) != len(images):
                raise ValueError(
                    f"groups holds {len(groups)} values for {len(images)} images; expected one for each."
                )
        training = Training(self, images, y, classes, self._seed(), sample_weight, groups)
        try:
            net = training.run()
        except Exception as error:
            if _is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"Training ran out of memory with `batch_size={self.batch_size}`, images of "
                    f"{self._size_text(training)} and `train_from={self.train_from!r}`. Try "
                    f"`batch_size={max(1, self.batch_size // 2)}`; smaller images, a later train_from and "
                    "`precision='bfloat16'` need less too."
                ) from error
            raise
        self._net, self._target = net, training.target
        self.training_digests_ = training.digests
        self.history_ = _frame(training.history, classes is not None)
        self.best_epoch_ = training.best_epoch
        self.normalization_ = training.plan.description.normalization
        self.layers_ = list(dict.fromkeys(tap.layer for tap in training.plan.description.taps))
        self.seed_ = training.seed
        self._taps = [[tap.layer, tap.digest] for tap in training.plan.description.taps]
        if training.start_pipeline is not None:
            self.start_pipeline_ = training.start_pipeline
        elif hasattr(self, "start_pipeline_"):
            del self.start_pipeline_

    @staticmethod
    def _size_text(training: Training) -> str:
        plan = getattr(training, "plan", None)
        return "x".join(map(str, plan.description.image_size)) + " pixels" if plan else "that size"

    def _seed(self) -> int:
        if self.random_state is None:
            if self.checkpoint_dir is not None:
                raise ValueError(
                    "checkpoint_dir is set and random_state is None: no later run could go on from the checkpoints. "
                    "Pass random_state=0, say."
                )
            return int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(1 << 31))

    def check_params(self) -> None:
        """Look for wrong parameters without a network, as `fit` does first.

        Raises
        ------
        ValueError
            Says which, and what is expected.
        """
        check_parameters(self)
        if self.patience is not None and not self.validation_fraction:
            raise InvalidParameterError(
                f"`patience` must be None without validation images; got {self.patience}. "
                "Pass validation_fraction=0.1, for example, or patience=None.",
                parameter="patience",
            )
        if not check_augment(self.augment) and self.tta:
            raise InvalidParameterError(_TTA_ERROR.format(self.tta), parameter="tta")
        check_head(self.head)

    # -- predicting --------------------------------------------------------------------------

    def _live(self) -> FittedNetwork:
        check_is_fitted(self, "history_")
        if isinstance(self._net, tuple):  # unpickled; a pickle runs code in any case
            self._net = FittedNetwork.from_parts(*self._net, trust=True)
        return self._net

    def _outputs(self, X: Any) -> np.ndarray:
        """Outputs of the head for each view, float64 (views, n, k)."""
        check_is_fitted(self, "history_")
        views = None
        if self.tta:
            augmenter = Augmenter(self.augment)
            if not augmenter:
                raise InvalidParameterError(_TTA_ERROR.format(self.tta), parameter="tta")

            def views(batch: np.ndarray, i: int) -> list[np.ndarray]:
                return [augmenter(batch, [self.seed_, TEST_VIEWS, i, view]) for view in range(self.tta)]

        return self._live().outputs(
            Images.of(X), self.batch_size, None if self.n_jobs == -1 else self.n_jobs, views
        )

    # -- as an object ------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if isinstance(state.get("_net"), FittedNetwork):
            state = {**state, "_net": state["_net"].to_parts()}
        return state

    def __sklearn_clone__(self) -> Any:
        if not is_model(self.model):
            return super().__sklearn_clone__()
        light = type(self).__new__(type(self))  # a network in memory is never changed: clones share it
        light.__dict__.update({**self.__dict__, "model": None})
        clone = super(FineTune, light).__sklearn_clone__()
        clone.model = self.model
        return clone

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True  # of paths
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        return tags


class _Head(BaseEstimator):
    """The head of a fitted estimator, on embeddings of shape (n, d)."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        if hasattr(whole, "classes_"):
            self.classes_ = whole.classes_

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None) -> _Head:
        """Nothing is left to learn; pipelines expect the method."""
        return self

    def _z(self, X: Any) -> np.ndarray:
        head = self.whole._live().head
        z = keras().ops.convert_to_numpy(head(np.asarray(X, np.float32), training=False))
        return z[None].astype(np.float64)

    @available_if(lambda self: hasattr(self.whole, "classes_"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """As the estimator's."""
        return self.whole._probabilities(self._z(X))

    def predict(self, X: Any) -> np.ndarray:
        """As the estimator's."""
        return self.whole._decide(self._z(X))


def _frame(history: list[dict[str, Any]], classes: bool) -> Any:
    import pandas

    columns = ["stage", "epoch", "loss", "metric", "val_loss", "val_metric", "learning_rate", "seconds"]
    metric = "accuracy" if classes else "mae"
    return pandas.DataFrame(history, columns=columns).rename(
        columns={"metric": metric, "val_metric": f"val_{metric}"}
    )


def _is_out_of_memory(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(
        isinstance(error, MemoryError)
        or names & {"ResourceExhaustedError", "OutOfMemoryError"}
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
    )
