"""Saved pipelines: loaded, checked, and run with an account of every image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli.options import parse_cache
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import stderr_is_terminal

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.extract import Extracted
    from tlfeatures.features import CNNFeatures

Pipe = Annotated[
    str,
    typer.Argument(
        metavar="PIPE",
        help="File that `fit` or `finetune` saved. Loading a .joblib runs code: only files you trust.",
    ),
]
CacheAgain = Annotated[
    str | None,
    typer.Option("--cache", metavar="auto|none|DIR", help="Folder of the store; by default the pipeline's."),
]
BatchAgain = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="By default the pipeline's.")
]


@dataclass(frozen=True)
class Fitted:
    """A saved pipeline: the network in front, and all that follows it."""

    cnn: CNNFeatures
    rest: Any

    @classmethod
    def load(cls, path: str, cache: str | None, batch_size: int | None) -> Fitted:
        """Load what `fit` saved, or any pipeline that begins with `CNNFeatures`."""
        import joblib
        from sklearn.pipeline import Pipeline

        from tlfeatures.cli.finetuning import read_bundle
        from tlfeatures.features import CNNFeatures
        from tlfeatures.finetune import is_bundle
        from tlfeatures.sources import near_text, siblings

        expected = (
            "expected a scikit-learn Pipeline that begins with CNNFeatures, as `tlfeatures fit` saves it"
        )
        if not os.path.isfile(path):
            near = near_text(os.path.basename(path), siblings(path))
            raise BadArgument(f"No such file: {path!r}; {expected}.{near}")
        try:
            held = read_bundle(path) if is_bundle(path) else joblib.load(path)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            raise BadArgument(
                f"Cannot load {path!r} ({type(error).__name__}: {error}); {expected}."
            ) from error
        held = getattr(held, "best_estimator_", held)  # a search over pipelines
        steps = held.steps if isinstance(held, Pipeline) else []
        if len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures) or not hasattr(held, "predict"):
            raise BadArgument(f"{path!r} holds an object of type {type(held).__name__}; {expected}.")
        cnn = steps[0][1].set_params(verbose=int(stderr_is_terminal()))
        if cache is not None:
            cnn.set_params(cache=parse_cache(cache))
        if batch_size is not None:
            cnn.set_params(batch_size=batch_size)
        return cls(cnn, held[1:])

    @property
    def classes(self) -> np.ndarray | None:
        """The classes it knows; None for numbers."""
        return getattr(self.rest, "classes_", None)

    def predict(self, result: Extracted) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows that could be read, their predictions, and the scores of these (see `_scores`)."""
        import numpy as np

        rows = np.array([row for row in range(len(result.keys)) if row not in result.errors], dtype=int)
        if not len(rows):
            return rows, np.empty(0), None
        X = result.features[rows]
        if hasattr(self.rest, "feature_names_in_"):  # fitted on what set_output(transform="pandas") gave
            import pandas

            X = pandas.DataFrame(X, columns=self.cnn.get_feature_names_out())
        predictions = np.asarray(self.rest.predict(X))
        return rows, predictions, self._scores(X, predictions)

    def _scores(self, X: Any, predictions: np.ndarray) -> np.ndarray | None:
        """Probability of the predicted class, or else its decision score; None for numbers."""
        import numpy as np

        if self.classes is None:
            return None
        for method in ("predict_proba", "decision_function"):
            if hasattr(self.rest, method):
                values = np.asarray(getattr(self.rest, method)(X))
                at = np.searchsorted(self.classes, predictions)
                if values.ndim == 1:  # two classes: positive speaks for the second
                    return np.where(at == 1, values, -values)
                if values.shape[1] == len(self.classes):
                    return values[np.arange(len(at)), at]
        return None
