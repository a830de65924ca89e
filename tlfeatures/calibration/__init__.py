"""Calibration of class probabilities by temperature scaling."""

from tlfeatures.calibration._calibrated_head import CalibratedHead
from tlfeatures.calibration._fit_calibrated import fit_calibrated_head, fit_calibrated_pipeline
from tlfeatures.calibration._temperature import (
    calibrate_logits,
    compute_logits,
    fit_inverse_temperature,
    to_logits,
)

__all__ = [
    "CalibratedHead",
    "calibrate_logits",
    "compute_logits",
    "fit_calibrated_head",
    "fit_calibrated_pipeline",
    "fit_inverse_temperature",
    "to_logits",
]
