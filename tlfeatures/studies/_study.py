"""`Study`: the command line of a study, its progress, its table and its files."""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures._files import write_file
from tlfeatures._json import to_json
from tlfeatures.cli._session import report_error, session
from tlfeatures.cli._terminal import show_table, show_text, stderr_is_terminal, warn
from tlfeatures.errors import RandomWeightsWarning, SourceError
from tlfeatures.studies._arguments import make_parser
from tlfeatures.studies._networks import describe_network
from tlfeatures.studies._table import ResultTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tlfeatures import CNNFeatures
    from tlfeatures.sources import Source

__all__ = ["Study"]

_INTERRUPTED = 130  # exit code after SIGINT


class Study:
    """A study that runs from the command line: options, progress, one table at the end, and files.

    Parameters
    ----------
    name : str
        Name of the file in ``pipelines/``.
    description : str
        Description in ``--help``, such as the docstring of that file.
    tutorial_network : str
        Network that the tutorial uses. If the study uses another network, all outputs say so.
    data : str or None
        Default of ``--data``; None if the study generates images when the option is left out.
    image_size : int, optional
        Default of ``--image-size``; None is the size of the network.
    predict : bool, default=False
        Whether the study has the option ``--predict``, which predicts new files at the end.

    Attributes
    ----------
    parser : argparse.ArgumentParser
        Parser with the options that all studies share; a study can add its own.
    args : argparse.Namespace
        Values of the options, set by `run`. ``args.weights`` is None for random weights.
    network : str
        Description of the network, which also names the network of the tutorial if that is another one; set by `run`.
    results : ResultTable

    Examples
    --------
    >>> study = Study("example", "An example.", tutorial_network="tiny", data="images")
    >>> def repeat(study):
    ...     with study.measure("a constant") as row:
    ...         row["accuracy"] = 0.5
    >>> import tempfile
    >>> study.run(repeat, ["--model", "tiny", "--out", tempfile.mkdtemp()])
    Network: tiny, the network of the tutorial
    ...
    0
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        tutorial_network: str,
        data: str | None,
        image_size: int | None = None,
        predict: bool = False,
    ) -> None:
        self.name, self.tutorial_network = name, tutorial_network
        self.args = argparse.Namespace()
        self.network = ""
        self.results = ResultTable()
        self.figures: list[str] = []
        self.parser = make_parser(name, description, tutorial_network, data, image_size, predict)

    def run(self, repeat: Callable[[Study], None], argv: Sequence[str] | None = None) -> int:
        """Parse the command line, call ``repeat(study)``, print the table and write ``results.json``.

        Parameters
        ----------
        repeat : callable
            Function that measures recipes with `measure` and saves figures with `save`.
        argv : sequence of str, optional
            By default ``sys.argv[1:]``.

        Returns
        -------
        int
            Exit code: 0 success; 1 failure; 2 invalid arguments or input; 130 interrupted. Errors are one line on
            standard error. Rows that were measured before an error are printed and written, with ``"complete": false``.
        """
        self.args = self.parser.parse_args(argv)
        try:
            with session():
                warnings.simplefilter("ignore", RandomWeightsWarning)  # all outputs mention random weights
                self.network = describe_network(self.args.model, self.tutorial_network, self.args.weights)
                show_text(f"Network: {self.network}")
                repeat(self)
                self._finish()
        except KeyboardInterrupt:
            self._keep_finished_rows()
            warn("interrupted; run the same command again to resume from the embeddings in the store.", "")
            return _INTERRUPTED
        except Exception as error:
            self._keep_finished_rows()
            return report_error(error)
        return 0

    def load(self, source: Source) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the readable images of a source, their labels and names; print the names of the others.

        Parameters
        ----------
        source : Source
            Images with labels.

        Returns
        -------
        images : ndarray
            Paths, or pixels if the source is an HDF5 array, so that scikit-learn can index them.
        y : ndarray
        names : list of str

        Raises
        ------
        SourceError
            If images have no labels, or none can be read.
        """
        if source.y is None or source.y.dtype == object:
            raise SourceError(
                f"Images in {self.args.data!r} have no labels. Expected a folder for each class, or a manifest with "
                "the columns path and label."
            )
        images = np.stack([source.images[i] for i in range(len(source))])
        rows = self.find_readable(images, source.names)
        if not len(rows):
            raise SourceError(f"None of the {len(images):,} images in {self.args.data!r} can be read.")
        return images[rows], source.y[rows], [source.names[i] for i in rows]

    def find_readable(self, images: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Find the readable images; print the names of the others and the reasons.

        Parameters
        ----------
        images : ndarray
            Paths or pixels.
        names : sequence of str
            Name of each image.

        Returns
        -------
        ndarray of int
            Rows of the readable images.
        """
        from tlfeatures import check_images

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the extraction issues the same warnings
            table = check_images(images)
        errors = table[table["problem"] == "error"]
        for row, reason in zip(errors["row"], errors["reason"], strict=True):
            self.say(f"{names[row]}: unreadable: {reason}")
        return np.setdiff1d(np.arange(len(images)), errors["row"].to_numpy(int))

    def predict(self, classifier: Any, paths: Sequence[str], name: str = "predictions.png") -> None:
        """Print the class of each image with its probability, and draw the images with their probabilities.

        Parameters
        ----------
        classifier : estimator
            Fitted estimator with ``predict_proba`` and ``classes_`` that takes paths.
        paths : sequence of str
            Images; for those that cannot be read, the path and the reason are printed.
        name : str
            File of the figure.
        """
        from tlfeatures.studies._image_figures import draw_predictions

        paths = np.array(paths)
        readable = paths[self.find_readable(paths, paths)] if len(paths) else paths
        if not len(readable):
            return
        probabilities = classifier.predict_proba(readable)
        for path, row in zip(readable, probabilities, strict=True):
            self.say(f"{path}: {classifier.classes_[row.argmax()]} (probability {row.max():.3f})")
        titles = [Path(path).name for path in readable]
        figure = draw_predictions(
            readable, probabilities, classifier.classes_, titles=titles, subtitle=self.network
        )
        self.save(figure, name)

    def choose(self, full: Any, quick: Any) -> Any:
        """Return the first value, or with ``--quick`` the second.

        Parameters
        ----------
        full, quick : object

        Returns
        -------
        object
        """
        return quick if self.args.quick else full

    def options(self) -> dict[str, Any]:
        """Return the options of the command line that `CNNFeatures` and `FineTuneClassifier` share.

        Returns
        -------
        dict
            Values by the names of parameters.
        """
        args = self.args
        return {
            "model": args.model,
            "weights": args.weights,
            "image_size": args.image_size,
            "cache": self.store,
            "verbose": int(stderr_is_terminal()),
        }

    def features(self, **params: Any) -> CNNFeatures:
        """Make a `CNNFeatures` with the options of the command line and further parameters.

        Parameters
        ----------
        **params
            Parameters of `CNNFeatures`.

        Returns
        -------
        CNNFeatures
        """
        from tlfeatures import CNNFeatures

        return CNNFeatures(**(self.options() | params))

    @property
    def store(self) -> str:
        """Folder of the embedding store."""
        return self.args.cache or str(Path(self.args.out) / "store")

    @contextlib.contextmanager
    def measure(self, recipe: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Measure a recipe as :meth:`ResultTable.measure` does, and report its start and its end.

        Parameters
        ----------
        recipe : str
            Name of the recipe in the table.
        **values
            Further columns of the row.

        Yields
        ------
        dict
            The row, to which scores are added.
        """
        warn(recipe, "... ")
        with self.results.measure(recipe, **values) as row:
            yield row
        scores = [f"{key} {row[key]:.4f}" for key in row if isinstance(row[key], float) and key != "seconds"]
        warn(", ".join([*scores, f"{row['seconds']} s"]), "    ")

    def note(self, text: str) -> None:
        """Print a remark and append it to ``network``, so that all outputs show it, such as "generated images".

        Parameters
        ----------
        text : str
        """
        self.network = f"{self.network}. {text}"
        show_text(text)

    def say(self, text: str) -> None:
        """Print a line of the results on standard output.

        Parameters
        ----------
        text : str
        """
        show_text(text)

    def save(self, figure: Figure, name: str) -> Path:
        """Write a figure as PNG into the folder of the results.

        Parameters
        ----------
        figure : matplotlib.figure.Figure
        name : str
            Name of the file, such as "scores.png".

        Returns
        -------
        Path
        """
        from tlfeatures.report._figures import to_png

        path = self._path(name)
        figure.set_dpi(120)
        write_file(path, to_png(figure))
        self.figures.append(name)
        return path

    def _path(self, name: str) -> Path:
        folder = Path(self.args.out)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def _keep_finished_rows(self) -> None:
        """Print and write the rows that were measured before an error, unless that fails too."""
        if self.results.rows:
            with contextlib.suppress(OSError):
                self._finish(complete=False)

    def _finish(self, complete: bool = True) -> None:
        """Print the table and write the results."""
        if self.results.rows:
            show_text()
            show_table(self.results.to_frame())
        show_text(f"Network: {self.network}")
        result = {
            "study": self.name,
            "network": self.network,
            "complete": complete,
            "options": vars(self.args),
            "rows": self.results.rows,
            "figures": self.figures,
        }
        content = json.dumps(to_json(result), indent=1) + "\n"
        write_file(self._path("results.json"), content.encode())
        show_text(f"Saved in {self.args.out}: {', '.join(['results.json', *self.figures])}.")
