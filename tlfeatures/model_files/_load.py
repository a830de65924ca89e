"""``load``: a fitted model from a file, without running code from the file."""

from __future__ import annotations

import os
from typing import Any

from tlfeatures._archive import MODEL_FORMAT, is_archive, library_versions, read_about, read_arrays
from tlfeatures._warnings import warn
from tlfeatures.errors import RecipeMismatchError, SavedModelError
from tlfeatures.model_files._decode import ModelDecoder
from tlfeatures.model_files._parts import find_cnn
from tlfeatures.model_files._self_test import compare_outputs

__all__ = ["load"]


def load(path: str | os.PathLike[str], **params: Any) -> Any:
    """Load a fitted model that :func:`save` saved, without running code from the file.

    Parameters
    ----------
    path : path
        A file written by :func:`save`, or by the `save` method of a fine-tuned estimator.
    **params
        Parameters of :class:`~tlfeatures.CNNFeatures` to replace, such as ``cache`` or ``batch_size``.

    Returns
    -------
    fitted estimator
        An estimator of the class that was saved. If a search was saved, this is its best pipeline.

    Raises
    ------
    SavedModelError
        If the file is damaged, has another format, such as pickle, or names a class that is not in the fixed list
        of classes that files can contain. SavedModelError is a subclass of ``ValueError``.
    RecipeMismatchError
        If the installed pretrained network differs from the one that was fine-tuned. For a pipeline, this is checked
        later, by `transform` and `predict`.
    FileNotFoundError
        If the file does not exist.

    Warns
    -----
    UserWarning
        If the installed versions of libraries differ from those with which the model was saved, and the model now
        predicts something else for the test rows stored in the file. The message names the versions. Also if the
        model was saved with parameters that the installed versions do not have, and the file contains no test rows.

    Examples
    --------
    >>> import tlfeatures
    >>> from sklearn.linear_model import LogisticRegression
    >>> tlfeatures.save(LogisticRegression().fit([[0.0], [1.0]], ["cat", "dog"]), "model.tlf")
    >>> tlfeatures.load("model.tlf").predict([[0.9]]).tolist()
    ['dog']
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(2, "No such file", name)
    if not is_archive(path):
        raise SavedModelError(
            f"{name!r} is damaged or has another format; expected a file of tlfeatures.save. Loading a pickle can run "
            "code: only if you trust it, load it by joblib.load(path)."
        )
    if read_about(path).get("format") != MODEL_FORMAT:
        return _load_finetuned(path, params)
    about, arrays = read_arrays(path)
    try:
        decoder = ModelDecoder(arrays)
        model, self_test = decoder.decode(about["model"]), decoder.decode(about["self_test"])
        decoder.finish()
        has_self_test = self_test is not None
        versions = {key: str(value) for key, value in about["versions"].items()}
        differences = compare_outputs(model, self_test)
    except Exception as error:  # damaged values raise many kinds of errors
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SavedModelError(f"Cannot load {name!r}: {reason.rstrip('.')}.") from error
    if differences:
        _report_differences(name, differences, versions)
    elif decoder.left_out and not has_self_test:
        warn(
            f"{name!r} was saved with parameters that the installed versions of the libraries do not have: "
            f"{', '.join(decoder.left_out)}. Compare its predictions with those of the saved model."
        )
    cnn = find_cnn(model)
    if params and cnn is None:
        raise SavedModelError(
            f"{name!r} contains no CNNFeatures, so no parameters can be replaced; got {params}."
        )
    if params:
        cnn.set_params(**params)
    return model


def _load_finetuned(path: str | os.PathLike[str], params: dict[str, Any]) -> Any:
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor, load_bundle

    expected = {kind.__name__: kind for kind in (FineTuneClassifier, FineTuneRegressor)}
    try:
        return load_bundle(path, expected=expected, **params)
    except (SavedModelError, RecipeMismatchError):
        raise
    except ValueError as error:
        raise SavedModelError(str(error)) from error


def _report_differences(name: str, methods: list[str], versions: dict[str, str]) -> None:
    installed = library_versions()
    changed = [
        f"{library} {version} (installed: {installed.get(library, 'none')})"
        for library, version in versions.items()
        if version != installed.get(library)
    ]
    what = f"{' and '.join(methods)} now return{'s' if len(methods) == 1 else ''} other values"
    if not changed:
        raise SavedModelError(
            f"{name!r} was saved with the same versions of all libraries, but {what}. Save the model again."
        )
    warn(
        f"{name!r} was saved with {', '.join(changed)}, and {what}. Install the versions with which it was saved, or "
        "fit the model again."
    )
