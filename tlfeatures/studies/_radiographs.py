"""Drawn radiographs as DICOM, 16-bit PNG and 16-bit TIFF files, for machines without a data set of patients."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

__all__ = ["write_radiology_stand_in"]

_SIDE = 160
_FORMATS = (".dcm", ".png", ".tif")
_WHITE = 4095  # 12 bits


def write_radiology_stand_in(
    folder: str | os.PathLike[str], n_patients: int = 24, n_images: int = 4, seed: int = 0
) -> Path:
    """Draw 12-bit radiographs of several patients, one format after the other, and one image in all three formats.

    A radiograph has two lungs with ribs; in those with the label "opacity", a lung has a blurred bright spot. Patients
    differ in anatomy, exposure and noise.

    Parameters
    ----------
    folder : str or path
    n_patients : int, default=24
        Half of them have an opacity.
    n_images : int, default=4
        Number of images of each patient.
    seed : int, default=0

    Returns
    -------
    pathlib.Path
        Manifest with the columns path, label ("clear" or "opacity") and patient. The image in all formats is
        "formats/image.dcm", ".png" and ".tif" next to it.

    Raises
    ------
    MissingDependencyError
        If pydicom is not installed; the message has the install command.

    Examples
    --------
    >>> import tempfile
    >>> from tlfeatures.sources import read_source
    >>> source = read_source(write_radiology_stand_in(tempfile.mkdtemp(), 2, 3), groups="patient")
    >>> source.y.tolist()[::3], source.names[:2]
    (['clear', 'opacity'], ['images/patient00_0.dcm', 'images/patient00_1.png'])
    """
    folder = Path(folder)
    for name in ("images", "formats"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = ["path,label,patient"]
    for patient in range(n_patients):
        rng = np.random.default_rng([seed, patient])
        body = {
            "center": rng.uniform(-0.06, 0.06, 2),
            "width": rng.uniform(0.26, 0.34),
            "height": rng.uniform(0.58, 0.72),
            "ribs": rng.uniform(7, 10),
            "exposure": rng.uniform(0.75, 1.0),
        }
        has_opacity = patient % 2 == 1
        for i in range(n_images):
            pixels = _draw(body, has_opacity, rng)
            name = f"images/patient{patient:02}_{i}{_FORMATS[(patient + i) % 3]}"
            _write(folder / name, pixels, f"patient{patient:02}")
            lines.append(f"{name},{'opacity' if has_opacity else 'clear'},patient{patient:02}")
    for suffix in _FORMATS:
        _write(folder / f"formats/image{suffix}", pixels, "formats")
    manifest = folder / "images.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def _draw(body: dict, has_opacity: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw one radiograph; uint16 (160, 160), at most 4095."""
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    x, y = x - body["center"][0] - rng.normal(0, 0.02), y - body["center"][1] - rng.normal(0, 0.02)
    image = 0.85 - 0.25 * (x**2 + y**2)
    for side in (-1, 1):
        distance = np.hypot((x - side * 0.42) / body["width"], y / body["height"])
        lung = 1 / (1 + np.exp(12 * (distance - 1)))
        ribs = 0.5 + 0.5 * np.sin(body["ribs"] * np.pi * (y + 0.35 * (side * x - 0.42) ** 2))
        image -= lung * (0.5 - 0.12 * ribs)
    if has_opacity:
        side, radius = rng.choice((-1, 1)), rng.uniform(0.12, 0.2)
        spot = np.hypot(x - side * 0.42 - rng.normal(0, 0.05), y - rng.uniform(-0.35, 0.35)) / radius
        image += rng.uniform(0.3, 0.4) * np.exp(-(spot**2))
    image = body["exposure"] * image + rng.normal(0, 0.03, image.shape)
    return np.rint(np.clip(image, 0, 1) * _WHITE).astype(np.uint16)


def _write(path: Path, pixels: np.ndarray, patient: str) -> None:
    from PIL import Image

    if path.suffix != ".dcm":
        Image.fromarray(pixels).save(path)
        return
    path.write_bytes(_encode_dicom(pixels, patient))


def _encode_dicom(pixels: np.ndarray, patient: str) -> bytes:
    """Encode 12-bit pixels as a DICOM file with signed values and an intercept."""
    from tlfeatures._dicom import import_pydicom

    pydicom = import_pydicom()
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid(
        entropy_srcs=[patient, pixels.tobytes().hex()[:999]]
    )
    ds.PatientID, ds.Modality = patient, "DX"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "1024", "US"
    ds.PixelData = (pixels.astype(np.int32) - 1024).astype("<i2").tobytes()
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
