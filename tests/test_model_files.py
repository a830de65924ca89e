"""Files of ``tlfeatures.save``: equal predictions, no code, and clear refusals."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.base import clone, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelBinarizer, LabelEncoder, StandardScaler
from sklearn.svm import SVC, SVR

import tlfeatures
from tests.warning_helpers import of_test
from tlfeatures import (
    CNNFeatures,
    ConformalClassifier,
    ConformalRegressor,
    FineTuneClassifier,
    SkipUnreadable,
)
from tlfeatures._archive import library_versions, read_arrays, write_arrays
from tlfeatures.calibration import CalibratedHead
from tlfeatures.errors import InvalidParameterError, SavedModelError
from tlfeatures.heads import BlockScaler, MeanRBFKernel, list_heads, make_head
from tlfeatures.model_files import is_model_file, read_card
from tlfeatures.model_files._classes import _CLASSES
from tlfeatures.saved_models import load_model

CNN = {"model": "tiny", "image_size": 32, "cache": None}
RNG = np.random.default_rng(0)
Y = np.arange(48) % 3
X = (RNG.normal(size=(48, 8)) + 2 * Y[:, None] * (np.arange(8) % 3 == 0)).astype("float32")
LABELS = np.array(["ant", "bee", "cat"])[Y]
METHODS = ("predict", "predict_proba", "decision_function", "transform", "p_values", "predict_interval")


def check_equal(model, loaded, inputs):
    """Check that all methods return the same values, bit by bit."""
    methods = [name for name in METHODS if hasattr(model, name)]
    assert methods
    for name in methods:
        np.testing.assert_array_equal(getattr(model, name)(inputs), getattr(loaded, name)(inputs), name)


@pytest.fixture(scope="module")
def pipeline(photos):
    return Pipeline([("cnn", CNNFeatures(**CNN)), ("head", make_head("logreg"))]).fit(
        photos.paths, photos.labels
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tlf"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of a small head, and its parts."""
    path = tmp_path_factory.mktemp("saved") / "head.tlf"
    tlfeatures.save(make_head("svm").fit(X, LABELS), path)
    return path


def change(saved, path, edit):
    """Write a copy of a file after a change of its JSON object or its arrays, with the digests that belong to it."""
    about, arrays = read_arrays(saved)
    about = json.loads(json.dumps(about))
    edit(about, arrays)
    write_arrays(path, about, arrays)


# -- equal predictions -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pipeline_predicts_the_same_in_another_process(pipeline, photos, path):
    tlfeatures.save(pipeline, path)
    code = (
        "import sys, json, tlfeatures\n"
        f"model = tlfeatures.load({str(path)!r}, batch_size=3)\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "assert model['cnn'].batch_size == 3 and model['cnn'].cache is None\n"
        "print(json.dumps(model.predict_proba(sys.argv[1:]).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *photos.paths], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(
        json.loads(done.stdout.splitlines()[-1]), pipeline.predict_proba(photos.paths), atol=1e-6
    )


