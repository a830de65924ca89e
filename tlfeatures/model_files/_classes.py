"""The classes and functions that a model file can contain, in a fixed table; a file cannot add to it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["find_class", "find_function", "name_class", "name_function"]

# Public module -> classes whose fitted attributes are numbers, text, arrays and objects of these classes. Trees and
# gradient boosting are not among them: their fitted state is read by compiled code, which does not check it.
_CLASSES: dict[str, str] = {
    "sklearn.calibration": "CalibratedClassifierCV",
    "sklearn.compose": "TransformedTargetRegressor",
    "sklearn.decomposition": "PCA IncrementalPCA TruncatedSVD",
    "sklearn.discriminant_analysis": "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis",
    "sklearn.dummy": "DummyClassifier DummyRegressor",
    "sklearn.feature_selection": "SelectKBest SelectPercentile VarianceThreshold",
    "sklearn.impute": "SimpleImputer",
    "sklearn.kernel_approximation": "Nystroem RBFSampler",
    "sklearn.kernel_ridge": "KernelRidge",
    "sklearn.linear_model": (
        "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lasso LassoCV LinearRegression "
        "LogisticRegression LogisticRegressionCV Perceptron Ridge RidgeClassifier RidgeClassifierCV RidgeCV "
        "SGDClassifier SGDRegressor"
    ),
    "sklearn.model_selection": "GridSearchCV GroupKFold KFold StratifiedGroupKFold StratifiedKFold",
    "sklearn.multiclass": "OneVsOneClassifier OneVsRestClassifier",
    "sklearn.naive_bayes": "GaussianNB",
    "sklearn.neighbors": "KNeighborsClassifier KNeighborsRegressor NearestCentroid",
    "sklearn.neural_network": "MLPClassifier MLPRegressor",
    "sklearn.pipeline": "FeatureUnion Pipeline",
    "sklearn.preprocessing": (
        "FunctionTransformer LabelBinarizer LabelEncoder MaxAbsScaler MinMaxScaler Normalizer PowerTransformer "
        "QuantileTransformer RobustScaler StandardScaler"
    ),
    "sklearn.svm": "LinearSVC LinearSVR NuSVC NuSVR SVC SVR",
    "tlfeatures.calibration": "CalibratedHead",
    "tlfeatures.features": "CNNFeatures",
    "tlfeatures.heads": "BlockScaler MeanRBFKernel StableNystroem",
    "tlfeatures.skip_unreadable": "SkipUnreadable",
    "tlfeatures.train_on_views": "TrainOnViews",
    "tlfeatures.trust": "ConformalClassifier ConformalRegressor OutlierDetector",
    "tlfeatures.trust._ranks": "ScoreTable",
}
# parts of fitted estimators, which scikit-learn keeps in private classes
_PARTS = {
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "sklearn.multiclass": "_ConstantPredictor",
}
_FUNCTIONS = {
    "numpy": "exp expm1 log log10 log1p log2 sqrt square",
    "sklearn.feature_selection": "chi2 f_classif f_regression mutual_info_classif mutual_info_regression",
}


def _list_names(table: dict[str, str]) -> dict[str, str]:
    """Return the module of each full name, such as "sklearn.svm.SVC"."""
    return {f"{module}.{name}": module for module, names in table.items() for name in names.split()}


_CLASS_MODULES = _list_names(_CLASSES) | _list_names(_PARTS)
_FUNCTION_MODULES = _list_names(_FUNCTIONS)


def _find(name: Any, modules: dict[str, str]) -> Any:
    if not isinstance(name, str) or name not in modules:
        return None
    return getattr(import_module(modules[name]), name.rpartition(".")[2], None)


def _name(value: Any, modules: dict[str, str]) -> str | None:
    short = f".{getattr(value, '__name__', None)}"
    return next((name for name in modules if name.endswith(short) and _find(name, modules) is value), None)


def find_class(name: Any) -> type | None:
    """Return the class with a name in the table, or None.

    >>> find_class("sklearn.svm.SVC").__name__
    'SVC'
    >>> find_class("subprocess.Popen")
    """
    return _find(name, _CLASS_MODULES)


def name_class(kind: type) -> str | None:
    """Return the name of a class in the table; None for other classes, including subclasses."""
    return _name(kind, _CLASS_MODULES)


def find_function(name: Any) -> Any:
    """Return the function with a name in the table, or None."""
    return _find(name, _FUNCTION_MODULES)


def name_function(value: Any) -> str | None:
    """Return the name of a function in the table; None for other functions."""
    return _name(value, _FUNCTION_MODULES)
