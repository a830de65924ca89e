"""Label errors, duplicates, outliers and confounders of embeddings and of images."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image, ImageFilter

from tests.image_helpers import photo
from tests.warning_helpers import warnings_as_errors
from tlfeatures import CNNFeatures, FeatureSearchCV, audit, check_images
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError
from tlfeatures.report import is_audit, is_report, write_audit, write_report

NAMES = np.array(["cat", "dog", "fox"])
TABLES = ("images", "label_errors", "duplicates", "outliers", "faults", "confounders", "classes")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings_as_errors():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras's own
        yield


def clusters(n=120, d=64, seed=0):
    """Embeddings in three clusters, and their labels."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    return (rng.normal(0, 1, (3, d))[codes] + rng.normal(0, 1, (n, d))).astype("f4"), NAMES[codes]


def assert_no_missing_values(result):
    for name in TABLES:
        table = getattr(result, name)
        columns = [column for column in table if not (name == "images" and column == "label")]
        assert not table[columns].isna().any(axis=None), name
    json.dumps(result.summary())


def test_label_errors_are_ranked_first_with_the_true_class_as_suggestion():
    X, y = clusters()
    wrong = [4, 50, 101]
    noisy = y.copy()
    noisy[wrong] = np.roll(NAMES, 1)[np.searchsorted(NAMES, y[wrong])]
    result = audit(X, noisy)
    table = result.label_errors
    assert sorted(table["row"][:3]) == wrong == sorted(result.suspected["row"])
    assert (y[table["row"][:3]] == table["suggestion"][:3]).all()
    assert (noisy[table["row"]] == table["label"]).all()
    assert len(table) == len(X) and table["score"].is_monotonic_decreasing
    assert table["score"].between(0, 1).all() and table["neighbors"].between(0, 1).all()
    assert result.classes["suspected"].sum() == 3
    findings = result.describe()
    assert len(findings) == 1
    assert findings[0].startswith("3 suspected label errors among 120 labels; 0 groups of duplicates; ")
    assert_no_missing_values(result)


def test_result_does_not_depend_on_the_order_of_the_labels_and_is_reproducible():
    X, y = clusters()
    first, second = audit(X, y), audit(X, y)
    renamed = audit(X, np.array(["z", "y", "x"])[np.searchsorted(NAMES, y)])
    assert first.label_errors.equals(second.label_errors)
    scores = [result.label_errors.sort_values("row")["score"].to_numpy() for result in (first, renamed)]
    assert np.abs(scores[0] - scores[1]).max() < 0.05


def test_wrong_label_of_an_image_and_of_its_near_duplicates_is_found():
    """Near-duplicates are in one fold, so that they cannot confirm each other's label."""
    X, y = clusters()
    X[[30, 60, 90]] = X[0] + np.random.default_rng(1).normal(0, 0.01, (3, X.shape[1]))
    y[[0, 30, 60, 90]] = "fox"
    result = audit(X, y)
    assert set(result.suspected["row"]) == {0, 30, 60, 90}
    assert set(result.suspected["suggestion"]) == {"cat"}


def test_exact_and_near_duplicates_across_classes_and_splits():
    X, y = clusters()
    X[7] = X[1]  # classes dog and dog
    X[8] = X[4] + 1e-3  # fox and dog
    X[[20, 21]] = X[2] - 1e-3, X[2] + 1e-3
    split = np.where(np.arange(len(X)) == 7, "test", "train")
    table = audit(X, y, split=split).duplicates
    assert table["row"].tolist()[:2] == [1, 7]
    members = table.groupby("group")["row"].agg(sorted).tolist()
    assert members in ([[1, 7], [4, 8], [2, 20, 21]], [[1, 7], [2, 20, 21], [4, 8]])
    of_row = table.set_index("row")
    assert of_row.loc[[1, 7], "kind"].tolist() == ["exact", "exact"]
    assert of_row.loc[[4, 8], "kind"].tolist() == ["near", "near"]
    assert of_row["across_splits"].to_dict() == {row: row in (1, 7) for row in table["row"]}
    assert of_row.loc[[4, 8], "across_classes"].all()
    assert of_row["cosine"].between(0.85, 1).all()


