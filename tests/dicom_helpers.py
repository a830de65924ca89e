"""Write small DICOM files for tests."""

from __future__ import annotations

import io

import numpy as np

CT = "1.2.840.10008.5.1.4.1.1.2"


def make_dataset(pixels, **attributes):
    """Make a CT data set of grey pixels (height, width) or frames (n, height, width), uncompressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    pixels = np.asarray(pixels)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CT
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=["tlfeatures"])
    is_color = pixels.shape[-1] == 3
    ds.SamplesPerPixel = 3 if is_color else 1
    ds.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    if is_color:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[:2] if is_color else pixels.shape[-2:]
    if pixels.ndim == 3 and not is_color:
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def make_item(**attributes):
    """Make an item of a sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def encode_dicom(pixels, **attributes):
    """Encode pixels as the bytes of a DICOM file."""
    ds = pixels if hasattr(pixels, "file_meta") else make_dataset(pixels, **attributes)
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
