"""`classify`: classify images with a pretrained network and its own classes."""

from __future__ import annotations

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import option
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
    from tlfeatures.pretrained import ImageNetClassifier, classify

    options.check()
    classifier = ImageNetClassifier(**network.parameters(), **compute.parameters())
    return options.run(
        items,
        lambda images: classify(classifier, images, options.top, on_error="nan"),
        ("has no classes", "have no classes"),
    )