def test_duplicates_equal_those_of_all_pairs():
    from tlfeatures.evaluation import find_duplicates, find_neighbors

    X, _ = clusters(200, 20)
    X[100:130] = X[:30] + np.random.default_rng(1).normal(0, 0.1, (30, 20))
    X[130:140] = X[0]
    keys = np.unique(X, axis=0, return_inverse=True)[1].reshape(-1).astype("<u8")
    keys = np.stack([keys, keys], axis=1).view("u1")
    all_pairs = find_duplicates(keys, X, 0.97)
    of_neighbors = find_duplicates(keys, X, 0.97, neighbors=find_neighbors(X, 40))
    assert len(all_pairs.pairs) > 30
    assert all_pairs.groups.tolist() == of_neighbors.groups.tolist()
    assert sorted(map(tuple, all_pairs.pairs)) == sorted(map(tuple, of_neighbors.pairs))


def test_outliers_are_far_from_all_other_images():
    X, y = clusters()
    X[[5, 77]] = np.random.default_rng(3).normal(0, 30, (2, X.shape[1]))
    table = audit(X, y).outliers
    assert sorted(table["row"][:2]) == [5, 77]
    assert len(table) <= 4 and (table["score"] > 0).all()


def test_outliers_that_are_like_each_other_are_listed():
    """There are fewer outliers than neighbors with which each image is compared."""
    X, y = clusters(300)
    rng = np.random.default_rng(3)
    rows = np.arange(0, 300, 40)
    X[rows] = 10 * rng.normal(size=X.shape[1]) + 0.1 * rng.normal(size=(len(rows), X.shape[1]))
    table = audit(X, y).outliers
    assert set(rows) <= set(table["row"]) and len(table) <= len(rows) + 6


def test_group_that_predicts_the_label_alone_is_reported():
    X, y = clusters(240)
    rng = np.random.default_rng(0)
    hospital = np.where(rng.random(240) < 0.9, y, "other")
    result = audit(X, y, groups=iter(hospital))
    table = result.confounders
    assert table["predictor"].tolist() == ["group"]
    (text,) = result.describe_confounders()
    assert text.startswith("the group alone predicts the label with a balanced accuracy of 0.")
    assert table["warning"].all() and table["balanced_accuracy"][0] > 0.8
    assert table["chance"][0] == pytest.approx(1 / 3)
    result = audit(X, y, groups=rng.integers(0, 30, 240))
    assert not result.confounders["warning"].any() and result.describe_confounders() == []


def test_independent_predictors_are_rarely_reported():
    from tlfeatures.trust._audit_confounders import find_confounders

    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(50):
        codes = rng.integers(0, 3, 150)
        frames = {
            "number": pandas.DataFrame({"a": rng.normal(size=150), "b": rng.integers(0, 5, 150)}),
            "text": pandas.DataFrame({"c": rng.integers(0, 8, 150).astype(str)}),
        }
        table = find_confounders(codes, frames, seed)
        assert not table["warning"].any()
        p_values += table["p_value"].tolist()
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_manifest_has_one_row_per_image_with_issue_score_and_suggestion():
    X, y = clusters()
    y[3] = "dog"
    X[10] = X[1]
    X[40] = np.nan
    table = audit(X, y).manifest()
    assert table.columns.tolist() == ["path", "label", "issue", "score", "suggestion"]
    assert len(table) == len(X)
    assert table.loc[3, ["issue", "suggestion"]].tolist() == ["label error", "label: cat"]
    assert (
        table.loc[10, "issue"] == "exact duplicate"
        and "remove, duplicate of X[1]" in table.loc[10, "suggestion"]
    )
    assert table.loc[40, ["issue", "suggestion"]].tolist() == ["unreadable", "remove or replace"]
    assert table["score"].isna().tolist() == [row == 40 for row in range(len(X))]


