"""`classify`: classify images with a pretrained network and its own classes."""

from __future__ import annotations

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._tables import ImageItems, TableOptions


class ImageNetOptions(opt.InputOptions):
    """The network and its input."""

    model: str = option("mobilenet_0.75", opt.MODEL, "-m")


class ClassifyOptions(TableOptions):
    """Number of classes, and output of `classify`."""

    header = "path,rank,class,probability,wordnet_id,error"

    top: int = option(5, "Number of classes per image.", min=1, max=1000)


def classify(
    items: ImageItems, options: ClassifyOptions, network: ImageNetOptions, compute: opt.ComputeOptions
) -> int:
    """Classify images with a pretrained network and its own 1,000 ImageNet classes, without training.

    The table has one row for each of the most probable classes of each image, in the order of the arguments. The
    class names are part of the package. An unreadable image has one row with an error; the exit code is 1 if no
    image could be read.
    """
    import pandas

    from tlfeatures import pretrained

    options.check()
    classifier = pretrained.ImageNetClassifier(**network.parameters(), **compute.parameters())
    rows, counts = [], []
    for source in items.read():
        classes, extracted = pretrained.classify(classifier, source.images, options.top, on_error="nan")
        report_unreadable(source.paths, extracted.errors, "has no classes", "have no classes")
        for i, path in enumerate(source.paths):
            top = [(rank, name, p, key, None) for rank, (key, name, p) in enumerate(classes[i], start=1)]
            error = (None, None, None, None, extracted.errors.get(i))
            rows += [(path, *row) for row in top or [error]]
        counts.append(str(extracted.counts))
    return options.show(pandas.DataFrame(rows, columns=options.header.split(","), dtype=object), counts)
