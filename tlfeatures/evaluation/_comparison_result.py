"""Typed result of a comparison of estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures.evaluation._folds import Fold
from tlfeatures.evaluation._paired_tests import PairedTest

if TYPE_CHECKING:
    import pandas

__all__ = ["Comparison"]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Result of :func:`compare`.

    Attributes
    ----------
    scoring : str
        Name of the score; greater is better.
    scores : dict of str to ndarray of shape (n_folds * n_repeats,)
        Score of each estimator on each fold.
    pooled_scores : dict of str to float
        Score of each estimator on the out-of-fold predictions of all folds, which the tests compare; if the tests are
        corrected resampled t-tests, the mean over the folds.
    predictions : DataFrame
        One row for each out-of-fold prediction: row of the image, repeat, fold, true label, and a column with the
        prediction of each estimator.
    folds : list of (train, test)
        Row indices, for all repeats.
    n_repeats : int
    tests : tuple of PairedTest
        One test of each further estimator against the first one, the reference. With m tests, p-values and intervals
        are corrected by Bonferroni's method.
    best : str
        The estimator with the highest pooled score among those that are significantly better than the reference; the
        reference if there is none.
    attributes : dict of str to list of dict
        For each estimator and fold, the fitted attributes that were requested.
    level : float
        Confidence level of the intervals.
    """

    scoring: str
    scores: dict[str, np.ndarray]
    pooled_scores: dict[str, float]
    predictions: pandas.DataFrame
    folds: list[Fold]
    n_repeats: int
    tests: tuple[PairedTest, ...]
    best: str
    attributes: dict[str, list[dict[str, Any]]]
    level: float

    @property
    def reference(self) -> str:
        """Name of the first estimator."""
        return self.tests[0].reference

    @property
    def challenger(self) -> PairedTest:
        """Test of the estimator with the highest pooled score, except for the reference."""
        return max(self.tests, key=lambda test: self.pooled_scores[test.name])

    @property
    def difference(self) -> float:
        """Pooled score of the challenger minus that of the reference."""
        return self.challenger.difference

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of ``difference``."""
        return self.challenger.interval

    @property
    def p_value(self) -> float:
        """Two-sided p-value of ``difference``."""
        return self.challenger.p_value

    @property
    def test(self) -> str:
        """Name of the statistical test."""
        return self.challenger.test

    @property
    def significant(self) -> bool:
        """Whether ``difference`` is significant, in either direction."""
        return self.challenger.significant

    def __repr__(self) -> str:
        low, high = self.interval
        scores = ", ".join(f"{name}={score:.4g}" for name, score in self.pooled_scores.items())
        return (
            f"Comparison({self.scoring}: {scores}; difference={self.difference:+.4g}, "
            f"interval=({low:.4g}, {high:.4g}), p_value={self.p_value:.2g}, test={self.test!r}, best={self.best!r})"
        )

    def describe(self) -> str:
        """Describe the difference in one line: its interval, its p-value and the statistical test.

        Returns
        -------
        str
        """
        low, high = self.interval
        p_value = f"p = {self.p_value:.4f}" if self.p_value >= 0.0001 else "p < 0.0001"
        repeats = f", {self.n_repeats} repeats" if self.n_repeats > 1 else ""
        return (
            f"Difference {self.difference:+.4f}, {100 * self.level:g}% interval {low:+.4f} to {high:+.4f}, "
            f"{p_value} ({self.test}{repeats})."
        )

    def summary(self) -> dict[str, Any]:
        """Summarize the comparison in one dict.

        Returns
        -------
        dict
            "scoring", "repeats", the scores of each estimator on the folds under its name, "pooled" with their pooled
            scores, "difference", "interval", "p_value", "test", "significant" and "best".
        """
        names = ("difference", "interval", "p_value", "test", "significant", "best")
        values = {name: getattr(self, name) for name in names}
        scores = {**self.scores, "pooled": self.pooled_scores}
        return {"scoring": self.scoring, "repeats": self.n_repeats, **scores, **values}

    def score_table(self, max_folds: int = 5) -> pandas.DataFrame:
        """Tabulate the scores by estimator.

        Parameters
        ----------
        max_folds : int, default=5
            If there are more folds, only the lowest and the highest score are in the table.

        Returns
        -------
        DataFrame
            One row for each estimator. The first column is named after the score and has the names of the estimators;
            the others are "fold 1", "fold 2" and so on, or "lowest fold" and "highest fold", and "all folds".
        """
        import pandas

        rows = []
        for name, scores in self.scores.items():
            folds = {f"fold {i}": score for i, score in enumerate(scores, start=1)}
            if len(folds) > max_folds:
                folds = {"lowest fold": min(scores), "highest fold": max(scores)}
            rows.append({self.scoring: name, **folds, "all folds": self.pooled_scores[name]})
        return pandas.DataFrame(rows)

    def to_frame(self) -> pandas.DataFrame:
        """Tabulate the scores.

        Returns
        -------
        DataFrame
            One row for each fold: repeat, fold, n_train, n_test, and the score of each estimator.
        """
        import pandas

        k = len(self.folds) // self.n_repeats
        sizes = [(i // k, i % k, len(train), len(test)) for i, (train, test) in enumerate(self.folds)]
        frame = pandas.DataFrame(sizes, columns=["repeat", "fold", "n_train", "n_test"])
        return frame.assign(**self.scores)