def test_the_first_of_a_duplicate_group_is_kept_in_one_split_if_there_are_several():
    X, y = clusters()
    X[10], X[20] = X[1], X[2]
    suggestions = audit(X, y).manifest()["suggestion"]
    assert suggestions[[1, 2]].tolist() == ["keep", "keep"]
    split = np.where(np.arange(len(X)) == 10, "test", "train")
    suggestions = audit(X, y, split=split).manifest()["suggestion"]
    assert suggestions[[1, 2]].tolist() == ["keep in one split", "keep"]
    assert suggestions[[10, 20]].tolist() == ["remove, duplicate of X[1]", "remove, duplicate of X[2]"]


def test_rows_with_nan_are_left_out_and_listed():
    X, y = clusters()
    X[3], X[9] = np.nan, np.inf
    result = audit(X, y)
    assert result.faults["row"].tolist() == [3, 9]
    assert result.faults["reason"].str.contains("contains NaN or infinity").all()
    assert not set(result.label_errors["row"]) & {3, 9}
    assert_no_missing_values(result)
    with pytest.raises(ValueError, match="None of the 4 images could be read, or all embeddings contain NaN"):
        audit(np.full((4, 3), np.nan), ["a", "b", "a", "b"])


def test_one_class_has_a_note_and_the_other_checks():
    X, _ = clusters()
    X[8] = X[4]
    result = audit(X, ["cat"] * len(X))
    assert any("All labels are one class, 'cat'" in note for note in result.notes)
    assert result.label_errors.empty and len(result.duplicates) == 2
    assert_no_missing_values(result)


def test_classes_with_two_images_and_with_one():
    X, y = clusters()
    y = np.concatenate([y, ["owl", "owl", "elk"]])
    X = np.concatenate([X, np.random.default_rng(5).normal(0, 1, (3, X.shape[1])).astype("f4")])
    result = audit(X, y)
    assert_no_missing_values(result)
    assert set(result.label_errors["row"]) == set(range(len(X) - 1))
    assert any("1 label was not checked" in note and "'elk'" in note for note in result.notes)
    assert any(
        "2 of 5 classes have fewer than 10 images; the smallest is 'elk' with 1." in note
        for note in result.notes
    )
    assert_no_missing_values(audit(X[:6], ["a", "a", "b", "b", "c", "c"]))


def test_equal_embeddings_and_constant_features():
    X, y = clusters()
    result = audit(np.ones((9, 4)), y[:9])
    assert any("The embeddings of all images are equal" in note for note in result.notes)
    assert any("There is only one image" in note for note in audit(np.eye(3)[:1], ["a"]).notes)
    assert len(result.duplicates) == 9 and (result.duplicates["kind"] == "exact").all()
    assert_no_missing_values(result)
    wider = np.concatenate([X, np.full((len(X), 3), 7, "f4")], axis=1)
    assert audit(wider, y).suspected["row"].tolist() == audit(X, y).suspected["row"].tolist()
    assert_no_missing_values(audit(wider, y))


def test_class_in_a_single_group_is_not_checked():
    X, y = clusters()
    groups = np.where(y == "fox", 999, np.arange(len(y)))
    result = audit(X, y, groups=groups)
    assert set(result.label_errors["label"]) == {"cat", "dog"}
    assert any("40 labels were not checked" in note and "'fox'" in note for note in result.notes)
    assert_no_missing_values(result)


def test_images_without_labels():
    X, y = clusters()
    for missing in (None, [None] * len(X)):
        result = audit(X, missing)
        assert result.label_errors.empty and result.classes.empty
        assert any("label errors and class balance were not checked" in note for note in result.notes)
        assert_no_missing_values(result)
    some = y.astype(object)
    some[:30] = None
    result = audit(X, some)
    assert set(result.label_errors["row"]) == set(range(30, len(X)))
    assert any("30 of 120 images have no label" in note for note in result.notes)
    assert_no_missing_values(result)
    assert any("continuous numbers" in note for note in audit(X, X[:, 0]).notes)


