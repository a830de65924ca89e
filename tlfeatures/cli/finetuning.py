"""`finetune`: train a network on, and keep it only where it beats the frozen one on the same folds."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import options as opt
from tlfeatures.cli.fitting import known_score
from tlfeatures.cli.images import Tally, extract_images, labels_of, name_unreadable, paths_of, read_images
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, show_json, show_table, tell, warn

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = ".keras-bundle"
_PANEL = "Training"


def finetune(
    source: opt.SourceName,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar=f"FILE{_SUFFIX}", help="Where to save what is kept."),
    ] = None,
    train_from: Annotated[
        str, typer.Option(metavar="LAYER|head|all|N", help="First trained layer, or the number of blocks.")
    ] = "head",
    head: Annotated[
        str, typer.Option(metavar="N,...", help="Widths of hidden layers; below 1: dropout; by default none.")
    ] = "",
    frozen: Annotated[
        str, typer.Option(metavar="NAME", help="Head of the frozen pipeline to compare with, as in `fit`.")
    ] = "",
    cv: Annotated[int, typer.Option(metavar="K", min=0, help="Folds of the comparison; 0 for none.")] = 3,
    scoring: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for numbers."
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="classification, regression, or auto: by what the labels are.")
    ] = "auto",
    epochs: Annotated[int, typer.Option(metavar="N", min=0, rich_help_panel=_PANEL)] = 20,
    head_epochs: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of the first stage.", rich_help_panel=_PANEL)
    ] = 20,
    linear_start: Annotated[
        bool,
        typer.Option(
            "--linear-start", help="A fitted linear head in place of the first stage.", rich_help_panel=_PANEL
        ),
    ] = False,
    head_learning_rate: Annotated[
        float, typer.Option(metavar="X", help="Of the first stage.", rich_help_panel=_PANEL)
    ] = 1e-3,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="By default 0.001 for the head alone, else 0.0003.", rich_help_panel=_PANEL
        ),
    ] = None,
    layer_decay: Annotated[
        float, typer.Option(metavar="X", help="Times this for each block below.", rich_help_panel=_PANEL)
    ] = 1.0,
    schedule: Annotated[
        str, typer.Option(metavar="NAME", help="cosine, step or constant.", rich_help_panel=_PANEL)
    ] = "cosine",
    weight_decay: Annotated[float, typer.Option(metavar="X", rich_help_panel=_PANEL)] = 1e-4,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=X,...",
            help="Such as crop=4,flip=horizontal,rotation=0.05,color=0.2.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tta: Annotated[
        int, typer.Option(metavar="N", min=0, help="Views averaged when predicting.", rich_help_panel=_PANEL)
    ] = 0,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Every class counts alike.", rich_help_panel=_PANEL)
    ] = False,
    validation_fraction: Annotated[float, typer.Option(metavar="X", rich_help_panel=_PANEL)] = 0.1,
    patience: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Epochs without gain.", rich_help_panel=_PANEL)
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="DIR", help="Go on from here after a crash.", rich_help_panel=_PANEL)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, rich_help_panel=_PANEL)] = 0,
    show_augmentations: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Only draw random views of some pictures, and end.")
    ] = None,
    curves: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw loss and accuracy over the epochs.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Save all of the network, not only what training changed.")
    ] = False,
    keep: Annotated[
        str, typer.Option(metavar="NAME", help="better, finetuned or frozen: what to save in the end.")
    ] = "better",
    model: opt.Model = "mobilenet",
    layer: opt.Layer = None,
    pooling: opt.Pooling = "avg",
    weights: opt.Weights = "imagenet",
    image_size: opt.ImageSize = None,
    normalization: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, or data: by the images' own mean.", rich_help_panel="Network"
        ),
    ] = "auto",
    resize: opt.Resize = "stretch",
    decode: opt.Decode = "scaled",
    max_value: opt.MaxValue = None,
    precision: opt.Precision = "float32",
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images a step.", rich_help_panel="Network")
    ] = 32,
    cache: opt.Cache = "auto",
    path_column: opt.PathColumn = None,
    target: opt.Target = None,
    groups: opt.Groups = None,
    split_column: opt.SplitColumn = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="train (where there are splits), val, test or all.", rich_help_panel="Source"
        ),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Train the head, and the chosen top of the network, on labelled images.

    The fine-tuned network is compared with the frozen pipeline on the same folds, and the frozen one is kept unless
    the gain exceeds the noise. A kept network becomes a bundle that loads without running code; a kept pipeline, a
    .joblib file beside it.
    """
    from tlfeatures.cli.outputs import check_output
    from tlfeatures.evaluation import check_groups, check_labels, make_folds
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor
    from tlfeatures.heads import make_head

    if keep not in ("better", "finetuned", "frozen"):
        raise BadArgument(f"--keep {keep!r}; expected better, finetuned or frozen.")
    if output is not None:
        check_output(output, (_SUFFIX,), force)
    for option, path in (("--curves", curves), ("--show-augmentations", show_augmentations)):
        if path is not None:
            check_output(path, (".png",), True, option)
    if output is not None:
        check_output(_beside(output), (".joblib",), force)
    images = read_images(source, path_column, target, groups, split_column, split, default_split="train")
    views = _parse_augment(augment)
    cnn = opt.make_cnn(
        opt.NetworkOptions(model, layer, pooling, image_size, resize),
        opt.ComputeOptions(weights, decode, precision, batch_size, cache, max_value),
    )
    if show_augmentations is not None:
        _show_views(images, cnn, views, seed, show_augmentations)
        return
    y, task = check_labels(labels_of(images, source, target), len(images), task)
    frozen = frozen or ("svm" if task == "classification" else "ridge")
    make_head(frozen, task)  # a wrong name must fail before the network runs
    scoring = known_score(scoring or ("accuracy" if task == "classification" else "r2"))
    if cv:
        make_folds(cv, y, check_groups(images.groups, len(images)), task, 0)
    given = {
        **{k: getattr(cnn, k) for k in ("model", "layer", "pooling", "weights", "image_size", "resize", "decode",
                                        "max_value", "precision", "batch_size", "cache", "verbose")},
        "train_from": int(train_from) if train_from.isdigit() else train_from,
        "head": _parse_head(head), "start": "linear" if linear_start else None, "epochs": epochs,
        "head_epochs": head_epochs, "head_learning_rate": head_learning_rate, "learning_rate": learning_rate,
        "layer_decay": layer_decay, "schedule": schedule, "weight_decay": weight_decay, "augment": views, "tta": tta,
        "normalization": normalization, "validation_fraction": validation_fraction, "patience": patience,
        "checkpoint_dir": checkpoints, "random_state": seed,
    }  # fmt: skip
    if task == "classification":
        tuned: Any = FineTuneClassifier(**given, class_weight="balanced" if balanced else None)
    elif balanced:
        raise BadArgument("--balanced is for classes; these labels are numbers.")
    else:
        tuned = FineTuneRegressor(**given)
    tuned.check_params()  # before hours of work, not after
    cnn.fit(images.images)
    result = extract_images(cnn, images.images)
    name_unreadable(paths_of(images), result.errors, "and are left out")
    kept = [row for row in range(len(images)) if row not in result.errors]
    if not kept:
        raise BadArgument(f"None of the images of {source!r} could be read.")
    used, y, features = images.take(kept), y[kept], result.features[kept]
    gate = _compare(tuned, frozen, task, used, features, y, cv, scoring) if keep == "better" or cv else None
    winner = keep if keep != "better" else gate["keep"] if gate else "finetuned"
    if winner == "finetuned":
        tuned.fit(used.images, y, groups=used.groups)
        if curves is not None:
            from tlfeatures.cli.outputs import replacing
            from tlfeatures.finetune import draw_curves

            with replacing(curves) as file:
                file.write(draw_curves(tuned.history_))
    elif curves is not None:
        warn(f"the frozen pipeline is kept, which has no curves: {curves} is not written.")
    written = _save(output, winner, tuned, whole, cnn, make_head(frozen, task), features, y)
    about = {
        "source": source, "task": task, "model": tuned.model, "train_from": train_from, "epochs": epochs,
        **dataclasses.asdict(Tally.of(result)),
        "skipped": {paths_of(images)[row]: reason for row, reason in result.errors.items()},
        "comparison": gate, "kept": winner,
        "history": tuned.history_.to_dict("records") if winner == "finetuned" else None, "output": written,
    }  # fmt: skip
    if as_json:
        show_json(_finite(about))
    else:
        tell(f"{Tally.of(result)}.")
        _show(about, frozen)


