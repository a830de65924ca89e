"""Heads of a search and the points of their grids, from named heads and from estimators passed by the user."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures.heads import MAX_KERNEL_ROWS, BlockScaler, MeanRBFKernel, head_grid, list_heads, make_head

__all__ = ["Head", "list_user_estimators", "make_head_grids", "seed_estimator"]

_DEFAULT_HEADS = {"classification": ("logreg", "svm", "ridge"), "regression": ("ridge", "svr")}
_MANY_CLASSES = 100  # above it "svm", which fits one model for each pair of classes, is not a default head
_KERNEL_PARAMS = {"svm": "kernel", "svr": "regressor__kernel"}  # by the names of heads with an RBF kernel
# Parameters that a support vector machine for many images has too. With other parameters in its grid, such as
# "gamma", it is not replaced.
_LARGE_PARAMS = {"C", "class_weight", "regressor__C", "regressor__epsilon"}
_RESERVED_NAMES = ("cnn", "scale", "steps", "memory", "verbose", "transform_input")


@dataclass(frozen=True)
class Head:
    """A head and the points of its grid.

    Attributes
    ----------
    name : str
    task : {"classification", "regression"}
    points : tuple of dict
        Parameters of each point, by names relative to the head's estimator, such as "C".
    user_estimator : estimator or None
        Estimator passed by the user; None for a head of :func:`~tlfeatures.heads.list_heads`.
    blocks : tuple of int or None
        Widths of the layers of a fused embedding; None for other embeddings.
    kernel : callable or None
        Kernel in place of the RBF kernel of named heads; None for the RBF kernel.
    n_images : int or None
        Number of images, as in :func:`~tlfeatures.heads.make_head`.
    """

    name: str
    task: str
    points: tuple[dict[str, Any], ...]
    user_estimator: Any = None
    blocks: tuple[int, ...] | None = None
    kernel: MeanRBFKernel | None = None
    n_images: int | None = None

    def at(self, point: int) -> Head:
        """Return the head with a single point."""
        return replace(self, points=(self.points[point],))

    def params(self, point: int) -> dict[str, Any]:
        """Return a point as parameters of a pipeline whose last step is the head."""
        return {f"{self.name}__{key}": value for key, value in self.points[point].items()}

    def for_embedding(self, blocks: tuple[int, ...] | None, n_images: int) -> Head:
        """Return the head for an embedding of ``n_images``; ``blocks`` are the widths of the layers if it is fused."""
        kernel = MeanRBFKernel(blocks) if blocks and n_images <= MAX_KERNEL_ROWS else None
        replaced = {key for point in self.points for key in point} <= _LARGE_PARAMS
        return replace(self, blocks=blocks, kernel=kernel, n_images=n_images if replaced else None)

    def for_rows(self, n: int) -> Head:
        """Drop the points that need more than ``n`` training rows."""
        if self.user_estimator is not None:
            return self
        points = tuple(p for p in self.points if p.get("n_neighbors", 1) <= n)
        if not points:
            raise ValueError(
                f"The head {self.name!r} needs more neighbors than the {n} training images of a fold. "
                "Pass a smaller n_neighbors."
            )
        return replace(self, points=points)

    @property
    def standardizes(self) -> bool:
        """Whether the embedding is scaled first; a pipeline passed by the user is fitted on the raw embedding.

        Fused embeddings are always scaled.
        """
        return self.blocks is not None or not isinstance(self.user_estimator, Pipeline)

    @property
    def approximates_kernel(self) -> bool:
        """Whether an approximation of the RBF kernel precedes the estimator."""
        return self.user_estimator is None and len(self._make_named(0)) == 3

    def make_scaler(self) -> StandardScaler | BlockScaler:
        """Make the unfitted transformer that standardizes the embedding."""
        return StandardScaler() if self.blocks is None else BlockScaler(self.blocks)

    def estimator(self, point: int) -> Any:
        """Make the unfitted estimator of a point, without standardization."""
        if self.user_estimator is None:
            estimator = self._make_named(point)[-1]
            own_kernel = {key.split("__")[-1] for key in self.points[point]} & {"kernel", "gamma"}
            if self.kernel is not None and self.name in _KERNEL_PARAMS and not own_kernel:
                estimator.set_params(**{_KERNEL_PARAMS[self.name]: self.kernel})
            return estimator
        return clone(self.user_estimator).set_params(**self.points[point])

    def steps(self, point: int) -> list[tuple[str, Any]]:
        """Make the unfitted steps of a pipeline on embeddings: standardization, then the estimator."""
        scale = [("scale", self.make_scaler())] if self.standardizes else []
        kernel = self._make_named(point).steps[1:-1] if self.user_estimator is None else []
        return [*scale, *kernel, (self.name, self.estimator(point))]

    def _make_named(self, point: int) -> Pipeline:
        return make_head(self.name, self.task, n_images=self.n_images).set_params(**self.params(point))


def make_head_grids(heads: Any, task: str, y: np.ndarray, seed: int) -> list[Head]:
    """Make the heads of a search.

    Parameters
    ----------
    heads : None, str, list of str, or dict of name to grid, estimator or (estimator, grid)
        As in :class:`~tlfeatures.FeatureSearchCV`.
    task : {"classification", "regression"}
    y : ndarray of shape (n,)
    seed : int
        Value for each ``random_state`` that is None in an estimator passed by the user, so that fits are
        reproducible.

    Raises
    ------
    ValueError
        If ``heads`` is empty or of the wrong type, or if a grid has an invalid parameter.
    UnknownNameError
        If a name is not in ``list_heads(task)``.
    """
    if heads is None:
        skip_svm = task == "classification" and len(np.unique(y)) > _MANY_CLASSES
        heads = [name for name in _DEFAULT_HEADS[task] if not (skip_svm and name == "svm")]
    heads = [heads] if isinstance(heads, str) else heads
    if hasattr(heads, "fit"):
        raise ValueError(
            f"`heads` must give each estimator a name; got {_format_short(heads)}. Pass heads={{'my_head': estimator}}."
        )
    if not isinstance(heads, Iterable) or not (names := list(heads)):
        raise ValueError(
            f"`heads` must be names of heads ({', '.join(list_heads(task))}) or a dict of name to grid or estimator; "
            f"got {heads!r}."
        )
    settings = dict(heads) if isinstance(heads, Mapping) else {}
    grids: list[Head] = []
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"`heads` must list names; got {_format_short(name)}. Pass estimators in a dict: "
                "heads={'my_head': estimator}."
            )
        if any(head.name == name for head in grids):
            continue
        value = settings.get(name)
        estimator, grid = _split_estimator(name, value)
        _check_grid(name, grid)
        if estimator is None:
            default_grid, params = head_grid(name, task), make_head(name, task).get_params()
            # an empty point gets explicit values, because a name without parameters selects the default grid
            default_point = {key.removeprefix(f"{name}__"): params[key] for key in default_grid}
            head = Head(name, task, _expand_grid(name, default_grid if grid is None else grid, default_point))
        else:
            _check_estimator(name, estimator, task)
            head = Head(
                name,
                task,
                _expand_grid(name, {} if grid is None else grid, {}),
                seed_estimator(estimator, seed),
            )
        for point in range(len(head.points)):
            head.estimator(point)  # raises for an invalid parameter
        grids.append(head)
    return grids


def list_user_estimators(heads: Any) -> dict[str, Any]:
    """Return the estimators that the user passed as heads, by name."""
    if not isinstance(heads, Mapping):
        return {}
    estimators = {name: _split_estimator(name, value)[0] for name, value in heads.items()}
    return {name: estimator for name, estimator in estimators.items() if estimator is not None}


def _split_estimator(name: str, value: Any) -> tuple[Any, Any]:
    """Split a value of ``heads`` into estimator and grid; either may be None."""
    if inspect.isclass(value) or hasattr(value, "fit"):
        return value, None
    if isinstance(value, tuple) and value and (inspect.isclass(value[0]) or hasattr(value[0], "fit")):
        if len(value) != 2:
            raise ValueError(
                f"heads[{name!r}] must be (estimator, grid); got a tuple of {len(value)}. Pass two values."
            )
        return value
    return None, value


def _check_estimator(name: str, estimator: Any, task: str) -> None:
    if inspect.isclass(estimator):
        raise ValueError(
            f"heads[{name!r}] must be an instance; got the class {estimator.__name__}. "
            f"Pass {estimator.__name__}()."
        )
    missing = [method for method in ("predict", "get_params", "set_params") if not hasattr(estimator, method)]
    if missing:
        raise ValueError(
            f"heads[{name!r}] must be a scikit-learn estimator with fit and predict; got {_format_short(estimator)} "
            f"without {', '.join(missing)}."
        )
    matches = is_classifier(estimator) if task == "classification" else is_regressor(estimator)
    if not matches:
        expected = "classifier" if task == "classification" else "regressor"
        raise ValueError(
            f"heads[{name!r}] must be a {expected} for these labels; got {_format_short(estimator)}. "
            f"Pass a {expected}, or set `task` if it was inferred wrongly."
        )
    if "__" in name or name in _RESERVED_NAMES:
        raise ValueError(
            f"heads[{name!r}]: the name of a head names a step of a pipeline and cannot be {name!r}. Choose another "
            "name, without two underscores in a row."
        )


def _check_grid(name: str, grid: Any) -> None:
    if grid is None or isinstance(grid, Mapping):
        return
    if not isinstance(grid, (list, tuple)) or not grid or not all(isinstance(part, Mapping) for part in grid):
        raise ValueError(
            f"heads[{name!r}] must be an estimator with fit and predict, a grid such as {{'C': [1, 10]}}, "
            f"(estimator, grid), or None; got {_format_short(grid)}."
        )


def _expand_grid(name: str, grid: Any, default_point: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Expand a grid or a list of grids; parameters may have the head's name as their prefix."""
    parts = [grid] if isinstance(grid, Mapping) else grid
    prefix = f"{name}__"
    parts = [{key.removeprefix(prefix): values for key, values in part.items()} for part in parts]
    for key, values in ((key, values) for part in parts for key, values in part.items()):
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(
                f"heads[{name!r}]: the values of {key!r} must be a list; got {values!r}. "
                f"Write {{{key!r}: [{values!r}]}}."
            )
    return tuple(point or default_point for point in ParameterGrid(parts))


def seed_estimator(estimator: Any, seed: int) -> Any:
    """Clone an estimator and set ``random_state`` where it is None."""
    estimator = clone(estimator)
    unset = [
        key
        for key, value in sorted(estimator.get_params(deep=True).items())
        if value is None and (key == "random_state" or key.endswith("__random_state"))
    ]
    return estimator.set_params(**dict.fromkeys(unset, seed))


def _format_short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"an object of type {type(value).__name__}"
