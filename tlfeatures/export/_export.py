"""``export_onnx``: a fitted model as one ONNX file, from pixels to predictions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._archive import library_versions
from tlfeatures._files import write_file
from tlfeatures._json import to_json
from tlfeatures._keras.frozen import convert_to_onnx
from tlfeatures._text import count
from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError
from tlfeatures.export._graph import join_graphs
from tlfeatures.export._heads import convert_finetuned_head, convert_head, split_head
from tlfeatures.export._packages import check_packages, import_package
from tlfeatures.export._script import make_script
from tlfeatures.export._self_test import SelfTest, check_head, run_self_test
from tlfeatures.extract import FeatureSpec
from tlfeatures.features import check_fitted_recipes
from tlfeatures.finetune import (
    FineTuneClassifier,
    FineTuneRegressor,
    make_embedding_model,
    make_finetuned_model,
)
from tlfeatures.images import Images
from tlfeatures.model_files import describe_estimator
from tlfeatures.networks import find_licence
from tlfeatures.predictions import FittedModel
from tlfeatures.saved_models import load_model

__all__ = ["ExportedModel", "export_onnx"]


@dataclass(frozen=True)
class ExportedModel:
    """Result of an export.

    Attributes
    ----------
    path : str
        The ONNX file.
    script : str
        The Python script beside it, which reads images as the pipeline does and predicts with the file.
    task : {"classification", "regression"}
    classes : ndarray of shape (n_classes,) or None
        In the order of the columns of the outputs; None for regression.
    image_size : (int, int)
        Height and width of the input.
    outputs : tuple of str
        "label" and "probabilities", or "label" and "scores" for heads without probabilities, or "prediction".
    omitted : tuple of str
        What the model adds to its predictions and the file does not contain, such as prediction sets.
    self_test : SelfTest
    nbytes : int
        Size of the file.
    seconds : float
    """

    path: str
    script: str
    task: str
    classes: np.ndarray | None
    image_size: tuple[int, int]
    outputs: tuple[str, ...]
    omitted: tuple[str, ...]
    self_test: SelfTest
    nbytes: int
    seconds: float

    def describe(self) -> list[str]:
        """Describe the input and the outputs of the file, and its self-test.

        Returns
        -------
        list of str
            Two sentences.
        """
        height, width = self.image_size
        test, quantity = self.self_test, "numbers"
        if self.classes is not None:
            quantity = "probabilities" if "probabilities" in self.outputs else "decision values"
            quantity = f"same labels; {quantity}"
        return [
            f"Input: pixels, uint8 RGB (n, {height}, {width}, 3). Outputs: {', '.join(self.outputs)}.",
            f"Self-test with {count(test.n_images, f'{test.images} image')}: {quantity} differ by at most "
            f"{test.largest_difference:.1e}.",
        ]


def export_onnx(
    model: Any, path: str | os.PathLike[str], *, data: Any = None, overwrite: bool = False
) -> ExportedModel:
    """Write a fitted model to one file in ONNX format, which ONNX Runtime and other programs run without Python.

    The file contains the normalization, the network, the pooling, the standardization, the head and its calibration.
    Its input "pixels" is uint8 RGB of shape (n, height, width, 3). Before the file is written, the predictions of ONNX
    Runtime for 64 images are compared with those of the model.

    Parameters
    ----------
    model : estimator, FittedModel or path
        A fitted pipeline that begins with :class:`~tlfeatures.CNNFeatures`, a fitted search over such pipelines, a
        fine-tuned estimator, or a file of one of them, as in :func:`~tlfeatures.saved_models.load_model`.
    path : path
        With the suffix ``.onnx``. A script with the same name and the suffix ``.py`` is written beside it. It has the
        exact preprocessing, and needs NumPy, Pillow and ONNX Runtime only.
    data : images or None, default=None
        Images for the comparison, such as the training images; up to 64 of them are used. None means generated
        images.
    overwrite : bool, default=False
        Whether existing files may be replaced.

    Returns
    -------
    ExportedModel

    Raises
    ------
    InvalidParameterError
        If ``path`` has another suffix, a part of the model cannot be exported, or the predictions of the file differ
        from those of the model: another label for an image, or probabilities that differ by more than 1e-4. Nothing is
        written in this case. The error is also a ``ValueError``.
    FileExistsError
        If a file exists and ``overwrite`` is False.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    IsADirectoryError
        If ``path`` or the path of the script is a folder.
    MissingDependencyError
        If the packages of the extra "onnx" are not installed. Also an ``ImportError``.

    Warns
    -----
    UserWarning
        If the predictions have parts that the file does not contain, such as the sets of
        :class:`~tlfeatures.ConformalClassifier`.

    Notes
    -----
    The metadata of the file have the preprocessing, the classes, the recipes of the embeddings, the licence of the
    pretrained weights and the versions of the libraries, as JSON. The network is converted by tf2onnx, and
    the head by skl2onnx. Views, reduced precision and test-time augmentation cannot be exported.

    Examples
    --------
    >>> from tlfeatures.export import export_onnx
    >>> result = export_onnx("model.tlf", "model.onnx")  # doctest: +SKIP
    >>> result.outputs, result.self_test.n_images  # doctest: +SKIP
    (('label', 'probabilities'), 64)
    """
    start, path = time.perf_counter(), Path(path)
    script = _check_files(path, overwrite)
    fitted = _load(model)
    finetuned = _find_finetuned(fitted)
    _check_settings(fitted, finetuned)
    omitted = () if finetuned is not None else tuple(split_head(fitted.head).omitted)
    check_packages()
    spec = check_fitted_recipes(fitted.cnn, Images.of(np.zeros((1, 8, 8, 3), np.uint8)))
    joined = _convert(fitted, finetuned, spec)
    import_package("onnx.helper").set_model_props(joined, _make_metadata(fitted, finetuned, spec, omitted))
    content = joined.SerializeToString()
    self_test = run_self_test(content, fitted, spec.decoder, data)
    if omitted:
        warn(f"The file does not contain {' and '.join(omitted)}, which the model adds to its predictions.")
    write_file(path, content)
    write_file(script, make_script(spec.decoder, script.name).encode())
    return ExportedModel(
        str(path),
        str(script),
        "regression" if fitted.classes is None else "classification",
        fitted.classes,
        spec.decoder.image_size,
        tuple(output.name for output in joined.graph.output),
        omitted,
        self_test,
        len(content),
        time.perf_counter() - start,
    )


def _check_files(path: Path, overwrite: bool) -> Path:
    """Check that both files can be written; return the path of the script."""
    if path.suffix.lower() != ".onnx":
        raise InvalidParameterError(f"`path` must end in .onnx; got {str(path)!r}.", "path")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(2, "No such folder; create it first", str(path.absolute().parent))
    script = path.with_suffix(".py")
    for file in (path, script):
        if file.is_dir():
            raise IsADirectoryError(21, "Is a folder; name a file", str(file))
        if os.path.lexists(file) and not overwrite:
            raise FileExistsError(17, "File exists; name another file, or pass overwrite=True", str(file))
    return script


def _load(model: Any) -> FittedModel:
    if isinstance(model, FittedModel):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load_model(model)
    return FittedModel(model)


def _find_finetuned(fitted: FittedModel) -> Any:
    """Return the fine-tuned estimator of a model, or None."""
    estimator = getattr(fitted.head[-1], "estimator", None)
    return estimator if isinstance(estimator, (FineTuneClassifier, FineTuneRegressor)) else None


def _check_settings(fitted: FittedModel, finetuned: Any) -> None:
    """Raise an error for parameters whose effect a file with one input cannot have."""
    cnn = fitted.cnn
    if cnn.views is not None:
        raise InvalidParameterError(
            f"A model with `views={cnn.views!r}` cannot be exported, because it predicts from several views of each "
            "image. Fit it without `views`; TrainOnViews can train on views.",
            "views",
        )
    if cnn.precision not in ("float32", "tf32"):
        raise InvalidParameterError(
            f"A model with `precision={cnn.precision!r}` cannot be exported, because the file computes in float32. Fit "
            "it with `precision='float32'`.",
            "precision",
        )
    if finetuned is not None and finetuned.tta:
        raise InvalidParameterError(
            f"A fine-tuned model with `tta={finetuned.tta}` cannot be exported, because it predicts from several "
            "augmented views of each image. Call `model.set_params(tta=0)` first.",
            "tta",
        )


def _convert(fitted: FittedModel, finetuned: Any, spec: FeatureSpec) -> Any:
    """Return the model in ONNX format; the head is checked first, because converting a network takes longer."""
    onnx = import_package("onnx")
    if finetuned is not None:
        whole = make_finetuned_model(finetuned)
        head, network = convert_finetuned_head(whole, whole.model.outputs[0].shape[-1]), whole.model
    else:
        head = convert_head(fitted.head, spec.width)
        check_head(head.SerializeToString(), fitted.head, *_find_distribution(fitted.head, spec.width))
        network = make_embedding_model(spec)
    joined = join_graphs(onnx.load_from_string(convert_to_onnx(network)), head, spec.decoder.image_size)
    joined.producer_name, joined.producer_version = "tlfeatures", library_versions()["tlfeatures"]
    joined.graph.name = "tlfeatures"
    return joined


def _find_distribution(head: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of the columns of the training rows; 0.5 and 0.5 if they are unknown."""
    parts = split_head(head)
    for step in parts.transformers[:1]:
        if np.shape(getattr(step, "mean_", None)) == np.shape(getattr(step, "scale_", None)) == (width,):
            return step.mean_, step.scale_
    return np.full(width, 0.5), np.full(width, 0.5)


