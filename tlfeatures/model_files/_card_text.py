"""Model cards as text and as Markdown."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["format_card", "to_markdown"]

_MAX_CLASSES = 12
_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
}


def format_card(card: dict[str, Any]) -> list[tuple[str, str]]:
    """Format a model card as names and texts; unknown values are left out.

    Parameters
    ----------
    card : dict
        As :func:`~tlfeatures.model_files.read_card` returns it.

    Returns
    -------
    list of (str, str)

    Examples
    --------
    >>> format_card({"file": "model.tlf", "task": "regression", "image_size": [224, 224]})
    [('file', 'model.tlf'), ('task', 'regression'), ('image size', '224 x 224')]
    """
    classes, size, versions = card.get("classes"), card.get("image_size"), card.get("versions")
    rows = {
        **{key: card.get(key) for key in ("file", "estimator", "task")},
        "classes": classes and f"{len(classes):,}: {_shorten(classes)}",
        "network": card.get("network"),
        "licence of the weights": card.get("weights_licence"),
        "image size": size and " x ".join(map(str, size)),
        "layers": ", ".join(map(str, card.get("layers") or [])),
        **{key: card.get(key) for key in ("pooling", "features", "head")},
        "training images": card.get("training_images"),
        "training digest": card.get("training_digest"),
        "cross-validation": _format_scores(card.get("scores")),
        "prediction sets": _format_conformal(card.get("conformal")),
        "versions": versions and ", ".join(f"{name} {version}" for name, version in dict(versions).items()),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "", [])]


def _shorten(values: list[Any]) -> str:
    names = [str(value) for value in values[:_MAX_CLASSES]]
    return ", ".join([*names, "..."] if len(values) > _MAX_CLASSES else names)


def _format_scores(scores: dict[str, Any] | None) -> str | None:
    if not scores or scores.get("mean") is None:
        return None
    text = f"{scores.get('scoring')} {scores['mean']:.4f}"
    if scores.get("low") is not None and scores.get("high") is not None:
        text += f", 95% interval {scores['low']:.4f} to {scores['high']:.4f}"
    return f"{text}, {scores['folds']} folds" if scores.get("folds") else text


def _format_conformal(conformal: dict[str, Any] | None) -> str | None:
    if not conformal or conformal.get("error_rate") is None:
        return None
    of = " of each class" if conformal.get("per_class") else ""
    rows = conformal.get("calibration_rows")
    calibrated = "" if rows is None else f", calibrated on {rows:,.0f} images or groups"
    coverage = conformal.get("coverage")
    covered = "" if coverage is None else f"; out of fold, {coverage:.1%} contain the truth"
    return f"error rate {conformal['error_rate']:g}{of}{calibrated}{covered}"


def to_markdown(card: dict[str, Any]) -> str:
    """Format a model card as Markdown, with the front matter of the Hugging Face Hub.

    Parameters
    ----------
    card : dict
        As :func:`~tlfeatures.model_files.read_card` returns it.

    Returns
    -------
    str

    Examples
    --------
    >>> print(to_markdown({"file": "pets.tlf", "task": "classification", "classes": ["cat", "dog"]}))
    ---
    library_name: "tlfeatures"
    pipeline_tag: "image-classification"
    tags: ["tlfeatures", "scikit-learn"]
    ---
    <BLANKLINE>
    # pets
    <BLANKLINE>
    | | |
    |---|---|
    | file | pets.tlf |
    | task | classification |
    | classes | 2: cat, dog |
    <BLANKLINE>
    ## Use
    <BLANKLINE>
        import tlfeatures
    <BLANKLINE>
        model = tlfeatures.load("pets.tlf")
        model.predict(["image.jpg"])
    <BLANKLINE>
    The file contains JSON and arrays. Loading it runs no code from the file.
    <BLANKLINE>
    """
    name = str(card["file"])
    title = name.rpartition(".")[0] or name
    front: dict[str, Any] = {"library_name": "tlfeatures"}
    if card.get("task") == "classification":
        front["pipeline_tag"] = "image-classification"
    front |= {"tags": ["tlfeatures", "scikit-learn"], **_make_front_matter(card, title)}
    rows = [f"| {_escape(key)} | {_escape(value)} |" for key, value in format_card(card)]
    lines = [
        "---",
        *(
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()
        ),  # JSON is also YAML
        "---",
        "",
        f"# {_escape(title)}",
        "",
        *("| | |", "|---|---|", *rows),
        "",
        *("## Use", "", "    import tlfeatures", "", f"    model = tlfeatures.load({json.dumps(name)})"),
        *('    model.predict(["image.jpg"])', ""),
        *("The file contains JSON and arrays. Loading it runs no code from the file.", ""),
    ]
    text = "\n".join(lines)
    return text.encode("utf-8", "backslashreplace").decode()  # names of files and classes may not be Unicode


def _make_front_matter(card: dict[str, Any], title: str) -> dict[str, Any]:
    front: dict[str, Any] = {}
    if licence := card.get("weights_licence"):
        front["license"] = _HUB_LICENCES.get(licence, "other")
    scores = card.get("scores")
    if scores and scores.get("mean") is not None:
        metric = {
            "type": str(scores.get("scoring")),
            "value": scores["mean"],
            "name": "cross-validated score",
        }
        task = {
            "type": "image-classification" if card.get("task") == "classification" else "image-regression"
        }
        dataset = {"type": "imagefolder", "name": "folds of the training images"}
        results = [{"task": task, "dataset": dataset, "metrics": [metric]}]
        front |= {"metrics": [metric["type"]], "model-index": [{"name": title, "results": results}]}
    return front


def _escape(text: Any) -> str:
    """Escape a text for a cell of a Markdown table; files can contain any text."""
    flat = " ".join(str(text).split())
    for character in "\\|<>`*_[]#":
        flat = flat.replace(character, f"\\{character}")
    return flat
