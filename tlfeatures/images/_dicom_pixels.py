"""Pixels of DICOM files: rescaled, windowed, and converted to 8 bits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from tlfeatures._dicom import ignore_warnings, read_dataset
from tlfeatures.errors import MissingDependencyError
from tlfeatures.images._formats import Unreadable, check_size
from tlfeatures.images._pixels import apply_window

__all__ = ["read_dicom"]

_PERCENTILES = (0.01, 0.99)  # black and white of grey images without a window
# Tried in this order, so that pixels are reproducible. GDCM is not used: it aborts the process on some damaged files.
_PLUGINS = ("pillow", "pylibjpeg", "pyjpegls", "pydicom")
_EXTRA = "pip install 'tlfeatures[dicom]'"
_LIBJPEG = ("pylibjpeg", "pip install pylibjpeg pylibjpeg-libjpeg (licence: GPL)")
_DECODERS = {  # transfer syntax -> a plug-in that decodes all of its images, and the command that installs it
    "1.2.840.10008.1.2.4.51": _LIBJPEG,
    "1.2.840.10008.1.2.4.57": _LIBJPEG,
    "1.2.840.10008.1.2.4.70": _LIBJPEG,
    "1.2.840.10008.1.2.4.80": ("pyjpegls", _EXTRA),
    "1.2.840.10008.1.2.4.81": ("pyjpegls", _EXTRA),
    "1.2.840.10008.1.2.4.90": ("pylibjpeg", _EXTRA),
    "1.2.840.10008.1.2.4.91": ("pylibjpeg", _EXTRA),
    "1.2.840.10008.1.2.4.201": ("pylibjpeg", _EXTRA),
    "1.2.840.10008.1.2.4.202": ("pylibjpeg", _EXTRA),
    "1.2.840.10008.1.2.4.203": ("pylibjpeg", _EXTRA),
}
_LEAST_RLE_BYTES = 64  # a byte of run-length encoded data gives at most 64 bytes of pixels


def read_dicom(data: bytes, frame: int = 0, window: tuple[float, float] | None = None) -> Image.Image:
    """Read one frame of a DICOM file as an 8-bit grey or RGB image.

    Parameters
    ----------
    data : bytes
        The file.
    frame : int
        Position of the frame, from 0.
    window : (float, float), optional
        Center and width of the range of values that becomes 0 to 255, after the modality transformation (Hounsfield
        units for CT). None is the VOI LUT or the first window of the file; without these, the range is the full one for
        unsigned 8-bit values that are not rescaled, and otherwise the 1st to the 99th percentile of the values. Not
        used for color images.

    Raises
    ------
    Unreadable
        If the file cannot be decoded; the message is the reason, without any content of the file.
    """
    try:
        with ignore_warnings():
            return _read(read_dataset(io.BytesIO(data)), frame, window)
    except Unreadable:
        raise
    except MissingDependencyError as e:
        raise Unreadable(str(e)) from None
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise Unreadable(f"damaged or unsupported DICOM file: {reason[:300]}") from e


def _read(ds: Any, frame: int, window: tuple[float, float] | None) -> Image.Image:
    from pydicom.pixels import apply_color_lut

    if not any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unreadable("DICOM file without pixel data, such as a report, a directory or a header")
    n_frames = int(ds.get("NumberOfFrames") or 1)
    if frame >= n_frames:
        raise Unreadable(
            f"has {n_frames} frame(s), counted from 0, so there is no frame {frame}: expected at most [{n_frames - 1}]"
        )
    check_size((int(ds.get("Columns") or 0), int(ds.get("Rows") or 0)))
    pixels = _decode_frame(ds, frame)
    photometric = ds.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        depth = ds.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(_scale(apply_color_lut(pixels, ds)[..., :3], depth))
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        return Image.fromarray(_scale(pixels, ds.BitsStored))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or pixels.ndim != 2:
        raise Unreadable(
            f"DICOM images with the photometric interpretation {photometric!r} are not supported"
        )
    _copy_frame_attributes(ds, frame)
    return Image.fromarray(_convert_grey(pixels, ds, window))


def _decode_frame(ds: Any, frame: int) -> np.ndarray:
    """Decode one frame with the first plug-in of pydicom that can."""
    from pydicom.pixels import get_decoder, pixel_array

    syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    if syntax is None:  # a file without a header
        syntax = _guess_transfer_syntax(ds)
        ds.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_encapsulated:
        return pixel_array(ds, index=frame)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Unreadable(f"the transfer syntax {syntax.name!r} ({syntax}) is not supported") from None
    _check_encapsulated_size(ds, syntax)
    plugins = [name for name in _PLUGINS if name in decoder.available_plugins]
    failure: Exception | None = None
    for name in plugins:
        try:
            return pixel_array(ds, index=frame, decoding_plugin=name)
        except Exception as e:
            failure = failure or e
            if "decompression bomb" in str(e):
                break
    plugin, command = _DECODERS.get(str(syntax), ("", ""))
    if plugin not in plugins and command:
        raise Unreadable(f"the transfer syntax {syntax.name!r} needs a decoder: {command}") from failure
    raise failure or Unreadable(
        f"no plug-in of pydicom decodes the transfer syntax {syntax.name!r} ({syntax})"
    )


def _guess_transfer_syntax(ds: Any) -> Any:
    from pydicom import uid
    from pydicom.dataset import FileMetaDataset

    is_implicit, is_little_endian = ds.original_encoding
    ds.file_meta = getattr(ds, "file_meta", None) or FileMetaDataset()
    if not is_little_endian:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


def _check_encapsulated_size(ds: Any, syntax: Any) -> None:
    """Raise an error if run-length encoded data are too short for the image, before pydicom allocates its pixels."""
    from pydicom.uid import RLELossless

    n_bytes = ds.Rows * ds.Columns * ds.SamplesPerPixel * (ds.BitsAllocated // 8)
    if syntax == RLELossless and n_bytes > _LEAST_RLE_BYTES * len(ds.PixelData):
        raise Unreadable(f"damaged DICOM file: too few bytes for {ds.Columns} x {ds.Rows} pixels")


def _scale(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Convert unsigned color values of ``depth`` bits to uint8."""
    if depth == 8:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    return np.rint(np.clip(pixels / (2**depth - 1), 0, 1) * 255).astype(np.uint8)


