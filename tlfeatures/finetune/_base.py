"""Base class of the fine-tune estimators."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from tlfeatures._inputs import is_missing
from tlfeatures._keras import is_out_of_memory
from tlfeatures._params import check_parameter, integer
from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError, OutOfMemoryError
from tlfeatures.features import CNNFeatures
from tlfeatures.finetune._augment import Augmenter, draw_augmentations
from tlfeatures.finetune._fitted_head import FittedHead
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._head_model import takes_map
from tlfeatures.finetune._linear_start import linear_start
from tlfeatures.finetune._parameters import SHARED_PARAMETERS, TTA_ERROR, FineTuneParameters
from tlfeatures.finetune._stage import TEST_VIEWS
from tlfeatures.finetune._training import Training
from tlfeatures.images import Decoder, Images, decode_batches
from tlfeatures.networks import open_backbone

__all__ = ["FineTune"]


class FineTune(FineTuneParameters):
    """Parameters, validation, training, saving and prediction of both estimators."""

    @classmethod
    def from_pipeline(cls, pipeline: Any, **params: Any) -> Any:
        """Make an estimator that starts from a fitted pipeline of `CNNFeatures`, scalers if any, and a head.

        The parameters of `CNNFeatures` are taken from the pipeline. A logistic or linear regression after any number
        of ``StandardScaler`` or `BlockScaler` is converted exactly to the output layer, so that with ``epochs=0`` the
        network and the pipeline make equal predictions. For any other head, a warning is raised, and `fit` fits a
        linear head on the stored embeddings: then with ``epochs=0`` the predictions equal those of
        ``start_pipeline_``.

        ``validation_fraction`` is 0 unless passed: all images are used for training, and the weights of the last epoch
        are kept. Validation images would be among those that the head of the pipeline was fitted on, so the first
        epoch would seem to be the best.

        Parameters
        ----------
        pipeline : fitted sklearn.pipeline.Pipeline, or a fitted search over pipelines
        **params
            Parameters of this class, which replace those of the pipeline.

        Returns
        -------
        estimator
            Unfitted estimator.

        Raises
        ------
        ValueError
            If ``pipeline`` is not such a pipeline, not fitted, or fitted on the mean of several views.
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
        if steps[0].views is not None:
            raise ValueError(
                f"CNNFeatures has views={steps[0].views!r}, and its head was fitted on the mean of the views, which a "
                "fine-tuned network does not compute. Fit the pipeline with views=None; `augment` and `tta` train on "
                "augmented views and average them in predictions."
            )
        start: Any = linear_start(steps[1:])
        if start is not None and (start.classes is None) != issubclass(cls, RegressorMixin):
            kind = "numbers" if start.classes is None else "classes"
            raise ValueError(f"The pipeline predicts {kind}, which {cls.__name__} does not.")
        if start is None:
            head = " + ".join(type(step).__name__ for step in steps[1:])
            warn(
                f"The head {head} is not a logistic or linear regression after scalers, so it cannot be "
                "converted to a dense layer. `fit` fits a linear head on the stored embeddings instead.",
                UserWarning,
            )
            start = "linear"
        defaults = {name: getattr(steps[0], name) for name in SHARED_PARAMETERS - {"verbose"}}
        return cls(**{**defaults, "start": start, "validation_fraction": 0.0, **params})

    @property
    def network_(self) -> Any:
        """The fine-tuned network, a ``keras.Model`` from RGB pixels in 0..255 to the feature map.

        ``CNNFeatures(clf.network_)`` extracts its embeddings, under their own recipe. For parallel search, save it as
        ``.keras`` and pass the path.
        """
        return self._live().trunk

    @property
    def head_(self) -> Any:
        """The head as a fitted scikit-learn estimator on the embeddings of ``network_``."""
        return FittedHead(self)

    def to_pipeline(self) -> Pipeline:
        """Make a pipeline of `CNNFeatures` with the fine-tuned network, and the head.

        The pipeline predicts from stored embeddings, so that a second prediction of the same images is quick.

        Returns
        -------
        Pipeline
            Fitted, with the steps "cnn" and "head". It predicts as this estimator does with ``tta=0``.
        """
        net, network = self._live(), self.network_
        if any(n_prefix for *_, n_prefix in net.columns):  # CNNFeatures would pool these tokens too
            network = net.embedding_model
        cnn = CNNFeatures(
            network,
            layer=[output._keras_history.operation.name for output in network.outputs],
            pooling="flatten" if takes_map(self.head) else self.pooling,
            batch_size=self.batch_size,
            precision=net.precision,
            cache=self.cache,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
            **{name: net.decoding.get(name) for name in self._decoding()},
        )
        cnn.fit(["image.jpg"])  # this path is not read; it selects the recipe of image files, not of arrays
        return Pipeline([("cnn", cnn), ("head", self.head_)])

    def save(self, path: str | os.PathLike[str], whole: bool = False) -> None:
        """Save the fitted estimator to one file, which is loaded without running code from it.

        Parameters
        ----------
        path : str or path
            Path of the file, by convention with the suffix ``.tlf``.
        whole : bool, default=False
            Whether to save all weights of the network. Otherwise only the weights that training changed and the
            digest of the pretrained network are saved; loading then needs the same pretrained network.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from tlfeatures.finetune._bundle import save_bundle

        check_is_fitted(self, "history_")
        save_bundle(self, path, whole)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, trust: bool = False, **params: Any) -> Any:
        """Load an estimator that :meth:`save` saved.

        Parameters
        ----------
        path : str or path
        trust : bool, default=False
            Whether to load layers that are not part of Keras. Such layers can run any code.
        **params
            Parameters to replace, such as ``model`` or ``cache``.

        Returns
        -------
        fitted estimator

        Raises
        ------
        ValueError
            If the file is damaged, contains another estimator or code, or was trained on another network.
        """
        from tlfeatures.finetune._bundle import load_bundle

        return load_bundle(path, trust=trust, expected={cls.__name__: cls}, **params)

    def draw_augmentations(self, X: Any, n_images: int = 6, n_views: int = 7) -> bytes:
        """Draw a random selection of the images, each in a row with augmented views as in training.

        The estimator need not be fitted, and the weights of the network are not needed.

        Parameters
        ----------
        X : images, as in `CNNFeatures`
        n_images : int, default=6
            Number of images, which are chosen at random.
        n_views : int, default=7
            Number of augmented views of each image.

        Returns
        -------
        bytes
            Content of a PNG file.

        Raises
        ------
        ValueError
            If ``augment`` is None or empty, a parameter is invalid, or none of the chosen images can be read.
        """
        self.check_params()
        check_parameter("n_images", n_images, [integer(minimum=1)])
        check_parameter("n_views", n_views, [integer(minimum=1)])
        if not self.augment:
            raise InvalidParameterError(
                f"`augment` must be a dict such as {{'crop': 4, 'flip': 'horizontal'}}; got {self.augment!r}.",
                "augment",
            )
        seed = self._seed()
        images = Images.of(X)
        rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:n_images])
        backbone = open_backbone(self.model, self.weights, self.image_size)
        size = backbone.spec and (backbone.image_size or (backbone.spec.image_size,) * 2)
        if not size:  # a custom model, which has to be loaded
            size = backbone.describe(None).image_size
        decoder = Decoder(size, **self._decoding())
        pixels = next(iter(decode_batches(images, rows, decoder, len(rows))))[2]
        if not len(pixels):
            raise ValueError(f"None of the {len(rows)} randomly chosen images could be read; pass others.")
        return draw_augmentations(pixels, self.augment, seed, n_views)

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
                raise ValueError("sample_weight contains negative values; expected weights of 0 or more.")
        if groups is not None:
            groups = column_or_1d(groups)
            if any(map(is_missing, groups.tolist())):
                raise ValueError("groups contains NaN or None; expected a group for each image.")
            groups = np.unique(groups, return_inverse=True)[1]
            if len(groups) != len(images):
                raise ValueError(
                    f"groups has {len(groups)} values for {len(images)} images; expected one for each image."
                )
        training = Training(self, images, y, classes, self._seed(), sample_weight, groups)
        try:
            net = training.run()
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"Training ran out of memory with `batch_size={self.batch_size}`, images of "
                    f"{self._size_text(training)} and `train_from={self.train_from!r}`. Try "
                    f"`batch_size={max(1, self.batch_size // 2)}`, smaller images, a later layer as train_from, or "
                    "`precision='bfloat16'`."
                ) from error
            raise
        self._net, self._target = net, training.target
        self.training_digests_ = training.digests
        self.history_ = _make_history_frame(training.history, classes is not None)
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
        return "x".join(map(str, plan.description.image_size)) + " pixels" if plan else "this size"

    # -- predicting --------------------------------------------------------------------------

    def _live(self) -> FittedNetwork:
        check_is_fitted(self, "history_")
        if isinstance(self._net, tuple):  # unpickling has already run any code in the file
            self._net = FittedNetwork.from_parts(*self._net, trust=True)
        return self._net

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the outputs of the head for each view, float64 of shape (n_views, n, n_outputs)."""
        check_is_fitted(self, "history_")
        views = None
        if self.tta:
            augmenter = Augmenter(self.augment)
            if not augmenter:
                raise InvalidParameterError(TTA_ERROR.format(self.tta), parameter="tta")

            def views(batch: np.ndarray, i: int) -> list[np.ndarray]:
                return [augmenter(batch, [self.seed_, TEST_VIEWS, i, view]) for view in range(self.tta)]

        return self._live().outputs(Images.of(X), self.batch_size, self._n_threads, views)

    # -- pickling ------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if isinstance(state.get("_net"), FittedNetwork):
            state = {**state, "_net": state["_net"].to_parts()}
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags


def _make_history_frame(history: list[dict[str, Any]], classes: bool) -> Any:
    import pandas

    columns = ["stage", "epoch", "loss", "metric", "val_loss", "val_metric", "learning_rate", "seconds"]
    metric = "accuracy" if classes else "mae"
    return pandas.DataFrame(history, columns=columns).rename(
        columns={"metric": metric, "val_metric": f"val_{metric}"}
    )
