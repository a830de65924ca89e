"""Save, load and run fitted models."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._groups import argument, option
from tlfeatures.cli._parse import parse_cache
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import stderr_is_terminal, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.extract import Extracted
    from tlfeatures.features import CNNFeatures

_EXPECTED = "expected a scikit-learn Pipeline that begins with CNNFeatures, as saved by `tlfeatures fit`"
_COMPRESSED = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma, b"\x5d\x00": lzma}
_LZ4 = b"\x04\x22\x4d\x18"


@dataclass(frozen=True)
class SavedModel:
    """File of a saved model, and options to run it."""

    pipe: str = argument(
        "PIPE",
        "File saved by `fit`, `select` or `finetune`. Loading a .joblib file can run code: load only files you trust.",
    )
    cache: str | None = option(
        None, "Folder of the embedding store; by default that of the model.", metavar="auto|none|DIR"
    )
    batch_size: int | None = option(
        None, "Images per batch; by default that of the model.", metavar="N", min=1
    )

    def load(self) -> Fitted:
        """Load the file, whose format is recognized by its content.

        Raises
        ------
        BadArgument
            If the file is neither a pipeline saved by joblib nor a bundle, or does not begin with `CNNFeatures`.
        """
        from sklearn.pipeline import Pipeline

        from tlfeatures.features import CNNFeatures

        model = _read(self.pipe)
        model = getattr(model, "best_estimator_", model)  # such as a GridSearchCV over pipelines
        steps = model.steps if isinstance(model, Pipeline) else []
        if len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures) or not hasattr(model, "predict"):
            raise BadArgument(
                f"{self.pipe!r} contains an object of type {type(model).__name__}; {_EXPECTED}."
            )
        cnn = steps[0][1].set_params(verbose=int(stderr_is_terminal()))
        if self.cache is not None:
            cnn.set_params(cache=parse_cache(self.cache))
        if self.batch_size is not None:
            cnn.set_params(batch_size=self.batch_size)
        return Fitted(cnn, model[1:], getattr(model, "training_digests_", None))


@dataclass(frozen=True)
class Predictions:
    """Predictions for the images that could be read.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Rows of these images among all images.
    values : ndarray of shape (m,)
        Labels or numbers.
    probabilities : ndarray of shape (m, n_classes) or None
        None if the head has no probabilities.
    decision : ndarray of shape (m,) or None
        Decision value of the predicted class, for heads without probabilities.
    """

    rows: np.ndarray
    values: np.ndarray
    probabilities: np.ndarray | None = None
    decision: np.ndarray | None = None


@dataclass(frozen=True)
class Fitted:
    """A loaded pipeline: the transformer, its other steps, and the digests of the training images."""

    cnn: CNNFeatures
    rest: Any
    training_digests: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray | None:
        """Classes of the head; None for regression."""
        return getattr(self.rest, "classes_", None)

    @property
    def confidence(self) -> str | None:
        """Confidence value of the predictions: "probability", "decision" or None."""
        if self.classes is None:
            return None
        methods = {"probability": "predict_proba", "decision": "decision_function"}
        return next((name for name, method in methods.items() if hasattr(self.rest, method)), None)

    def predict(self, result: Extracted) -> Predictions:
        """Predict for the images that could be read."""
        import numpy as np

        rows = np.array([row for row in range(len(result.keys)) if row not in result.errors], dtype=int)
        if not len(rows):
            return Predictions(rows, np.empty(0))
        X = result.features[rows]
        if hasattr(self.rest, "feature_names_in_"):  # fitted with set_output(transform="pandas")
            import pandas

            X = pandas.DataFrame(X, columns=self.cnn.get_feature_names_out())
        values = np.asarray(self.rest.predict(X))
        if self.confidence == "probability":
            return Predictions(rows, values, np.asarray(self.rest.predict_proba(X)))
        return Predictions(rows, values, None, self._decision(X, values))

    def _decision(self, X: Any, values: np.ndarray) -> np.ndarray | None:
        """Return the decision value of the predicted class; None if the head has no value for each class."""
        import numpy as np

        if self.confidence is None:
            return None
        decision = np.asarray(self.rest.decision_function(X))
        indices = np.searchsorted(self.classes, values)
        if decision.ndim == 1:  # two classes: positive values predict the second
            return np.where(indices == 1, decision, -decision)
        return decision[np.arange(len(indices)), indices] if decision.shape[1] == len(self.classes) else None

    def count_training_images(self, keys: np.ndarray) -> int | None:
        """Count the images that were used for training; None if the file has no digests of them."""
        import numpy as np

        if self.training_digests is None:
            return None
        used = {digest.tobytes() for digest in np.asarray(self.training_digests)}
        return sum(key.tobytes() in used for key in keys)


def save_pipeline(path: str, cnn: CNNFeatures, head: Any, keys: np.ndarray) -> None:
    """Save a pipeline with joblib, with the digests of its training images.

    Parameters
    ----------
    path : str
    cnn : CNNFeatures
        Fitted transformer.
    head : estimator
        Fitted head.
    keys : ndarray of uint8, shape (n, 16)
        Digests of the training images.
    """
    import joblib
    import numpy as np
    from sklearn.pipeline import Pipeline

    from tlfeatures.cli._outputs import replacing

    pipeline = Pipeline([("cnn", cnn.set_params(verbose=0)), ("head", head)])
    pipeline.training_digests_ = np.unique(keys, axis=0)
    with replacing(path) as file:
        joblib.dump(pipeline, file)


def _read(path: str) -> Any:
    import joblib

    from tlfeatures.finetune import is_bundle
    from tlfeatures.sources import list_siblings, suggest_names

    if not os.path.isfile(path):
        suggestion = suggest_names(os.path.basename(path), list_siblings(path))
        raise BadArgument(f"No such file: {path!r}; {_EXPECTED}.{suggestion}")
    bundle = is_bundle(path)
    if not bundle and not _is_pickle(path):
        raise BadArgument(
            f"Cannot load {path!r}: it is neither a joblib file nor a bundle saved by `tlfeatures finetune`; "
            f"{_EXPECTED}."
        )
    if not bundle:
        warn(f"{path} is a pickle, and loading a pickle can run code: load only files you trust.", "note: ")
    try:
        return read_bundle(path) if bundle else joblib.load(path)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        raise BadArgument(f"Cannot load {path!r} ({type(error).__name__}: {error}); {_EXPECTED}.") from error


def read_bundle(path: str) -> Any:
    """Read a bundle as a pipeline of `CNNFeatures` with its network, and its head."""
    from sklearn.pipeline import Pipeline

    from tlfeatures.features import CNNFeatures
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor, load_bundle

    tuned = load_bundle(path, expected={c.__name__: c for c in (FineTuneClassifier, FineTuneRegressor)})
    layers = [y._keras_history.operation.name for y in tuned.network_.outputs]
    if tuned.tta:
        warn(f"{path} was trained with --tta {tuned.tta}, which `evaluate` and `predict` do not apply.")
    net = tuned._live()
    decoding = {name: net.decoding.get(name) for name in ("resize", "interpolation", "decode", "max_value")}
    cnn = CNNFeatures(
        tuned.network_, layer=layers, pooling="flatten" if callable(tuned.head) else tuned.pooling,
        batch_size=tuned.batch_size, precision=net.precision, cache=tuned.cache, **decoding,
    )  # fmt: skip
    cnn.fit([path])  # fitting depends on the type of X, a list of paths, and does not read the files
    pipeline = Pipeline([("cnn", cnn), ("head", tuned.head_)])
    pipeline.training_digests_ = getattr(tuned, "training_digests_", None)
    return pipeline


def _is_pickle(path: str) -> bool:
    """Return whether a file begins like a pickle, uncompressed or compressed by a method of joblib."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith(_LZ4):  # if its package is not installed, joblib.load raises an error
        return True
    try:
        if start.startswith(b"\x78"):
            start = zlib.decompressobj().decompress(start, 2)
        for magic, module in _COMPRESSED.items():
            if start.startswith(magic):
                with module.open(path) as file:
                    start = file.read(2)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    return len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5