def _compare(
    tuned: Any, frozen: str, task: str, used: Any, features: np.ndarray, y: np.ndarray, k: int, scoring: str
) -> dict[str, Any] | None:
    """Scores of both on the same folds, and which to keep.

    The noise is the standard error of the mean difference, corrected for the overlap of the training sets (Nadeau and
    Bengio 2003); the gain must exceed the 95% quantile of Student's t times that. For accuracies it is not less
    than the standard error of McNemar's test (1947), were all images that they disagree on for the better side.
    """
    import numpy as np
    from scipy.stats import t
    from sklearn.base import clone
    from sklearn.metrics import get_scorer

    from tlfeatures.evaluation import check_groups, make_folds
    from tlfeatures.heads import make_head

    if not k:
        return None
    folds = make_folds(k, y, check_groups(used.groups, len(y)), task, 0)
    scorer, scores = get_scorer(scoring), {"frozen": [], "finetuned": []}
    for train, test in folds:
        head = make_head(frozen, task).fit(features[train], y[train])
        scores["frozen"].append(float(scorer(head, features[test], y[test])))
        part, held = used.take(train), used.take(test)
        fitted = clone(tuned).fit(part.images, y[train], groups=part.groups)
        scores["finetuned"].append(float(scorer(fitted, held.images, y[test])))
    gains = np.subtract(scores["finetuned"], scores["frozen"])
    gain, n = float(gains.mean()), sum(len(test) for _, test in folds)
    error = math.sqrt(gains.var(ddof=1) * (1 / k + len(folds[0][1]) / len(folds[0][0])))
    if "accuracy" in scoring:  # folds may agree by chance: what n images can tell apart at best
        error = max(error, math.sqrt(abs(gain) / n))
    noise = float(t.ppf(0.95, k - 1) * error)
    return {
        "folds": k, "scoring": scoring, **scores, "gain": gain, "noise": noise,
        "keep": "finetuned" if gain > max(noise, 0.0) else "frozen",
    }  # fmt: skip


