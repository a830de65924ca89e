"""Self-test of an exported model: its predictions are compared with those of the pipeline."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tlfeatures.calibration import to_logits
from tlfeatures.errors import InvalidParameterError
from tlfeatures.export._heads import WORKING_HEADS
from tlfeatures.export._packages import import_package
from tlfeatures.images import Decoder, Images, decode_batches
from tlfeatures.predictions import FittedModel

__all__ = ["N_IMAGES", "TOLERANCE", "SelfTest", "check_head", "run_self_test"]

N_IMAGES = 64
TOLERANCE = 1e-4
_N_ROWS = 256
_BATCH = 16


@dataclass(frozen=True)
class SelfTest:
    """Result of a self-test that succeeded.

    Attributes
    ----------
    images : {"given", "generated"}
    n_images : int
    largest_difference : float
        Of probabilities; of decision values or predicted numbers relative to the largest one.
    """

    images: str
    n_images: int
    largest_difference: float


def run_self_test(model: bytes, fitted: FittedModel, decoder: Decoder, X: Any = None) -> SelfTest:
    """Compare the predictions of an exported model with those of the pipeline on 64 images.

    Parameters
    ----------
    model : bytes
    fitted : FittedModel
    decoder : Decoder
    X : images or None
        Up to 64 are used; None means generated images.

    Raises
    ------
    InvalidParameterError
        If predictions differ, or no image can be read.
    """
    if X is None:
        images, fitted = Images.of(_make_images(decoder.image_size)), copy.copy(fitted)
        fitted.cnn = copy.copy(fitted.cnn).set_params(cache=None)
    else:
        images = Images.of(X)
        images = images.take(np.unique(np.linspace(0, len(images) - 1, N_IMAGES).astype(int)))
    expected = fitted.predict(images)
    if not len(expected.rows):
        raise InvalidParameterError(
            "`data` has no image that can be read; check_images(X) gives the reasons.", "data"
        )
    outputs = []
    session = _start(model)
    for _, _, batch, _ in decode_batches(images, expected.rows, decoder, _BATCH):
        outputs.append(session(batch) if len(batch) else {})
    actual = {name: np.concatenate([each[name] for each in outputs if each]) for name in outputs[0]}
    values, about = expected.values, None
    if "scores" in actual:
        columns = np.searchsorted(expected.classes, values)
        actual["scores"], about = actual["scores"][np.arange(len(values)), columns], expected.decision
    difference = _compare(actual, values, expected.probabilities if about is None else about, "images")
    return SelfTest("generated" if X is None else "given", len(values), difference)


def check_head(model: bytes, head: Any, mean: np.ndarray, std: np.ndarray) -> None:
    """Compare the predictions of an exported head with those of the head, on random rows.

    Parameters
    ----------
    model : bytes
    head : estimator
    mean, std : ndarray of shape (d,)
        Of the columns of the rows.

    Raises
    ------
    InvalidParameterError
        If predictions differ.
    """
    rows = (mean + std * np.random.default_rng(0).normal(size=(_N_ROWS, len(mean)))).astype(np.float32)
    inputs: Any = rows
    if hasattr(head, "feature_names_in_"):
        import pandas

        inputs = pandas.DataFrame(rows, columns=head.feature_names_in_)
    actual, values = _start(model)(rows), np.asarray(head.predict(inputs))
    if "probabilities" in actual:
        _compare(actual, values, np.asarray(head.predict_proba(inputs)), "rows")
    elif "scores" in actual:
        _compare(actual, values, to_logits(head.decision_function(inputs), None), "rows")
    else:
        _compare(actual, values, None, "rows")


def _start(model: bytes) -> Any:
    """Return a function from the input of a model to its outputs by name."""
    onnxruntime = import_package("onnxruntime")
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # for example of operators that ONNX does not have
        reason = " ".join(str(error).split())[:300]
        raise InvalidParameterError(
            f"The model cannot be exported: ONNX Runtime cannot load the result ({reason}). Export a model of another "
            "network, such as mobilenet, resnet50 or efficientnet_b0.",
            "model",
        ) from error
    (name,), outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    return lambda batch: dict(zip(outputs, session.run(None, {name: batch}), strict=True))


def _compare(
    actual: dict[str, np.ndarray], values: np.ndarray, scores: np.ndarray | None, what: str
) -> float:
    """Return the largest difference, or raise an error if it is too large or labels differ."""
    if "prediction" in actual:
        predicted, expected = actual["prediction"], values
        limit = float(np.abs(expected).max())
    else:
        n_wrong = int((actual["label"] != values).sum())
        if n_wrong:
            raise _make_error(f"{n_wrong} of {len(values)} {what} get another label")
        predicted, expected = next(value for name, value in actual.items() if name != "label"), scores
        limit = 1.0 if "probabilities" in actual else float(np.abs(expected).max())
    if expected is None or predicted.shape != expected.shape:
        raise _make_error(f"the shapes of the outputs for {what} differ")
    difference = float(np.abs(predicted - expected).max() / (limit or 1.0))
    if not difference <= TOLERANCE:  # also for NaN
        kind = "probabilities" if "probabilities" in actual else "values"
        raise _make_error(
            f"{kind} for {len(values)} {what} differ by up to {difference:.2g}, more than {TOLERANCE}"
        )
    return difference


def _make_error(what: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"The file would not predict as the model does, so it is not written: {what}. {WORKING_HEADS}.",
        "model",
    )


def _make_images(image_size: tuple[int, int]) -> np.ndarray:
    """Make 64 images of random patterns, coarse and fine, uint8 of shape (64, height, width, 3)."""
    rng, (height, width) = np.random.default_rng(0), image_size
    images = []
    for i in range(N_IMAGES):
        side = (2, 4, 8, 16)[i % 4]
        low = int(rng.integers(0, 160))
        coarse = rng.integers(low, low + 96, (side, side, 3), dtype=np.uint8)
        images.append(np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(images)
