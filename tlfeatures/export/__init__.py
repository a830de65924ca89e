"""Export of fitted models in ONNX format, for other programs and languages."""

from tlfeatures.export._export import ExportedModel, export_onnx
from tlfeatures.export._packages import check_packages
from tlfeatures.export._self_test import SelfTest

__all__ = ["ExportedModel", "SelfTest", "check_packages", "export_onnx"]
