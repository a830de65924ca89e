"""``CNNFeatures``: a frozen pretrained network as a scikit-learn transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from tlfeatures._callbacks import CallbackSupportMixin, with_callbacks
from tlfeatures._image_estimator import ImageEstimator, LayerParameters
from tlfeatures._image_options import VIEWS
from tlfeatures._network_options import MODULE_CONSTRAINT, NETWORK_CONSTRAINTS, RUNTIMES
from tlfeatures._params import check_parameters
from tlfeatures.errors import InvalidParameterError

# Modules that read images, networks and the store are imported lazily, so that a saved model loads quickly.
if TYPE_CHECKING:
    from tlfeatures.extract import Extracted, FeatureSpec
    from tlfeatures.images import Images

__all__ = ["CNNFeatures"]


@dataclass(kw_only=True, eq=False, repr=False)
class CNNFeatures(CallbackSupportMixin, TransformerMixin, ImageEstimator, LayerParameters):
    """Embeddings of images from any layer of a frozen pretrained network.

    Each image goes through the network once. Its embedding is kept in a store on disk, from which every later
    fit, fold and process reads it. If all rows are in the store, neither Keras nor TensorFlow is imported.

    Parameters
    ----------
    model : str, path, keras.Model or torch.nn.Module, default="mobilenet"
        A network of ``keras.applications``, or AlexNet, in any spelling ("vgg19", "MobileNetV2", "mobilenet_0.75";
        see `tlfeatures models`), a preset of KerasHub ("dinov2_small", "hf://user/name" or a folder), the path of a
        ``.keras`` file, or a model. For a search in several
        processes, save the model as a ``.keras`` file and pass its path, because a model is pickled with its weights.
        A PyTorch module needs ``normalization`` (networks of timm have their own) and runs on the device where its
        parameters are; its layers are the paths in ``module.named_modules()``.
    layer : str, list of str or None, default=None
        The layer whose output is the embedding; see `tlfeatures layers NAME`. None means the last feature map, or the
        last tokens of a vision transformer (for those of KerasHub, after the final normalization). The embeddings of a
        list are concatenated in its order. Earlier layers suit images that differ from those of ImageNet. "fc1", "fc6"
        and "predictions" are in the fully connected top, which is then loaded too.
    pooling : {"avg", "max", "avgmax", "gem", "flatten", "cls", "clsavg"}, default="avg"
        How a feature map (h, w, c) becomes a vector: its mean, maximum, both, generalized mean
        (power 3; Radenović et al. 2018), or all h * w * c values. For vision transformers of KerasHub, the first four
        are computed from the patch tokens; "cls" is the class token, and "clsavg" the class token and the mean.
    weights : "imagenet", "bundled", path or None, default="imagenet"
        Pretrained weights, a ``.weights.h5`` or ``.h5`` file, or None for seeded random weights (He
        initialization), with a warning. For "tiny", which has no ImageNet weights, the default is "bundled", the file
        in the package.
    image_size : int, (int, int) or None, default=None
        Side, or (height, width), in pixels; None means the network's default.
    resize : {"stretch", "crop", "pad"}, default="stretch"
        How an image is resized to ``image_size``. "stretch" changes the aspect ratio, as
        ``keras.utils.load_img(target_size=...)`` does; "crop" resizes the short side and crops the center;
        "pad" resizes the long side and adds black bars.
    interpolation : str, default="bilinear"
        Filter of Pillow: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
    decode : {"scaled", "exact"}, default="scaled"
        "exact" decodes JPEG files at full size. "scaled" lets the JPEG decoder shrink large photographs first, never
        below twice the required size.
    max_value : int or None, default=None
        Value of white in 16-bit grey files and uint16 arrays, such as 4095 for 12-bit data; None means 65535.
        Images with larger values raise an error.
    window : (float, float) or None, default=None
        Center and width of the range of values that is mapped to the range from black to white in DICOM files (in
        Hounsfield units for CT), 16-bit grey files and uint16 arrays, such as (40, 400). None means, for DICOM, the
        window in the file or, without one, the full range of unsigned 8-bit values and the 1st to the 99th percentile
        of others; for other images, 0 to ``max_value``.
    normalization : "auto" or (mean, std), default="auto"
        "auto" is the network's own; a pair of RGB triples is applied instead as ``(x / 255 - mean) / std``.
    precision : {"float32", "tf32", "bfloat16", "float16", "int8"}, default="float32"
        Arithmetic of the network. "float32" is IEEE float32, even on GPUs with TF32. "int8" quantizes most
        operations to 8-bit integers (see ``calibration_images``); it needs ``runtime="openvino"`` and a single
        layer.
    batch_size : int, default=32
        Number of images in a batch; does not change the result.
    cache : "auto", path, EmbeddingStore or None, default="auto"
        The store of embeddings. "auto" is ``$TLFEATURES_CACHE`` or the user's cache folder; None means no store.
    views : {"flip", "crops", "flip+crops"} or None, default=None
        The embedding of an image is the mean over the image and its views: the mirror image, crops of 7/8 of the sides
        at the center and the four corners, or these crops and the mirror images of all. The embeddings of each view
        are stored under their own recipe. The network runs 2, 6 or 12 times for each image.
    runtime : "openvino", "onnxruntime" or None, default=None
        What runs the network: None is the backend of Keras (or PyTorch, for its modules); "openvino" is OpenVINO and
        "onnxruntime" is ONNX Runtime, both on the CPU and with the TensorFlow backend, from the extras "openvino" and
        "onnx". OpenVINO is faster than TensorFlow on most networks, about twice as fast with ``precision="bfloat16"``
        on processors that have instructions for it, and two to four times as fast with "int8". ONNX Runtime supports
        "float32" only, and is faster than TensorFlow on some networks (``python benchmarks/runtimes.py``). In float32,
        embeddings differ by rounding only, so they are shared in the store; otherwise, they are stored under their own
        recipe.
    calibration_images : images or None, default=None
        Images like those of X, with which the network is quantized if ``precision="int8"``. About 100 training images
        from all classes suffice; at most 256 are used. The embeddings depend on them, so rows are only shared between
        estimators with the same calibration images. Other precisions ignore them.
    on_error : {"raise", "nan"}, default="raise"
        On unreadable images, raise an :class:`~tlfeatures.errors.ImageReadError`, or return rows of NaN
        with one warning that counts and names them.
    n_jobs : int or None, default=None
        Number of decoding threads; None or -1 means one per core, at most 8.
    verbose : int, default=0
        If greater than 0, show progress, images per second and the time left on standard error.

    Attributes
    ----------
    layers_ : list of str
        Names of the layers.
    n_features_out_ : int
        Width of the embedding.
    recipes_ : list of dict
        Everything that determines the values of the embedding, one dict for each layer and stored pooling.
    decoder_probe_ : ndarray of uint8, shape (7605,), or None
        Pixels of a small test image, as the image decoder installed during `fit` reads them; None if `fit` got only
        arrays.
    calibration_pixels_ : ndarray of uint8, shape (n, height, width, 3), or None
        The images of ``calibration_images`` at the size of the network, with which `transform` quantizes it; None for
        other precisions. They are saved with the estimator.

    Raises
    ------
    UnknownNameError
        If there is no such network, layer, pooling, ...; the message lists the nearest names. The error is also
        a ``ValueError``.
    WeightsError
        If the weights are not available; the message says which file is expected where. The error is also an
        ``OSError``.
    ImageInputError, ImageReadError
        If X is not a batch of images (also a ``ValueError``), or an image cannot be read (also an ``OSError``).
    RecipeMismatchError
        If the recipe of `transform` differs from that of `fit`. The error is also a ``ValueError``.

    Notes
    -----
    A model with custom code (a Lambda layer, a layer class from outside Keras, or a module class from outside PyTorch,
    torchvision, timm, transformers and open_clip) can be identified only within this process, so its rows are not
    shared with other processes (see docs/store.md).

    `fit` learns nothing from X and does not run the network: it checks the type of the images and determines
    the recipe. X is a list, array, Series or one-column DataFrame of paths; a list of PIL images,
    bytes or arrays; or a uint8, uint16 or float (in [0, 1]) array (n, h, w), (n, h, w, 1 | 3 | 4).
    A pass through the network stores the average and the maximum of each requested layer, so a grid
    over both poolings costs one pass; six layers in one pass took 1.03 times as long as the deepest layer
    alone (``python benchmarks/taps.py``).

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures import CNNFeatures
    >>> X = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=None)
    >>> cnn.fit_transform(X).shape
    (3, 320)
    >>> cnn.get_feature_names_out()[:2].tolist()
    ['block10_pw_relu_avg_000', 'block10_pw_relu_avg_001']
    """

    views: Literal["flip", "crops", "flip+crops"] | None = None
    precision: Literal["float32", "tf32", "bfloat16", "float16", "int8"] = "float32"
    runtime: Literal["openvino", "onnxruntime"] | None = None
    calibration_images: Any = None
    on_error: Literal["raise", "nan"] = "raise"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageEstimator._parameter_constraints,
        "model": [*NETWORK_CONSTRAINTS["model"], MODULE_CONSTRAINT],
        **LayerParameters._layer_constraints,
        "precision": [*NETWORK_CONSTRAINTS["precision"], "int8"],
        "views": [None, *VIEWS],
        "runtime": [None, *RUNTIMES],
        "on_error": ["raise", "nan"],
    }

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> CNNFeatures:
        """Check the parameters and the type of X, and determine the recipe.

        No image of X is decoded; with ``precision="int8"``, the calibration images are.

        Parameters
        ----------
        X : images
        y : ignored

        Returns
        -------
        CNNFeatures
        """
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X, y=y)
        images = _to_images(X)
        self._set_fitted(self._make_spec(is_fitted=False), images)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @with_callbacks
    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit and transform; the same as ``fit(X).transform(X)``.

        Parameters
        ----------
        X : images
        y : ignored

        Returns
        -------
        ndarray of float32, shape (n, ``n_features_out_``)
        """
        context = self._init_callback_context(max_subtasks=None)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        images, spec = _to_images(X), self._make_spec(is_fitted=False)

        def on_batch(done: int, total: int) -> None:
            batch = context.subcontext(task_name="batch").call_on_fit_task_begin(estimator=self)
            batch.call_on_fit_task_end(estimator=self)

        features = self._extract(images, spec, on_batch=on_batch).features
        self._set_fitted(spec, images)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return features

    def transform(self, X: Any) -> np.ndarray:
        """Compute the embeddings of X, or read them from the store.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of float32, shape (n, ``n_features_out_``)
            NaN rows for unreadable images when ``on_error="nan"``.

        Raises
        ------
        RecipeMismatchError
            If parameters or weights differ from those of `fit`, or the image decoder differs from that of `fit` by
            more than one grey level on a test image.
        """
        return embed(self, X).features

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns: layer, pooling and a zero-padded number.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, shape (``n_features_out_``,)
        """
        check_is_fitted(self, "recipes_")
        names = []
        for recipe in self.recipes_:
            stem = (
                recipe["layer"] if recipe["pooling"] == "none" else f"{recipe['layer']}_{recipe['pooling']}"
            )
            digits = max(3, len(str(recipe["width"] - 1)))
            names += [f"{stem}_{i:0{digits}}" for i in range(recipe["width"])]
        return np.asarray(names, dtype=object)

    def _make_spec(self, is_fitted: bool = True) -> FeatureSpec:
        from tlfeatures.store import EmbeddingStore

        check_parameters(self)
        store = EmbeddingStore.resolve(self.cache)
        spec = self._specify(self.layer, self.pooling, self.normalization, store, self.runtime)
        if self.views is not None:
            spec = spec.with_views(self.views)
        if self.precision != "int8":
            return spec
        images = getattr(self, "calibration_pixels_", None) if is_fitted else None
        images = self.calibration_images if images is None else images
        if images is None:
            raise InvalidParameterError(
                "`calibration_images` must be images with precision='int8'; got None. Pass about 100 training images.",
                "calibration_images",
            )
        return spec.with_calibration(images, self._n_threads)

    def _set_fitted(self, spec: FeatureSpec, images: Images) -> None:
        from tlfeatures.images import probe_pixels

        self.layers_ = [tap.layer for tap in spec.description.taps]
        self.n_features_out_ = spec.width
        self.recipes_ = [column.recipe for column in spec.columns]
        self.decoder_probe_ = probe_pixels() if images.encoded().any() else None
        self.calibration_pixels_ = getattr(spec.backbone, "calibration_pixels", None)

    def _extract(self, X: Any, spec: FeatureSpec, **kwargs: Any) -> Extracted:
        from tlfeatures.extract import extract
        from tlfeatures.store import EmbeddingStore

        defaults = {
            "store": EmbeddingStore.resolve(self.cache),
            "batch_size": self.batch_size,
            "n_threads": self._n_threads,
            "on_error": self.on_error,
            "verbose": self.verbose,
        }
        return extract(X, spec, **defaults | kwargs)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def embed(cnn: CNNFeatures, X: Any, **kwargs: Any) -> Extracted:
    """Transform X and return errors and digests too; ``kwargs`` are those of `tlfeatures.extract.extract`."""
    check_is_fitted(cnn, "recipes_")
    images = _to_images(X)
    return cnn._extract(images, check_fitted_recipes(cnn, images), **kwargs)


def check_fitted_recipes(cnn: CNNFeatures, images: Images) -> FeatureSpec:
    """Return the specification of the embeddings of images; raise an error if it differs from that of `fit`."""
    from tlfeatures.extract import check_decoder, check_recipes

    spec = cnn._make_spec()
    if hasattr(cnn, "recipes_"):
        check_recipes(cnn.recipes_, [column.recipe for column in spec.columns])
        if images.encoded().any():
            check_decoder(cnn.decoder_probe_)
    return spec


def embed_views(cnn: CNNFeatures, X: Any) -> list[np.ndarray]:
    """Return the embeddings of each view of X, of which `transform` returns the mean; each of shape (n, d)."""
    check_is_fitted(cnn, "recipes_")
    images = _to_images(X)
    return [cnn._extract(images, spec).features for spec in check_fitted_recipes(cnn, images).by_view()]


def _to_images(X: Any) -> Images:
    from tlfeatures.images import Images

    return Images.of(X)