def _copy_frame_attributes(ds: Any, frame: int) -> None:
    """Copy the rescaling and the window of a frame from the functional groups of an enhanced file to the data set."""
    per_frame = (ds.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in [*(ds.get("SharedFunctionalGroupsSequence") or [])[:1], *per_frame]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                for element in item:
                    ds[element.tag] = element


def _convert_grey(pixels: np.ndarray, ds: Any, window: tuple[float, float] | None) -> np.ndarray:
    """Convert stored values to uint8: modality transformation, then window; MONOCHROME1 is inverted.

    Both are computed once for each value that may occur, not for each pixel: this is faster and needs less memory.
    """
    from pydicom.pixels import apply_modality_lut

    levels, positions, counts = _count_levels(pixels)
    if ds.get("RescaleSlope") is None or ds.get("RescaleIntercept") is None:
        for name in ("RescaleSlope", "RescaleIntercept"):
            ds.pop(name, None)
    values = np.asarray(apply_modality_lut(levels, ds), np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("damaged DICOM file: its rescaled values are NaN or infinite")
    grey = apply_window(values, *window) if window else _apply_voi(values, ds)
    if grey is None and levels.dtype == np.uint8 and np.array_equal(values, levels):
        grey = values / (2**ds.BitsStored - 1)
    elif grey is None:
        counts[_is_padding(levels, ds)] = 0
        low, high = _find_percentiles(values, counts)
        grey = (values - low) / (high - low) if high > low else np.zeros(len(values))
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)[positions]


def _count_levels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values that may occur, the position of each pixel among them, and their counts."""
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind not in "iu" or int(high) - int(low) > 65535:
        levels, positions, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        return levels, positions.reshape(pixels.shape), counts
    positions = (pixels.astype(np.int64) - int(low)).astype(np.uint16)
    counts = np.bincount(positions.ravel(), minlength=int(high) - int(low) + 1)
    return np.arange(int(low), int(high) + 1, dtype=pixels.dtype), positions, counts


def _apply_voi(values: np.ndarray, ds: Any) -> np.ndarray | None:
    """Apply the first VOI LUT or window of the file (DICOM PS3.3, C.11.2); None if it has no valid one.

    ``pydicom.pixels.apply_voi_lut`` is not used, because LUTs with 8-bit entries overflow in it.
    """
    for item in (ds.get("VOILUTSequence") or [])[:1]:
        n, first, bits = item.LUTDescriptor
        table = item.LUTData
        if isinstance(table, bytes):
            table = np.frombuffer(table, "<u2" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
        table = np.asarray(table)[: n or 65536]
        return table[np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.intp)] / (2**bits - 1)
    center, width = (_get_first(ds, name) for name in ("WindowCenter", "WindowWidth"))
    function = str(ds.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or not width >= (function == "LINEAR") or width <= 0:
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return apply_window(values, center, width) if width else (values > center).astype(float)


def _get_first(ds: Any, name: str) -> float | None:
    """Return the first value of an element, or None if it has no finite one."""
    value = ds.get(name)
    value = value[0] if value is not None and ds[name].VM > 1 else value
    return float(value) if value not in (None, "") and np.isfinite(float(value)) else None


def _is_padding(levels: np.ndarray, ds: Any) -> np.ndarray:
    """Return a mask of the padding values, which mark pixels outside the image."""
    low = ds.get("PixelPaddingValue")
    if low is None:
        return np.zeros(len(levels), bool)
    limit = ds.get("PixelPaddingRangeLimit")
    low, high = sorted((int(low), int(low if limit is None else limit)))
    return (levels >= low) & (levels <= high)


def _find_percentiles(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the values at two percentiles of the pixels, by nearest rank."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    if not cumulative[-1]:
        return 0.0, 0.0
    ranks = [np.searchsorted(cumulative, q * cumulative[-1]) for q in _PERCENTILES]
    low, high = values[order][ranks]
    return (low, high) if high > low else (values[counts > 0].min(), values[counts > 0].max())
