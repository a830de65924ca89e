"""The study of data sizes and domains: pipelines/regimes.py, notebooks/regimes.ipynb and their images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from tests.networks import make_images
from tests.study_helpers import run_notebook, run_study
from tlfeatures.studies import draw_layer_scores, draw_textures, scramble_tiles

DOMAINS = [
    "photographs",
    "hand signs",
    "digits",
    "textures",
    "photographs, inverted",
    "photographs, scrambled",
]
FROZEN = ["frozen, linear, last layer", "frozen, SVM, earlier layer"]
TUNED = ["fine-tune the last 2 blocks", "fine-tune all layers"]
KERAS = ["Keras: fine-tune all layers", "Keras: from scratch"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders of two domains; images of one class share a color."""
    root = tmp_path_factory.mktemp("data")
    for domain, classes in {
        "pets": ("cats", "dogs"),
        "signs/train": ("one", "two"),
        "signs/test": ("one", "two"),
    }.items():
        for k, label in enumerate(classes):
            folder = root / domain / label
            folder.mkdir(parents=True)
            for i, image in enumerate(make_images(60, 32, seed=k)):
                image[..., k] //= 3
                Image.fromarray(image).save(folder / f"{i:02d}.png")
    return root


def test_textures_need_no_color_and_are_reproducible():
    X, y = draw_textures(20, 32, seed=1)
    assert X.shape == (120, 32, 32, 3) and X.dtype == np.uint8
    assert sorted(set(y)) == sorted(f"{angle} degrees" for angle in range(0, 180, 30))
    np.testing.assert_array_equal(X, draw_textures(20, 32, seed=1)[0])
    assert (draw_textures(20, 32, seed=2)[0] != X).any()
    colors = X.mean((1, 2))  # the mean color must not tell the class
    assert LogisticRegression(max_iter=500).fit(colors[::2], y[::2]).score(colors[1::2], y[1::2]) < 0.4


def test_tiles_are_scrambled_in_the_same_way_in_all_images():
    X = make_images(3, 32)
    scrambled = scramble_tiles(X, 4)
    tiles = {X[0, i : i + 8, j : j + 8].tobytes() for i in range(0, 32, 8) for j in range(0, 32, 8)}
    moved = {scrambled[0, i : i + 8, j : j + 8].tobytes() for i in range(0, 32, 8) for j in range(0, 32, 8)}
    assert tiles == moved and (scrambled != X).any()
    np.testing.assert_array_equal(scrambled[1:], scramble_tiles(X[1:], 4))
    with pytest.raises(
        ValueError, match="square images with a side that is a multiple of n_tiles=5; got 32x32"
    ):
        scramble_tiles(X, 5)


def test_figure_has_a_panel_for_each_domain():
    curves = {name: {"small": [0.2, 0.5], "large": [0.4, 0.9]} for name in DOMAINS[:4]}
    figure = draw_layer_scores(curves, ["early", "late"], {"digits": 0.7}, subtitle="tiny")
    assert [ax.get_title() for ax in figure.axes][:4] == DOMAINS[:4]
    assert [len(ax.get_lines()) for ax in figure.axes][:4] == [2, 2, 3, 2]
    np.testing.assert_array_equal(figure.axes[0].get_lines()[1].get_ydata(), [0.4, 0.9])


@pytest.mark.slow
def test_all_cases_are_measured_in_one_run(folders, tmp_path, capsys):
    code, results = run_study("regimes", tmp_path, "--data", folders / "pets", "--images", 60)
    assert code == 0
    assert results["network"] == "tiny stands in for alexnet, whose weights are not on this machine"
    recipes = [row["recipe"] for row in results["rows"]]
    for domain in DOMAINS:
        assert f"{domain}: CNNFeatures, all layers in one pass" in recipes
        names = FROZEN + (TUNED + KERAS if domain in DOMAINS[:2] else [])
        for size in ("small", "large"):
            prefix = f"{domain}, {size}: "
            assert [r.removeprefix(prefix) for r in recipes if r.startswith(prefix)] == names
    scores = {row["recipe"]: row["accuracy"] for row in results["rows"] if "accuracy" in row}
    assert all(0 <= score <= 1 for score in scores.values())
    assert scores["photographs, large: frozen, linear, last layer"] > 0.9
    marked = {row["recipe"]: row["rule"] for row in results["rows"] if row.get("rule")}
    assert list(marked) == [
        "photographs, small: frozen, linear, last layer",
        "photographs, large: fine-tune the last 2 blocks",
        "hand signs, small: frozen, SVM, earlier layer",
        "hand signs, large: fine-tune all layers",
    ]
    out = capsys.readouterr().out
    for recipe, verdict in marked.items():
        case = recipe.partition(": ")[0]
        best = max(scores[f"{case}: {name}"] for name in FROZEN + TUNED)
        error = np.sqrt(best * (1 - best) / 36)  # 30% of 120 images
        assert verdict == ("holds" if scores[recipe] >= best - error else "does not hold")
    rule = "frozen, linear, last layer"
    assert (
        f"small data, similar domain (photographs): {rule} {marked[f'photographs, small: {rule}']}: " in out
    )
    assert out.count("; from scratch ") == 4
    with Image.open(tmp_path / "layers.png") as image:
        assert min(image.size) > 500 and np.asarray(image.convert("L")).std() > 10


@pytest.mark.slow
def test_digits_stand_in_for_absent_hand_signs(folders, tmp_path):
    pets = tmp_path / "alone" / "pets"
    pets.parent.mkdir()
    pets.symlink_to(folders / "pets")
    code, results = run_study("regimes", tmp_path / "out", "--data", pets, "--images", 60, "--skip-tutorial")
    assert code == 0
    recipes = [row["recipe"] for row in results["rows"]]
    assert "digits, small: fine-tune all layers" in recipes
    assert not any("hand signs" in recipe or "Keras" in recipe for recipe in recipes)


@pytest.mark.slow
def test_notebook(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    variables = run_notebook(
        "regimes", tmp_path, monkeypatch, data=str(folders / "pets"), signs=str(folders / "signs"),
        model="tiny", image_size=32, n_small=24, n_large=48, n_test=48, n_textures=20, epochs=1,
    )  # fmt: skip
    frame = variables["frame"]
    assert frame["domain"].unique().tolist() == DOMAINS
    assert set(frame["recipe"]) == {"all layers in one pass", *FROZEN, *TUNED, *KERAS}
    assert [case["rule"] for case in variables["cases"]] == [FROZEN[0], TUNED[0], FROZEN[1], TUNED[1]]