def _save(
    output: str | None,
    winner: str,
    tuned: Any,
    whole: bool,
    cnn: Any,
    head: Any,
    features: np.ndarray,
    y: np.ndarray,
) -> str | None:
    if output is None:
        return None
    if winner == "finetuned":
        tuned.set_params(verbose=0).save(output, whole=whole)
        return output
    import joblib
    from sklearn.pipeline import Pipeline

    from tlfeatures.cli.outputs import replacing

    with replacing(_beside(output)) as file:
        joblib.dump(Pipeline([("cnn", cnn.set_params(verbose=0)), ("head", head.fit(features, y))]), file)
    return _beside(output)


def _beside(output: str) -> str:
    return os.path.splitext(output)[0] + ".joblib"


def _show(about: dict[str, Any], frozen: str) -> None:
    if gate := about["comparison"]:
        names = [f"fold {i + 1}" for i in range(gate["folds"])]
        rows = []
        for name, side in ((f"frozen, {frozen}", "frozen"), ("fine-tuned", "finetuned")):
            rows.append([name, *gate[side], sum(gate[side]) / len(gate[side])])
        show_table([gate["scoring"], *names, "mean"], rows, best=int(gate["keep"] == "finetuned"))
        beyond = "more" if gate["gain"] > gate["noise"] else "no more"
        better = _NAMES[gate["keep"]]
        tell(f"Gain {gate['gain']:+.4f}, {beyond} than the noise of {gate['noise']:.4f}: keep the {better}.")
        if gate["keep"] == about["kept"] == "frozen" and gate["gain"] > 0:
            tell("`--keep finetuned` trains and saves the network all the same.")
    if history := about["history"]:
        stages = dict.fromkeys(row["stage"] for row in history)  # epoch 0 is the start, which nothing trained
        trained = {name: sum(r["stage"] == name and r["epoch"] > 0 for r in history) for name in stages}
        told = " and ".join(f"the {name} for {count(n, 'epoch')}" for name, n in trained.items())
        tell(f"Trained {told}; loss {history[-1]['loss']:.4f} in the last.")
    if about["output"]:
        tell(f"Saved the {_NAMES[about['kept']]}: {about['output']}.")


