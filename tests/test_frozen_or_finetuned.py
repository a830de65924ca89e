"""The decision between a frozen pipeline and a fine-tuned network; test_cli_finetune.py tests the command."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import Pipeline

from tlfeatures import FineTuneClassifier, FineTuneRegressor
from tlfeatures.calibration import CalibratedHead
from tlfeatures.errors import DuplicateImagesWarning, InvalidParameterError, UnknownNameError
from tlfeatures.evaluation import find_duplicates
from tlfeatures.finetune import fit_frozen_or_finetuned
from tlfeatures.heads import make_head
from tlfeatures.sources import read_source

QUICK = {
    "model": "tiny", "image_size": 32, "cache": None, "start": "linear", "epochs": 1, "validation_fraction": 0,
    "random_state": 0,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.UnreadableImagesWarning")


def test_frozen_pipeline_is_calibrated_with_duplicates_in_one_fold(photos, tmp_path):
    paths, labels = list(photos.paths), list(photos.labels)
    for i in range(6):
        paths.append(shutil.copy(photos.paths[i], tmp_path / f"copy {i}{photos.paths[i][-4:]}"))
        labels.append(labels[i])
    with pytest.warns(DuplicateImagesWarning, match="so the scores may be too high"):
        result = fit_frozen_or_finetuned(
            FineTuneClassifier(**QUICK),
            make_head("knn"),
            paths,
            labels,
            cv=2,
            n_repeats=1,
            duplicate_threshold=0.9999,
        )
    assert result.kept == result.comparison.best == "frozen" and isinstance(result.model, Pipeline)
    assert len(result.duplicates.pairs) == 6 and result.duplicates.crossing > 0
    assert not result.training.is_final and result.training.n_fits == 2
    summary = result.summary()
    assert (summary["kept"], summary["comparison"]["folds"], summary["comparison"]["keep"]) == (
        "frozen", 2, "frozen",
    )  # fmt: skip
    extracted = result.extracted
    groups = find_duplicates(extracted.keys, extracted.features, 0.9999).groups
    with_groups, without = (
        CalibratedHead(make_head("knn")).fit(extracted.features, labels, groups=each).inverse_temperature_
        for each in (groups, None)
    )
    assert result.model["head"].inverse_temperature_ == pytest.approx(with_groups) != pytest.approx(without)


def test_network_is_fitted_without_unreadable_images(photos, tmp_path):
    (tmp_path / "bad.jpg").write_text("not an image")
    paths, y = [str(tmp_path / "bad.jpg"), *photos.paths], np.arange(13) + 0.5
    tuned = FineTuneRegressor(**QUICK)
    result = fit_frozen_or_finetuned(tuned, make_head("ridge", "regression"), paths, y, cv=0)
    assert result.kept == "finetuned" and result.model is tuned and result.comparison is None
    assert list(result.extracted.errors) == [0] and result.extracted.counts.unreadable == 1
    assert result.training.is_final and result.training.metric == "mae" and result.task == "regression"
    assert result.summary()["comparison"] is None
    assert tuned.training_digests_.shape == (12, 16) and tuned.cache is None


def test_array_in_an_hdf5_file(photos, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.stack(
            [np.asarray(Image.open(p).convert("RGB").resize((32, 32))) for p in photos.paths]
        )
    images = read_source(f"{tmp_path}/x.h5::images").images
    tuned, head = FineTuneClassifier(**QUICK), make_head("svm")
    result = fit_frozen_or_finetuned(tuned, head, images, photos.labels, keep="frozen", cv=2, n_repeats=1)
    assert (result.model.predict(images) == photos.labels).all()


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [(((0.5,) * 3, (0.5,) * 3), ((0.5,) * 3, (0.5,) * 3)), ("data", "auto")],
)
def test_normalization_of_the_frozen_pipeline(photos, normalization, expected):
    tuned, head = FineTuneClassifier(**QUICK, normalization=normalization), make_head("logreg")
    model = fit_frozen_or_finetuned(tuned, head, photos.paths, photos.labels, keep="frozen", cv=0).model
    assert model["cnn"].normalization == expected


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"keep": "best"},
            InvalidParameterError,
            "`keep` must be 'better', 'frozen' or 'finetuned'; got 'best'",
        ),
        ({"scoring": "acuracy"}, UnknownNameError, "Did you mean 'accuracy'"),
        ({"cv": 7}, InvalidParameterError, "`cv=7` needs at least 7 images of every class"),
    ],
)
def test_invalid_parameters_raise_before_the_network_runs(photos, monkeypatch, options, error, text):
    monkeypatch.setattr("tlfeatures.finetune._frozen_or_finetuned.embed", None)
    with pytest.raises(error, match=text):
        fit_frozen_or_finetuned(
            FineTuneClassifier(**QUICK), make_head("svm"), photos.paths, photos.labels, **options
        )