def test_loading_imports_nothing_that_only_transform_needs(pipeline, path):
    tlfeatures.save(pipeline, path)
    code = (
        "import sys, json, sklearn.linear_model, sklearn.pipeline, sklearn.preprocessing, tlfeatures\n"
        "before = set(sys.modules)\n"
        f"tlfeatures.load({str(path)!r})\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "tlfeatures.features" in modules
    others = {name.partition(".")[0] for name in modules} - {"tlfeatures"}
    assert not others & {"PIL", "h5py", "pandas", "keras", "tensorflow", "torch", "urllib", "obstore"}
    units = {name.split(".")[1] for name in modules if name.startswith("tlfeatures.")}
    assert not units & {"images", "store", "networks", "extract", "evaluation", "selection", "trust"}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_all_named_heads(task, path):
    for name in list_heads(task):
        head = make_head(name, task).fit(X, LABELS if task == "classification" else X @ np.arange(8) + Y)
        tlfeatures.save(head, path)
        check_equal(head, tlfeatures.load(path), X)


SPECIAL = {
    "CalibratedClassifierCV": CalibratedClassifierCV(SVC(), cv=3),
    "CalibratedHead": CalibratedHead(make_head("svm")),
    "ConformalClassifier": ConformalClassifier(
        CalibratedHead(make_head("svm")), cv=3, error_rate=0.2, per_class=True
    ),
    "ConformalRegressor": ConformalRegressor(Ridge(), cv=3),
    "FeatureUnion": FeatureUnion([("scale", StandardScaler()), ("blocks", BlockScaler([3, 5]))]),
    "GridSearchCV": GridSearchCV(SVC(), {"C": [1, 2]}, cv=2),
    "MeanRBFKernel": SVC(kernel=MeanRBFKernel((3, 5))),
    "OneVsOneClassifier": OneVsOneClassifier(SVC()),
    "OneVsRestClassifier": OneVsRestClassifier(LogisticRegression()),
    "Pipeline": make_pipeline(StandardScaler(), "passthrough", GridSearchCV(SVC(), {"C": [1, 2]}, cv=2)),
    "SkipUnreadable": SkipUnreadable(KNeighborsClassifier(algorithm="kd_tree")),
    "TransformedTargetRegressor": TransformedTargetRegressor(SVR(), func=np.log1p, inverse_func=np.expm1),
}
ELSEWHERE = {"CNNFeatures", "ScoreTable", "TrainOnViews", "LabelBinarizer", "LabelEncoder"}
ALL = [(module, name) for module, names in _CLASSES.items() for name in names.split() if "KFold" not in name]


@pytest.mark.parametrize(
    ("module", "name"), [row for row in ALL if row[1] not in ELSEWHERE], ids=lambda text: text
)
@pytest.mark.filterwarnings("ignore")
def test_each_class_of_the_table_is_loaded_with_equal_predictions(module, name, path):
    kind = getattr(importlib.import_module(module), name)
    model = SPECIAL.get(name) or (kind(reg_param=0.1) if name.startswith("Quadratic") else kind())
    model.fit(X, Y * 1.5 if is_regressor(model) or name == "KernelRidge" else LABELS)
    tlfeatures.save(model, path)
    check_equal(model, tlfeatures.load(path), X)


def test_label_encoders(path):
    for encoder in (LabelBinarizer(), LabelEncoder()):
        tlfeatures.save(encoder.fit(LABELS), path)
        np.testing.assert_array_equal(tlfeatures.load(path).transform(LABELS), encoder.transform(LABELS))


@pytest.mark.parametrize("labels", [Y, Y == 1, LABELS.astype(object)])
def test_classes_keep_their_type(labels, path):
    head = make_head("knn").fit(X, labels)
    tlfeatures.save(head, path)
    loaded = tlfeatures.load(path)
    assert loaded.classes_.dtype == head.classes_.dtype
    assert [type(v) for v in loaded.classes_.tolist()] == [type(v) for v in head.classes_.tolist()]
    check_equal(head, loaded, X)


def test_meta_estimators_on_images(photos, path):
    cnn = CNNFeatures(**CNN, views="flip")
    views = tlfeatures.TrainOnViews(make_pipeline(cnn, make_head("logreg"))).fit(photos.paths, photos.labels)
    conformal = ConformalClassifier(
        make_pipeline(CNNFeatures(**CNN), make_head("logreg")), cv=2, error_rate=0.4
    )
    for model in (views, conformal.fit(photos.paths, photos.labels)):
        tlfeatures.save(model, path)
        loaded = tlfeatures.load(path, batch_size=5)
        assert type(loaded) is type(model)
        check_equal(model, loaded, photos.paths)


def test_fine_tuned_estimators_use_the_same_container(photos, path):
    tuned = FineTuneClassifier(
        **CNN, start="linear", epochs=0, validation_fraction=0, random_state=0, verbose=1
    )
    tlfeatures.save(tuned.fit(photos.paths, photos.labels), path)
    loaded = tlfeatures.load(path, batch_size=5)
    assert (type(loaded), loaded.batch_size, loaded.verbose, tuned.verbose) == (FineTuneClassifier, 5, 0, 1)
    np.testing.assert_array_equal(loaded.predict_proba(photos.paths), tuned.predict_proba(photos.paths))
    assert not is_model_file(path) and read_card(path)["training_images"] == 12
    with pytest.raises(tlfeatures.errors.RecipeMismatchError, match="belongs to another network"):
        tlfeatures.load(path, weights=None)


def test_the_recipe_is_checked_when_images_are_transformed(pipeline, photos, path):
    tlfeatures.save(pipeline, path)
    with pytest.raises(tlfeatures.errors.RecipeMismatchError, match="The recipe of transform differs"):
        tlfeatures.load(path, image_size=48).predict(photos.paths)


def test_older_bundles_without_digests_and_versions_are_loaded(photos, path):
    tuned = FineTuneClassifier(**CNN, start="linear", epochs=0, validation_fraction=0, random_state=0)
    tuned.fit(photos.paths, photos.labels).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["about.json"])
    for name in ("digests", "versions", "card"):
        del about[name]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"about.json": json.dumps(about).encode()}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    for loaded in (tlfeatures.load(path), FineTuneClassifier.load(path)):
        np.testing.assert_array_equal(loaded.predict_proba(photos.paths), tuned.predict_proba(photos.paths))
    assert read_card(path)["training_images"] is None and read_card(path)["estimator"] == "FineTuneClassifier"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Lambda", r"'Lambda' of 'keras\.layers', which can run code"),
        ({}, "is damaged: its layers have invalid names"),
    ],
    ids=["Lambda", "dict"],
)
def test_keras_layers_that_run_code_are_refused(photos, path, name, text):
    tuned = FineTuneClassifier(**CNN, start="linear", epochs=0, validation_fraction=0, random_state=0)
    tuned.fit(photos.paths, photos.labels).save(path, whole=True)

    def edit(about, arrays):
        about["head"]["config"]["layers"][-1] |= {"class_name": name, "module": "keras.layers"}

    change(path, path, edit)
    with pytest.raises(SavedModelError, match=text):
        tlfeatures.load(path)


