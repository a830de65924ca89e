"""`explain`: maps of the regions of images that support or oppose a prediction."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, Options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_folder
from tlfeatures.cli._tables import ImageItems
from tlfeatures.cli._terminal import show_json, show_table, show_text


class MapOptions(Options):
    """Which class the maps explain, and how they are computed."""

    label: str | None = option(
        None, "Class that the maps explain; by default the predicted class of each image."
    )
    method: str = option("auto", "auto, exact (linear heads), gradient or occlusion.")


class NeighborOptions(opt.TrainingImages):
    """Training images to show beside each map."""

    data: str | None = option(
        None,
        "Folder, manifest or array of training images; the nearest of each class are shown beside each map.",
        metavar="SOURCE",
    )
    neighbors: int = option(3, "Number of nearest training images of each class.", min=1)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `tlfeatures.explain`."""
        source = self.read()
        if source is None:
            return {}
        if source.split is not None and (source.split == "train").any():
            source = source.subset("train")
        return {"X_train": source.images, "y_train": source.get_labels(), "n_neighbors": self.neighbors}


class MapFolder(opt.OutputOptions):
    """Folder to which the maps are written."""

    output: str = option(
        "maps", "Folder for the PNG files; it is created if it does not exist.", "-o", metavar="DIR"
    )
    force: bool = option(False, "Write into a folder that is not empty.")

    def check(self, sources: Iterable[str]) -> None:
        """Raise an error if the folder is a file, not empty, or inside the folder of a source."""
        check_folder(self.output, sources)
        if os.path.isdir(self.output) and os.listdir(self.output) and not self.force:
            raise BadArgument(f"-o {self.output!r} is not empty. Name another folder, or pass --force.")


def explain(
    model: opt.SavedModel, items: ImageItems, maps: MapOptions, training: NeighborOptions, output: MapFolder
) -> None:
    """Draw maps of the regions of images that support or oppose the prediction of a saved model.

    The maps are exact for linear heads: the mean of a map plus a constant is the decision value. For other heads they
    are computed from the gradient of the head, or by leaving out each position in turn; the column method says which.
    The name of a PNG file contains the class and its value; index.html shows all files, and maps.csv is the table.
    """
    import pandas

    from tlfeatures.trust import explain as explain_images

    output.check([*items.items, training.data or ""])
    folder = os.path.abspath(output.output)
    options = maps.parameters() | training.parameters()
    pipeline = model.load().pipeline
    sources, tables, records = items.read(), [], []
    for i, source in enumerate(sources):
        result = explain_images(pipeline, source.images, **options)
        report_unreadable(source.paths, result.errors, "has no map", "have no maps")
        table = result.save(os.path.join(folder, str(i)) if len(sources) > 1 else folder)
        table["image"] = pandas.Series(source.paths, table.index, dtype=object)
        table = table.rename(columns={"image": "path"})
        tables.append(table)
        for row, record in enumerate(table.to_dict("records")):
            if result.neighbors is not None:
                nearest = result.neighbors[result.neighbors["row"] == row]
                record["neighbors"] = nearest.drop(columns="row").to_dict("records")
            records.append(record)
    if output.as_json:
        show_json({"model": model.pipe, "folder": folder, "value": result.value, "images": records})
        return
    table = pandas.concat(tables, ignore_index=True)
    show_table(table.drop(columns=["constant", "error"]))
    show_text(f"Saved {count(int(table['file'].notna().sum()), 'map')} of the {result.value} in {folder}.")