def _make_metadata(
    fitted: FittedModel, finetuned: Any, spec: FeatureSpec, omitted: tuple[str, ...]
) -> dict[str, str]:
    source = fitted.cnn if finetuned is None else finetuned
    named = isinstance(source.model, (str, os.PathLike))
    decoder = spec.decoder.recipe()
    about = {
        "task": "regression" if fitted.classes is None else "classification",
        "classes": fitted.classes,
        "preprocessing": {
            "input": "pixels, uint8 of shape (n, height, width, 3)",
            "color": "RGB; grey repeated, alpha composited on white, color profiles not applied",
            "exif_orientation": "applied before resizing",
            "normalization": "part of the graph",
            "image_size": decoder["image_size"],
            **{name: value for name, value in decoder.items() if name not in ("image_size", "pixels")},
        },
        "network": str(source.model) if named else spec.description.name,
        "head": "fine-tuned by Keras" if finetuned is not None else describe_estimator(fitted.head),
        "weights_licence": find_licence(source.model, source.weights) if named else None,
        "recipes": [column.recipe for column in spec.columns],
        "not_included": omitted,
        "versions": library_versions()
        | {name: importlib.metadata.version(name) for name in ("onnx", "skl2onnx", "tf2onnx")},
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in to_json(about).items()}
