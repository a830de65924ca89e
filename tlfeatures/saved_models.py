"""Files of fitted models that the command line saves: ``.tlf`` files, bundles of fine-tuned networks, and pickles."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from typing import Any, Literal

import joblib
from sklearn.pipeline import Pipeline

from tlfeatures._archive import is_archive
from tlfeatures._files import replace_file
from tlfeatures.errors import SavedModelError
from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor
from tlfeatures.model_files import PICKLES, is_model_file, load, save
from tlfeatures.predictions import FittedModel

__all__ = ["PICKLES", "is_saved_pipeline", "load_model", "recognize_model", "save_model", "save_pipeline"]

_MARK = b"\ntlfeatures pipeline 1\n"  # written after the pickle, where joblib does not read
_COMPRESSED = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma, b"\x5d\x00": lzma}
_LZ4 = b"\x04\x22\x4d\x18"
_EXPECTED = "expected a scikit-learn Pipeline that begins with CNNFeatures, as saved by `tlfeatures fit`"


def save_pipeline(pipeline: Pipeline, path: str | os.PathLike[str]) -> None:
    """Save a fitted pipeline by :func:`tlfeatures.save`, or with joblib if the suffix is that of a pickle.

    Parameters
    ----------
    pipeline : Pipeline
    path : path
        The file is replaced when it is complete. With the suffix ``.joblib`` or ``.pkl`` it is a pickle, which
        ``joblib.load`` reads; loading it can run code.

    Raises
    ------
    SavedModelError
        If the pipeline has a step that a ``.tlf`` file cannot contain.
    OSError
        If the file cannot be written.
    """
    if not os.fspath(path).lower().endswith(PICKLES):
        save(pipeline, path)
        return
    with replace_file(path) as file:
        joblib.dump(pipeline, file)
        file.write(_MARK)


def save_model(model: Any, path: str | os.PathLike[str], *, whole: bool = False) -> None:
    """Save a fine-tuned estimator, or a pipeline as :func:`save_pipeline` does, for :func:`load_model`.

    A saved fine-tuned estimator shows no progress (``verbose=0``).

    Parameters
    ----------
    model : Pipeline, FineTuneClassifier or FineTuneRegressor
        Fitted.
    path : path
        The file is replaced when it is complete.
    whole : bool, default=False
        Whether the file of a fine-tuned estimator has all weights, not only those that training changed.

    Raises
    ------
    SavedModelError
        If the pipeline has a step that a ``.tlf`` file cannot contain.
    OSError
        If the file cannot be written.
    """
    if isinstance(model, (FineTuneClassifier, FineTuneRegressor)):
        quiet = object.__new__(type(model))  # copy.copy would convert the network to arrays and back
        quiet.__dict__.update({**vars(model), "verbose": 0})
        quiet.save(path, whole=whole)
    else:
        save_pipeline(model, path)


def is_saved_pipeline(path: str | os.PathLike[str]) -> bool:
    """Return whether a file was written by :func:`save_pipeline`; reads only its start and its end.

    Parameters
    ----------
    path : path

    Returns
    -------
    bool

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_MARK)))
        return file.read() == _MARK or is_model_file(path)


def recognize_model(path: str | os.PathLike[str]) -> Literal["tlf", "pickle"]:
    """Recognize the format of a saved model by its content, without loading it.

    Parameters
    ----------
    path : path

    Returns
    -------
    {"tlf", "pickle"}
        A ``.tlf`` file or a bundle is loaded without running code from the file; loading a pickle can run any code.

    Raises
    ------
    SavedModelError
        If the file does not exist, or is neither.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        raise SavedModelError(
            f"{text!r} is a folder; expected a file that `tlfeatures fit`, `select` or `finetune` saved."
        )
    if not os.path.isfile(text):
        from tlfeatures.sources import list_siblings, suggest_names

        suggestion = suggest_names(os.path.basename(text), list_siblings(text))
        raise SavedModelError(f"No such file: {text!r}; {_EXPECTED}.{suggestion}")
    if is_archive(path):
        return "tlf"
    if _is_pickle(text):
        return "pickle"
    raise SavedModelError(
        f"Cannot load {text!r}: it is neither a .tlf file, nor a joblib file, nor a bundle saved by `tlfeatures "
        f"finetune`; {_EXPECTED}."
    )


def load_model(path: str | os.PathLike[str], **params: Any) -> FittedModel:
    """Load a model that `tlfeatures fit`, `select` or `finetune` saved, or a pipeline saved by joblib.

    Parameters
    ----------
    path : path
        The format is recognized by the content. Loading a pickle can run code: load only files you trust.
    **params
        Parameters of :class:`~tlfeatures.CNNFeatures` to replace: ``cache``, ``batch_size``, ``n_jobs`` or ``verbose``.

    Returns
    -------
    FittedModel

    Raises
    ------
    SavedModelError
        If the file does not exist, is damaged, or contains another object.
    """
    kind, text = recognize_model(path), os.fspath(path)
    try:
        estimator = load(path) if kind == "tlf" else joblib.load(path)
        if hasattr(estimator, "get_params"):
            estimator.get_params()  # fails if a class has got parameters since the model was saved
    except (OSError, SavedModelError):
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        raise SavedModelError(
            f"Cannot load {text!r} ({type(error).__name__}: {error}); {_EXPECTED}.{_describe_cause(error)}"
        ) from error
    try:
        model = FittedModel(estimator)
    except TypeError:
        raise SavedModelError(
            f"{text!r} contains an object of type {type(estimator).__name__}; {_EXPECTED}."
        ) from None
    if params and isinstance(estimator, (FineTuneClassifier, FineTuneRegressor)):
        return FittedModel(estimator.set_params(**params))
    model.cnn.set_params(**params)
    return model


def _describe_cause(error: Exception) -> str:
    if not isinstance(error, (ImportError, AttributeError)):
        return ""
    return " It may have been saved with other versions of the packages; fit the model again."


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
