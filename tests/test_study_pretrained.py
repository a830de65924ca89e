"""The study of pretrained classes: pipelines/pretrained.py and notebooks/pretrained.ipynb."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.networks import build, make_images
from tests.study_helpers import check_figures, run_notebook, run_study
from tlfeatures.networks import NETWORKS

pytestmark = pytest.mark.slow  # runs the whole study

SIZE = 32
RECIPES = [
    "ImageNetClassifier",
    "ImageNetClassifier again, from the store",
    "ImageNetClassifier, sum of classes",
    "CNNFeatures + logistic regression, trained, cross-validation",
    "Keras: the tutorial's recipe, one image at a time",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a network with its top."""
    import keras

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "with_top.weights.h5"
    build(NETWORKS["mobilenet_0.25"], SIZE, top=True).save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Folders of images with names that the study knows, and one that it does not know."""
    root = tmp_path_factory.mktemp("pets")
    images = iter(make_images(96, 40))
    for label, n in {"cats": 32, "dogs": 24, "goldfish": 24, "unicorns": 16}.items():
        (root / label).mkdir()
        for i in range(n):
            Image.fromarray(next(images)).save(root / label / f"{i:02d}.png")
    return root


def test_all_recipes_are_measured_in_one_run(weights, pets, tmp_path, capsys):
    (pets / "cats" / "damaged.jpg").write_bytes(b"not an image")
    new = str(pets / "dogs" / "00.png")
    network = ["--model", "mobilenet_0.25", "--weights", weights, "--image-size", SIZE]
    code, results = run_study("pretrained", tmp_path, "--data", pets, *network, "--predict", new)
    out = capsys.readouterr().out
    assert code == 0
    assert "damaged.jpg: unreadable: not an image" in out
    assert "unicorns: not the name of a class of ImageNet; these images are not scored" in out
    assert f"{new}: " in out
    assert results["network"] == "mobilenet_0.25 stands in for vgg16, whose weights are not on this machine"
    rows = {row["recipe"]: row for row in results["rows"]}
    assert list(rows) == RECIPES
    first, again, *_, keras = (rows[name] for name in RECIPES)
    assert first["top-1"] == again["top-1"] == keras["top-1"]
    assert first["top-5"] == again["top-5"] == keras["top-5"] >= first["top-1"]
    assert all(0 <= rows[name]["accuracy"] <= 1 for name in RECIPES[2:4])
    check_figures(tmp_path, results, ["confusion.png", "classes.png", "predictions.png"])


def test_a_network_without_the_classes_is_refused(pets, tmp_path, capsys):
    code, _ = run_study("pretrained", tmp_path, "--data", pets)
    assert code == 2
    assert "--model must be a network that ends in the 1,000 classes of ImageNet" in capsys.readouterr().err


def test_notebook(weights, pets, tmp_path, monkeypatch):
    root = tmp_path / "data"
    for label in ("cats", "dogs", "horses"):
        (root / label).mkdir(parents=True)
        source = pets / ("goldfish" if label == "horses" else label)
        for path in sorted(source.glob("*.png"))[:6]:
            (root / label / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    variables = run_notebook(
        "pretrained",
        tmp_path,
        monkeypatch,
        data=str(root),
        model="mobilenet_0.25",
        weights=weights,
        image_size=SIZE,
    )
    frame = variables["table"].to_frame()
    assert frame["recipe"].tolist() == RECIPES
    assert frame["top-1"][0] == frame["top-1"][1] == frame["top-1"][4]
