"""Errors for data sets, tables and matrices of other libraries, with the conversion to images."""

from __future__ import annotations

from typing import Any

from tlfeatures._inputs import library_types
from tlfeatures.errors import ImageInputError

__all__ = ["ARROW_ARRAYS", "EXPECTED", "refuse_other_libraries"]

EXPECTED = (
    "expected a list of paths, of encoded images (bytes), of PIL images or of arrays, "
    "or one array (n, height, width[, channels])"
)
ARROW_ARRAYS = {"pyarrow.Array", "pyarrow.ChunkedArray"}
_DATA_SETS = {  # class -> display name, and how to get images or paths from it
    "tensorflow.DatasetV2": (
        "tf.data.Dataset",
        "Pass the paths from which it was made, or its batches as one array: "
        "np.concatenate([x for x, _ in X.as_numpy_iterator()]).astype('uint8').",
    ),
    "torch.DataLoader": (
        "PyTorch DataLoader",
        "Pass the paths, for an ImageFolder [path for path, _ in X.dataset.samples], or its batches as one array: "
        "np.concatenate([x.permute(0, 2, 3, 1).numpy() for x, _ in X]).",
    ),
    "torch.Dataset": (
        "PyTorch Dataset",
        "Pass the paths, for an ImageFolder [path for path, _ in X.samples] with y = X.targets, or a list of its "
        "images, [image for image, _ in X].",
    ),
    "keras.PyDataset": ("Keras PyDataset", "Pass the paths or arrays from which it was made."),
    "datasets.Dataset": ("Hugging Face Dataset", "Pass its column of images: list(X['image'])."),
}


def refuse_other_libraries(X: Any) -> None:
    """Raise an `ImageInputError` for data sets and matrices of other libraries; the message has the conversion."""
    types = library_types(X)
    if "pyarrow.Table" in types or "pyarrow.RecordBatch" in types:
        if X.num_columns != 1:
            raise ImageInputError(
                f"Got a table of {X.num_columns} columns; expected one column of images: choose it, e.g. "
                f"X[{X.schema.names[0] if X.num_columns else 'path'!r}]."
            )
        raise ImageInputError("Got a table; expected one column of images: X.column(0).")
    if hasattr(X, "toarray") and any(name.startswith("scipy.") for name in types):
        raise ImageInputError(
            f"Got a sparse matrix of shape {X.shape}; {EXPECTED}. Use X.toarray().reshape(-1, height, width)."
        )
    for name, (display_name, fix) in _DATA_SETS.items():
        if name in types:
            raise ImageInputError(f"Got a {display_name}; {EXPECTED}. {fix}")