def test_tiny_data_sets():
    for n in (1, 2, 3):
        assert_no_missing_values(audit(np.arange(n * 4.0).reshape(n, 4) ** 2, ["a", "b", "a"][:n]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": ["a"]}, "Got 12 images but 1 labels"),
        ({"groups": [1, 2]}, "`groups` must have one group for each of the 12 images"),
        ({"split": ["train"]}, "`split` must have one name for each of the 12 images"),
        ({"split": ["train"] * 11 + [None]}, "`split` must not have missing names; 1 of 12 are missing"),
        ({"split": ["train"] * 11 + [float("nan")]}, "`split` must not have missing names; 1 of 12"),
        ({"y": ["Z\udcfc", "tea"] * 6}, r"Labels must be Unicode text; got 'Z\\udcfc', .* not UTF-8"),
        ({"cv": 1}, "`cv` must be an integer of at least 2; got 1"),
        (
            {"duplicate_threshold": 2},
            "`duplicate_threshold` must be a number above 0 and of at most 1; got 2",
        ),
        ({"features": CNNFeatures("tiny")}, "`features` must be None if X is an array of embeddings"),
        ({"random_state": "x"}, "`random_state` must be"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        audit(clusters(12)[0], **arguments)


def test_images_pass_through_the_network_once(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype="uint8")
    images[11] = images[2]
    y = np.repeat(["a", "b"], 6)
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path)
    result = audit(images, y, features=cnn)
    assert not hasattr(cnn, "recipes_")
    assert result.duplicates["row"].tolist() == [2, 11] and result.duplicates["across_classes"].all()
    twelve = ((images[..., 0].astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    deep = CNNFeatures("tiny", image_size=32, max_value=4095, cache=tmp_path)
    assert (
        audit(twelve, y, features=deep).thumbnails == audit(images[..., 0], y, features=cnn).thumbnails != {}
    )
    of_embeddings = audit(images, y, features=cnn.fit_transform(images))
    assert of_embeddings.label_errors.equals(result.label_errors)
    with pytest.raises(
        InvalidParameterError, match=r"`features` must have one row for each of the 12 images; got 3"
    ):
        audit(images, y, features=np.ones((3, 4)))
    with pytest.raises(InvalidParameterError, match=r"`features` must be None or a CNNFeatures; got 'tiny'"):
        audit(images, y, features="tiny")


def sharp_photo(width, height, seed):
    """Return a photo with details of three pixels."""
    return photo(3 * width, 3 * height, seed).resize((width, height))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A folder with sharp photographs and one image with each fault, and the fault of each file."""
    folder = tmp_path_factory.mktemp("images")
    good = sharp_photo(300, 200, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    faults = {
        **{f"good{i}.jpg": None for i in range(8)},
        "black.png": "nearly black",
        "white.png": "nearly white",
        "uniform.png": "uniform",
        "range.png": "low range",
        "blurry.jpg": "blurry",
        "tiny.png": "tiny",
        "long.jpg": "odd aspect",
        "rotated.jpg": "EXIF rotation",
        "broken.jpg": "unreadable",
    }
    for i in range(8):
        sharp_photo(300, 200, seed=i + 2).save(folder / f"good{i}.jpg")
    noise = np.asarray(good.convert("L"), float)
    Image.fromarray((noise / 20).astype("u1")).save(folder / "black.png")
    Image.fromarray((255 - noise / 20).astype("u1")).save(folder / "white.png")
    Image.fromarray(np.full((200, 300, 3), 90, "u1")).save(folder / "uniform.png")
    Image.fromarray((100 + noise / 12).astype("u1")).save(folder / "range.png")
    photo(300, 200, seed=1).filter(ImageFilter.GaussianBlur(8)).save(folder / "blurry.jpg")
    good.resize((24, 18)).save(folder / "tiny.png")
    sharp_photo(800, 100, seed=30).save(folder / "long.jpg")
    sharp_photo(300, 200, seed=31).save(folder / "rotated.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes(b"no image")
    return [str(folder / name) for name in faults], list(faults.values())


def test_each_fault_is_reported_once(faulty):
    paths, faults = faulty
    result = audit(paths, features=np.random.default_rng(0).normal(size=(len(paths), 20)))
    table = result.faults.set_index("image")
    for path, fault in zip(paths, faults, strict=True):
        assert (fault is None) == (path not in table.index), (path, table.get("fault"))
        if fault is not None:
            assert table.loc[[path], "fault"].tolist() == [fault]
    assert result.faults["fault"][0] == "unreadable"
    assert "24 x 18 pixels" in table.loc[paths[faults.index("tiny")], "reason"]
    assert_no_missing_values(result)


def test_check_images_reports_quality_on_request(faulty):
    paths, faults = faulty
    table = check_images(paths, quality=True)
    assert set(table["image"]) == {path for path, fault in zip(paths, faults, strict=True) if fault}
    assert set(table["problem"]) == {"error", "warning", "quality"}
    reasons = table.set_index("image")["reason"]
    assert reasons[paths[faults.index("blurry")]].startswith("blurry: sharpness 0.")
    assert not reasons.index.duplicated().any()
    assert len(check_images(paths)) < len(table)


def test_an_invalid_exif_orientation_is_not_a_rotation(faulty, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 0
    Image.open(faulty[0][-2]).save(tmp_path / "a.jpg", exif=exif)
    assert check_images([tmp_path / "a.jpg"], quality=True).empty


def test_fault_of_most_images_is_one_note():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8), dtype="uint8")
    result = audit(images, features=rng.normal(size=(12, 6)))
    assert result.faults.empty
    assert any("12 of 12 images have the fault 'tiny' (8 x 8 pixels)" in note for note in result.notes)


def test_file_properties_that_predict_the_label_are_reported(tmp_path):
    """One class was saved as PNG with another size, as if it came from another camera."""
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}"))
        photo(60 + 40 * (i % 2), 64, seed=i).save(paths[-1])
    X = np.random.default_rng(0).normal(size=(40, 6))
    table = audit(paths, np.arange(40) % 2, features=X).confounders
    assert set(table["predictor"]) == {"image size", "file type", "file size"}
    assert table["warning"].all() and (table["balanced_accuracy"] > 0.9).all()
    Path(paths[0]).write_bytes(b"damaged")  # its embedding is still used
    damaged = audit(paths, np.arange(40) % 2, features=X)
    assert damaged.faults.iloc[0, [0, 2]].tolist() == [0, "unreadable"]
    assert set(damaged.confounders["predictor"]) == set(table["predictor"])
    table = audit(paths, np.arange(40) // 2 % 2, features=X).confounders
    assert not table["warning"].any()


@pytest.fixture(scope="module")
def page(faulty, tmp_path_factory):
    """The report of an audit of images with faults, a duplicate and a wrong label, and the result."""
    paths, _ = faulty
    X, y = clusters(len(paths) + 30)
    X[1] = X[4] + 1e-3
    y = y.astype("<U9")
    y[6] = "dog<b>"
    images = [*paths, *(np.asarray(photo(40, 40, seed=100 + i)) for i in range(30))]
    split = np.where(np.arange(len(X)) == 1, "test", "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = audit(images, y, features=X, split=split)
        folder = tmp_path_factory.mktemp("report")
        return result, write_audit(result, folder, command="tlfeatures audit x")


def test_page_shows_previews_and_escapes_labels(page):
    result, path = page
    html = path.read_text("utf-8")
    assert is_audit(path) and not is_report(path)
    assert html.count("data:image/jpeg;base64,") >= len(result.suspected) + 2
    assert "dog&lt;b&gt;" in html and "dog<b>" not in html
    assert "Groups in several splits: 1." in html and "across splits" in html
    assert "tlfeatures audit x" in html
    for heading in ("Suspected label errors", "Duplicates", "Outliers", "Faults of images", "Classes"):
        assert f"<h2>{heading}</h2>" in html
    assert not re.search(r">\s*nan\b", html, re.IGNORECASE)


def test_tables_of_the_page_are_complete(page):
    result, path = page
    for name in TABLES[1:]:
        table = pandas.read_csv(path.parent / "tables" / f"{name}.csv")
        assert len(table) == len(getattr(result, name)), name
    summary = json.loads((path.parent / "report.json").read_text())
    assert summary["suspected_labels"] == len(result.suspected)
    assert set(summary["files"]) == {f"tables/{name}.csv" for name in TABLES[1:]}


def test_page_without_findings(tmp_path):
    X, _ = clusters()
    html = write_audit(audit(X), tmp_path).read_text("utf-8")
    for text in (
        "No label was checked",
        "There are no duplicates",
        "No fault of single images",
        "no labels, groups",
    ):
        assert text in html


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in this process with a new store."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")

    def call(*argv):
        capsys.readouterr()
        code = main(["audit", *map(str, argv)])
        return code, *capsys.readouterr()

    return call


def test_command_writes_report_manifest_and_json(run, tmp_path):
    for i in range(24):
        folder = tmp_path / "data" / ("train" if i % 4 else "test") / ("dark" if i < 12 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.eval(photo(48, 48, seed=i), lambda value, light=i >= 12: value // 3 + 150 * light)
        image.save(folder / f"{i}.png")
    copy = tmp_path / "data" / "train" / "light" / "copy.png"
    copy.write_bytes((tmp_path / "data" / "test" / "light" / "12.png").read_bytes())
    (tmp_path / "data" / "train" / "dark" / "broken.png").write_bytes(b"no image")
    network = ["-m", "tiny", "--image-size", "32"]
    for _ in range(2):  # the second run may replace the files of the first
        code, out, err = run("data", *network, "-o", "report", "--write-manifest", "issues.csv")
        assert code == 0, err
    assert "1 across splits" in out and "Faults: unreadable 1." in out
    assert "broken.png" in err and "Saved issues.csv." in out
    table = pandas.read_csv("issues.csv")
    assert table.columns.tolist() == ["path", "label", "split", "issue", "score", "suggestion"]
    assert table.loc[table["path"].str.contains("copy"), "issue"].str.contains("exact duplicate").all()
    code, out, _ = run("issues.csv", *network, "--json")
    summary = json.loads(out)
    assert code == 0 and summary["counts"]["duplicate_groups_across_splits"] == 1
    assert [fault["fault"] for fault in summary["faults"]] == ["unreadable"]
    assert len(summary["classes"]) == 2


@pytest.mark.usefixtures("not_utf_8")
def test_command_accepts_file_names_that_are_not_utf_8(run, tmp_path):
    for i in range(12):
        folder = tmp_path / "data" / ("dark" if i < 6 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        photo(48, 48, seed=i).save(folder / f"{i}.png")
    odd = [os.fsdecode(name) for name in (b"data/dark/\xff.png", b"data/light/\xfe.png")]
    shutil.copy("data/dark/0.png", odd[0])
    Path(odd[1]).write_bytes(b"no image")
    network = ["-m", "tiny", "--image-size", "32"]
    code, _, err = run("data", *network, "-o", "report", "--write-manifest", "issues.csv")
    assert code == 0, err
    manifest = Path("issues.csv").read_bytes().splitlines()
    issues = [line.split(b",")[2] for line in manifest if b"\xff" in line or b"\xfe" in line]
    assert b"exact duplicate" in issues[0] and issues[1] == b"unreadable"
    assert check_images(odd)["image"].tolist() == odd[1:]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["data", "-o", "data/report"], "is inside the folder of the images"),
        (["data", "--write-manifest", "mine.csv"], "'mine.csv' exists and was not written by this command"),
        (["data", "--write-manifest", "x.txt"], "--write-manifest 'x.txt' must end in .csv"),
        (
            ["data", "--duplicate-threshold", "3"],
            "--duplicate-threshold must be a number above 0 and of at most 1",
        ),
        (["absent"], "absent"),
    ],
)
def test_invalid_arguments_of_the_command(run, tmp_path, argv, message):
    (tmp_path / "data" / "a").mkdir(parents=True)
    photo(32, 32).save(tmp_path / "data" / "a" / "1.png")
    (tmp_path / "mine.csv").write_text("path,label\n")
    code, _, err = run(*argv, "-m", "tiny")
    assert code == 2 and message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("head", ["ridge", "logreg"])
def test_report_of_a_search_has_a_section_from_its_out_of_fold_predictions(head, tmp_path):
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 99, (60, 32, 32, 3), dtype="uint8")
    y = np.where(np.arange(60) < 30, "dark", "light")
    images[30:] += 99
    y[[3, 40]] = "light", "dark"
    options = {"image_sizes": [32], "layers": ["block3_pw_relu"], "poolings": "avg", "resize": "stretch"}
    search = FeatureSearchCV(
        "tiny", **options, heads=[head], cv=3, learning_curve=False, cache=tmp_path / "store"
    )
    result = search.fit(images, y, groups=np.arange(60) // 2).result()
    assert set(result.audit.suspected["row"]) == {3, 40}
    assert sorted(result.audit.suspected["suggestion"]) == ["dark", "light"]
    assert result.audit.label_errors["probability"].between(0, 1).all()
    html = write_report(result, tmp_path / "report").read_text("utf-8")
    assert "<h2>Suspected label errors and outliers</h2>" in html and "suggestion: <strong>dark" in html
    assert len(pandas.read_csv(tmp_path / "report/tables/label_errors.csv")) == 60


def fit_search(y, cache, groups=None, **options):
    """Search over noise of which four images are duplicates of the first four."""
    images = np.random.default_rng(0).integers(0, 256, (36, 32, 32, 3), dtype="uint8")
    images[30:34] = images[:4]
    small = {
        "image_sizes": [32],
        "layers": ["block3_pw_relu"],
        "poolings": "avg",
        "resize": "stretch",
        "cv": 3,
    }
    search = FeatureSearchCV("tiny", **small | options, heads=["ridge"], learning_curve=False, cache=cache)
    return search.fit(images, y, groups)


def test_report_of_a_search_whose_folds_do_not_test_all_images(tmp_path):
    warnings.simplefilter("ignore")
    rows, y = np.arange(36), NAMES[np.arange(36) % 3]
    tested = [rows[3:9][y[3:9] != "cat"], rows[9:15][y[9:15] != "cat"]]  # never a cat
    folds = [(np.setdiff1d(rows, test), test) for test in tested]
    for labels in (y, np.arange(36) % 3):
        result = fit_search(labels, tmp_path, cv=folds).result()
        table = result.audit.label_errors
        assert sorted(table["row"]) == sorted(np.concatenate(tested))
        assert set(table["suggestion"]) <= set(labels) and (table["suggestion"] != table["label"]).all()
        assert result.audit.classes["class"].tolist() == np.unique(labels[1:3]).tolist()
        assert result.embedding_note == ""


def test_groups_of_duplicates_are_not_reported_as_a_predictor(tmp_path):
    warnings.simplefilter("ignore")
    y = NAMES[np.arange(36) % 2]
    assert fit_search(y, tmp_path, dedupe_groups=True).result().audit.confounders.empty
    search = fit_search(y, tmp_path, groups=np.arange(36) % 6, dedupe_groups=True)
    assert search.result().audit.summary()["confounders"] == ["group"]


def test_missing_labels_in_a_list_of_text():
    X, y = clusters()
    result = audit(X, [float("nan"), float("nan"), *y[2:]])
    assert result.classes["class"].tolist() == ["cat", "dog", "fox"]
    assert any("2 of 120 images have no label" in note for note in result.notes)


@pytest.mark.parametrize("n", [5, 700, 1500])
def test_neighbors_equal_those_of_all_cosines(n):
    from tlfeatures.evaluation import find_neighbors

    X = np.random.default_rng(n).normal(size=(n, 6))
    F = X - X.mean(axis=0)
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    cosine = F @ F.T - 9 * np.eye(n)
    k = min(4, n - 1)
    neighbors = find_neighbors(X, 4)
    assert neighbors.rows.shape == (n, k)
    np.testing.assert_allclose(neighbors.cosine, -np.sort(-cosine, axis=1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(
        neighbors.cosine, np.take_along_axis(cosine, neighbors.rows, axis=1), atol=1e-5
    )