# -- what a file contains ------------------------------------------------------------------------------------------


def test_equal_models_have_equal_files_without_paths_of_the_machine(photos, tmp_path):
    cnn = CNNFeatures("tiny", image_size=32, cache=str(tmp_path / "store"), n_jobs=2, verbose=1)
    model = Pipeline([("cnn", cnn), ("head", make_head("svm"))], memory=str(tmp_path)).fit(
        photos.paths, photos.labels
    )
    files = [tmp_path / name for name in ("a.tlf", "b.tlf")]
    for file in files:
        tlfeatures.save(model, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path).encode() not in files[0].read_bytes()
    loaded = tlfeatures.load(files[0])
    assert (loaded["cnn"].cache, loaded["cnn"].n_jobs, loaded["cnn"].verbose, loaded.memory) == (
        "auto",
        None,
        0,
        None,
    )
    assert model["cnn"].n_jobs == 2  # the saved model is not changed


def test_loaded_arrays_are_writable_and_a_linear_head_is_small(path):
    rows = np.random.default_rng(0).normal(size=(74, 512)).astype("float32")
    head = make_head("logreg").fit(rows, np.arange(74) % 37)
    tlfeatures.save(head, path)
    # up to scikit-learn 1.6 the coefficients are float64
    assert path.stat().st_size <= 100_000 - 37 * 512 * 4 + head[-1].coef_.nbytes
    assert tlfeatures.load(path)[-1].coef_.flags.writeable


