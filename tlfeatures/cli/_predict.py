"""`predict`: predict with a saved pipeline."""

from __future__ import annotations

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, option
from tlfeatures.cli._tables import ImageItems, TableOptions


class PredictOptions(TableOptions):
    """Output of `predict`."""

    header = (
        r"path,prediction(,probability|,decision)?(,set,p_value|,lower,upper)?(,unusual)?(,proba_.+)*,error"
    )

    proba: bool = option(False, "Add a column proba_CLASS with the probability of each class.")


def predict(model: opt.SavedModel, items: ImageItems, options: PredictOptions) -> int:
    """Predict with a saved model, and print a table with one row for each image, in the order of the arguments.

    The columns are path, prediction, probability of the predicted class, and error. For heads without class
    probabilities, a column `decision` has the decision value of the predicted class instead; regression has neither. An
    unreadable image has an error and no prediction; the exit code is 1 if no image could be read.

    Models of `fit --conformal` add columns. `set` lists classes, separated by "|"; the share of sets without the true
    class is about the error rate or less. `p_value` is the p-value of the predicted class. For regression, `lower` and
    `upper` are the ends of an interval instead. `unusual` is True for images unlike the training images.
    """
    options.check()
    fitted = model.load()
    if options.proba and fitted.confidence != "probability":
        raise BadArgument(
            f"--proba needs class probabilities, which {model.pipe!r} does not have. Save a classifier with "
            "`tlfeatures fit`, which calibrates probabilities."
        )
    return options.run(
        items, fitted.predict, ("has no prediction", "have no predictions"), proba=options.proba
    )