_NAMES = {"frozen": "frozen pipeline", "finetuned": "fine-tuned network"}


def _show_views(images: Any, cnn: Any, views: Any, seed: int, path: str) -> None:
    import numpy as np

    from tlfeatures.cli.outputs import replacing
    from tlfeatures.finetune import draw_augmentations
    from tlfeatures.images import Decoder, Images, decode_batches
    from tlfeatures.networks import Backbone

    if not views:
        raise BadArgument(
            "--show-augmentations needs --augment, such as crop=4,flip=horizontal,rotation=0.05."
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:6])
    network = Backbone(cnn.model, cnn.weights, cnn.image_size)
    if network.spec:  # its size is known without its weights
        size = network.image_size or (network.spec.image_size,) * 2
        decoder = Decoder(size, cnn.resize, cnn.interpolation, cnn.decode, cnn.max_value)
    else:
        decoder = cnn._plan().decoder
    batch = next(iter(decode_batches(Images.of(images.images), rows, decoder, len(rows))))[2]
    if not len(batch):
        raise BadArgument("None of the pictures that were chosen could be read.")
    with replacing(path) as file:
        file.write(draw_augmentations(batch, views, seed))
    tell(f"{path}: {count(len(batch), 'picture')}, each in a row with random views of it.")


def _parse_head(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) if "." in part else int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise BadArgument(f"--head {text!r}; expected widths such as 128 or 256,0.5.") from None


def _parse_augment(text: str | None) -> dict[str, Any] | None:
    """
    >>> _parse_augment("crop=4,flip=horizontal")
    {'crop': 4, 'flip': 'horizontal'}
    """
    if not text:
        return None
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise BadArgument(f"--augment {text!r}; expected NAME=X, such as crop=4,flip=horizontal.")
        try:
            found[name] = int(value) if name == "crop" else float(value)
        except ValueError:
            found[name] = value
    return found


def _finite(value: Any) -> Any:
    """NaN is not JSON."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_bundle(path: str) -> Any:
    """A bundle as a pipeline of its network, as `CNNFeatures`, and its head."""
    from sklearn.pipeline import Pipeline

    from tlfeatures.features import CNNFeatures
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor, load_bundle

    tuned = load_bundle(path, expected={c.__name__: c for c in (FineTuneClassifier, FineTuneRegressor)})
    layers = [y._keras_history.operation.name for y in tuned.network_.outputs]
    if tuned.tta:
        warn(f"{path} was made with --tta {tuned.tta}: here each picture is seen once, as it is.")
    net = tuned._live()
    decoding = {name: net.decoding.get(name) for name in ("resize", "interpolation", "decode", "max_value")}
    cnn = CNNFeatures(
        tuned.network_, layer=layers, pooling="flatten" if callable(tuned.head) else tuned.pooling,
        batch_size=tuned.batch_size, precision=net.precision, cache=tuned.cache, **decoding,
    )  # fmt: skip
    cnn.fit([path])  # any list will do: it fixes the recipe
    return Pipeline([("cnn", cnn), ("head", tuned.head_)])