def test_members_are_json_and_arrays_that_numpy_reads(saved):
    with zipfile.ZipFile(saved) as archive:
        about = json.loads(archive.read("about.json"))
        assert about["versions"] == library_versions()
        assert {name[-4:] for name in archive.namelist()[1:]} == {".npy"}
        np.lib.format.read_array(archive.open("00000.npy"), allow_pickle=False)


def test_save_replaces_a_file_only_when_it_is_complete(saved, tmp_path):
    path = tmp_path / "model.tlf"
    path.write_bytes(saved.read_bytes())
    with pytest.raises(SavedModelError):
        tlfeatures.save(RandomForestClassifier(2).fit(X, Y), path)
    assert path.read_bytes() == saved.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model.tlf"]


def test_only_small_models_are_compressed_and_both_are_loaded(path):
    about = {
        "format": "tlfeatures.model/1",
        "card": {},
        "versions": {},
        "model": {"array": 0},
        "self_test": None,
    }
    for n, method in ((1000, zipfile.ZIP_DEFLATED), (140_000, zipfile.ZIP_STORED)):
        write_arrays(path, about, [np.arange(float(n))])
        with zipfile.ZipFile(path) as archive:
            assert [m.compress_type for m in archive.infolist()] == [zipfile.ZIP_STORED, method]
        np.testing.assert_array_equal(tlfeatures.load(path), np.arange(float(n)))


# -- refusals ------------------------------------------------------------------------------------------------------


class OwnHead(LogisticRegression):
    """A class outside the table."""


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            RandomForestClassifier(2),
            r"an object of the class sklearn\.ensemble\._forest\.RandomForestClassifier",
        ),
        (OwnHead(), r"an object of the class tests\.test_model_files\.OwnHead"),
        (
            make_pipeline(FunctionTransformer(np.sort), SVC()),
            r"the function 'sort', the parameter func of .*FunctionTransformer",
        ),
        (
            SVC(kernel=lambda a, b: a @ b.T),
            r"the function '<lambda>', the parameter kernel of sklearn\.svm\.SVC",
        ),
        (SVC(random_state=np.random.RandomState(0)), "RandomState, the parameter random_state"),
    ],
    ids=["trees", "subclass", "function", "kernel", "random_state"],
)
def test_other_estimators_are_refused_by_name(model, text, path):
    with pytest.raises(SavedModelError, match=f"A .tlf file cannot contain .*{text}.*joblib"):
        tlfeatures.save(model.fit(X, Y), path)
    assert not path.exists()


def test_networks_in_memory_are_refused(photos, path):
    cnn = CNNFeatures(_small_model(), image_size=32, cache=None)
    with pytest.raises(
        SavedModelError, match=r"Functional object.* Save a keras\.Model as \.keras and pass its path"
    ):
        tlfeatures.save(make_pipeline(cnn, SVC()).fit(photos.paths, photos.labels), path)


def _small_model():
    import keras

    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))


@pytest.mark.parametrize("model", [LogisticRegression(), make_pipeline(StandardScaler(), SVC())])
def test_models_that_are_not_fitted_are_refused(model, path):
    with pytest.raises(NotFittedError):
        tlfeatures.save(model, path)
    with pytest.raises(InvalidParameterError, match=r"`model` must be a fitted estimator; got .* type dict"):
        tlfeatures.save({"model": model}, path)
    assert not path.exists()


def test_names_of_pickles_are_refused(path):
    with pytest.raises(InvalidParameterError, match=r"must not end in \.joblib.*joblib\.dump"):
        tlfeatures.save(SVC(), path.with_suffix(".joblib"))


class Exploit:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_pickles_are_never_loaded(tmp_path, path):
    target = tmp_path / "executed"
    for dump in (pickle.dump, joblib.dump):
        with path.open("wb") as file:
            dump(Exploit(target), file)
        with pytest.raises(SavedModelError, match="Loading a pickle can run code"):
            tlfeatures.load(path)
    array = np.empty(1, object)
    array[0] = Exploit(target)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("about.json"), '{"format": "tlfeatures.model/1"}')
        with archive.open(zipfile.ZipInfo("00000.npy"), "w") as member:
            np.lib.format.write_array(member, array)
    with pytest.raises(SavedModelError, match="arrays of the dtype object are not allowed"):
        tlfeatures.load(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen", "builtins.eval", "operator.methodcaller", "operator.attrgetter", "functools.partial",
        "sklearn.utils._set_output._auto_wrap_is_configured", "sklearn.ensemble.RandomForestClassifier",
        "sklearn.svm.SVC.fit", "sklearn.svm.os.system", "keras.layers.Lambda", "tlfeatures.store.EmbeddingStore",
        "sklearn.linear_model._stochastic_gradient.SGDRegressor", None, ["sklearn.svm.SVC"], {}, 1,
    ],
)  # fmt: skip
def test_other_classes_in_a_file_are_refused_by_name(saved, path, name):
    def edit(about, arrays):
        about["model"] = {"object": name, "params": {}, "state": {}}

    change(saved, path, edit)
    with pytest.raises(SavedModelError, match=r"it names the class .*, which a model file must not contain"):
        tlfeatures.load(path)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"predict": "text"}, "cannot have the fitted attribute 'predict'"),
        ({"_impl": "nu_svc"}, "cannot have the fitted attribute '_impl'"),
        ({"__class__": 1}, "cannot have the fitted attribute '__class__'"),
        ({"C": 2.0}, "cannot have the fitted attribute 'C'"),
        ({"kernel_": {"function": "os.system"}}, "it names the function 'os.system'"),
        ({"a": {"dtype": "O"}}, "'O' is not a dtype"),
        ({"a": {"array": 0}}, "the array 0 is missing or used twice"),
        ({"a": {"array": 10**9}}, "the array 1000000000 is missing"),
        ({"a": {"scalar": ["<U9999", "a"]}}, None),
        ({"a": {"float": "1e400"}}, "is not a number"),
        ({"a": {"lambda": 1}}, "Cannot load"),
        ({"a": [[[]]] * 3}, None),
        ({"_dual_coef_": [1.0]}, "shapes of the fitted attributes of sklearn.svm.SVC contradict each other"),
        ({"shape_fit_": {"tuple": [2, 8]}}, "contradict each other"),
        ({"_n_support": None}, "contradict each other|are damaged"),
        ({"_sparse": True}, "contradict each other"),
        ({"support_vectors_": {"array": 99}}, "missing"),
    ],
)
def test_damaged_attributes(saved, path, state, text):
    def edit(about, arrays):
        svm = about["model"]["params"]["steps"][1]["tuple"][1]
        svm["state"] |= state

    change(saved, path, edit)
    if text is None:
        tlfeatures.load(path)
    else:
        with pytest.raises(SavedModelError, match=text):
            tlfeatures.load(path)


def test_prediction_with_wrong_coefficients_is_an_error_at_loading(saved, path):
    def edit(about, arrays):
        i = about["model"]["params"]["steps"][0]["tuple"][1]["state"]["mean_"]["array"]
        arrays[i] = np.zeros(3)

    change(saved, path, edit)
    with pytest.raises(SavedModelError, match=r"Cannot load .*shape"):
        tlfeatures.load(path)


# -- other versions ------------------------------------------------------------------------------------------------


def test_other_versions_with_equal_predictions_load_silently(saved, path, recwarn):
    change(saved, path, lambda about, arrays: about["versions"].update({"scikit-learn": "1.4.0"}))
    check_equal(tlfeatures.load(saved), tlfeatures.load(path), X)
    assert not of_test(recwarn.list)


def test_different_predictions_are_reported_with_the_versions(saved, path):
    def edit(about, arrays):
        svm = about["model"]["params"]["steps"][1]["tuple"][1]
        arrays[svm["state"]["_intercept_"]["array"]] = np.array([5.0, 5.0, 5.0])

    change(saved, path, edit)
    with pytest.raises(SavedModelError, match=r"with the same versions .*, but decision_function now"):
        tlfeatures.load(path)
    change(path, path, lambda about, arrays: about["versions"].update({"scikit-learn": "1.4.0"}))
    match = r"saved with scikit-learn 1\.4\.0 \(installed: 1.*\), and decision_function now returns other"
    with pytest.warns(UserWarning, match=match):
        tlfeatures.load(path)


def test_a_library_that_is_no_longer_installed_is_another_version(saved, path):
    def edit(about, arrays):
        svm = about["model"]["params"]["steps"][1]["tuple"][1]
        arrays[svm["state"]["_intercept_"]["array"]] = np.array([5.0, 5.0, 5.0])
        about["versions"]["removed"] = "2.1"

    change(saved, path, edit)
    with pytest.warns(UserWarning, match=r"saved with removed 2\.1 \(installed: none\), and"):
        tlfeatures.load(path)


def test_an_error_of_loading_ends_with_one_full_stop(saved, path):
    def edit(about, arrays):
        arrays[dict(about["self_test"]["dict"])["rows"]["array"]] = np.ones((2, 99), np.float32)

    change(saved, path, edit)
    with pytest.raises(SavedModelError, match=r"99 features.*[^.]\.$"):
        tlfeatures.load(path)


def test_parameters_and_attributes_of_other_versions(saved, path, recwarn):
    def edit(about, arrays):
        svm = about["model"]["params"]["steps"][1]["tuple"][1]
        svm["params"]["old"] = 3
        svm["state"]["coef_"] = 1.0  # a property of the installed version
        if untested:
            about["self_test"] = None
            del arrays[-n_test_arrays:]

    about, _ = read_arrays(saved)
    n_test_arrays = len(about["self_test"]["dict"])
    untested = False
    change(saved, path, edit)
    check_equal(tlfeatures.load(saved), tlfeatures.load(path), X)
    assert not of_test(recwarn.list)  # the predictions of the self-test are equal
    untested = True
    change(saved, path, edit)
    with pytest.warns(
        UserWarning, match=r"parameters that the installed versions .* do not have: SVC\(old=3\)"
    ):
        check_equal(tlfeatures.load(saved), tlfeatures.load(path), X)


# -- load_model ----------------------------------------------------------------------------------------------------


def test_load_model_reads_the_file(pipeline, photos, path):
    tlfeatures.save(pipeline, path)
    model = load_model(path, batch_size=3)
    assert model.cnn.batch_size == 3
    np.testing.assert_array_equal(model.predict(photos.paths).values, pipeline.predict(photos.paths))
    tlfeatures.save(SVC().fit(X, Y), path)
    with pytest.raises(
        SavedModelError, match="contains an object of type SVC; expected a scikit-learn Pipeline"
    ):
        load_model(path)


def test_missing_and_other_files(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        tlfeatures.load(path)
    path.write_bytes(b"")
    with pytest.raises(SavedModelError, match="damaged or has another format"):
        tlfeatures.load(path)
    tlfeatures.save(SVC().fit(X, Y), path)
    with pytest.raises(SavedModelError, match="contains no CNNFeatures"):
        tlfeatures.load(path, batch_size=3)


def test_loaded_pipelines_can_be_fitted_again(tmp_path):
    head = Pipeline([("scale", StandardScaler()), ("svm", SVC(verbose=False))])
    tlfeatures.save(head.fit(X, LABELS), tmp_path / "head.tlf")
    loaded = tlfeatures.load(tmp_path / "head.tlf")
    assert loaded.get_params()["verbose"] is False
    check_equal(head, clone(loaded).fit(X, LABELS), X)
