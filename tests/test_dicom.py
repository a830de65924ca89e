"""DICOM files: pixels, windows, frames, groups, and damaged files."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.dicom_helpers import encode_dicom, make_dataset, make_item
from tests.warning_helpers import of_test
from tlfeatures import CNNFeatures, FeatureSearchCV, FineTuneClassifier, _files
from tlfeatures.cli import main
from tlfeatures.errors import ImageReadError, InvalidParameterError, SourceError, UnknownNameError
from tlfeatures.images import Decoder, Images, check_images
from tlfeatures.sources import _dicom_groups, read_dicom_groups, read_source

pydicom = pytest.importorskip("pydicom", reason="needs pydicom, the extra `dicom`")
FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"


def draw_pixels(low, high, shape, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape)


DEEP = draw_pixels(0, 4096, (20, 24)).astype(np.uint16)
SIGNED = (DEEP.astype(np.int16) - 1024).astype(np.int16)


def read(data, frame=0, **options):
    """Decode without resizing; uint8 (height, width, 3)."""
    data = str(data) if isinstance(data, pathlib.Path) else data
    item = f"{data}[{frame}]" if frame else data
    size = (1, 1)
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(file, force=True, stop_before_pixels=True)
        size = (ds.Rows, ds.Columns)
        return Images.of([item]).decode(0, Decoder(size, **options))[1]


def grey(data, **options):
    pixels = read(data, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def reason(data, **options):
    with pytest.raises(ImageReadError) as caught:
        Images.of([data]).decode(0, Decoder((8, 8), **options))
    return caught.value.reason


def by_hand(ds, frame=None):
    """Apply pydicom's functions to the stored values, and scale the result to 8 bits."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    values = apply_modality_lut(pixel_array(ds, index=frame), ds)
    windowed = apply_voi_lut(values, ds)
    low, high = -(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1
    if not ds.PixelRepresentation:
        low, high = 0, 2**ds.BitsStored - 1
    if "RescaleSlope" in ds:
        low, high = (v * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for v in (low, high))
    scaled = (windowed - low) / (high - low)
    return np.rint((1 - scaled if ds.PhotometricInterpretation == "MONOCHROME1" else scaled) * 255)


# --- pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm",
     "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm",
     "examples_overlay.dcm"],
)  # fmt: skip
def test_example_files_with_a_window_equal_the_functions_of_pydicom(name):
    ds = pydicom.dcmread(FILES / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_hand(ds)
    assert expected.std() > 1
    np.testing.assert_array_equal(grey(FILES / name), expected)


@pytest.mark.parametrize(
    "name",
    ["examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_jpeg2k.dcm", "SC_rgb_jpeg_dcmtk.dcm",
     "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm", "ExplVR_BigEnd.dcm", "SC_rgb_jls_lossy_line.dcm",
     "GDCMJ2K_TextGBR.dcm"],
)  # fmt: skip
def test_color_example_files_equal_the_pixels_of_pydicom(name):
    expected = pydicom.pixels.pixel_array(FILES / name, index=0)
    assert expected.shape[-1] == 3
    np.testing.assert_array_equal(read(FILES / name), expected)


@pytest.mark.parametrize(
    "name, limit", [("SC_rgb_rle_16bit.dcm", 65535), ("SC_rgb_rle_32bit.dcm", 2**32 - 1)]
)
def test_deep_color_is_scaled_to_8_bits(name, limit):
    expected = np.rint(pydicom.pixels.pixel_array(FILES / name) / limit * 255)
    np.testing.assert_array_equal(read(FILES / name), expected)


def test_palette_example_file_equals_the_function_of_pydicom():
    ds = pydicom.dcmread(FILES / "examples_palette.dcm")
    table = pydicom.pixels.apply_color_lut(ds.pixel_array, ds)
    assert table.dtype == np.uint16
    np.testing.assert_array_equal(read(FILES / "examples_palette.dcm"), np.rint(table / 257))


def test_8_bit_grey_and_1_bit_masks_keep_their_values():
    np.testing.assert_array_equal(
        grey(FILES / "image_dfl.dcm"), pydicom.dcmread(FILES / "image_dfl.dcm").pixel_array
    )
    mask = pydicom.dcmread(FILES / "liver_1frame.dcm").pixel_array
    np.testing.assert_array_equal(grey(FILES / "liver_1frame.dcm"), mask * 255)


def test_ct_without_a_window_spans_its_percentiles():
    ds = pydicom.dcmread(FILES / "CT_small.dcm")
    values = ds.pixel_array.astype(float)
    low, high = np.quantile(values[values != ds.PixelPaddingValue], [0.01, 0.99], method="inverted_cdf")
    expected = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
    np.testing.assert_array_equal(grey(FILES / "CT_small.dcm"), expected)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    "values", [DEEP, SIGNED, DEEP.astype(np.uint32)], ids=["12 bits", "signed", "32 bits"]
)
def test_made_files_equal_the_functions_of_pydicom(values, function, photometric):
    ds = make_dataset(
        values,
        PhotometricInterpretation=photometric,
        RescaleSlope="2",
        RescaleIntercept="-1000",
        WindowCenter=["1200", "1"],
        WindowWidth=["900", "2"],
        VOILUTFunction=function,
    )
    np.testing.assert_array_equal(grey(encode_dicom(ds)), by_hand(ds))


def test_monochrome1_is_inverted():
    normal, inverted = (grey(encode_dicom(DEEP, PhotometricInterpretation=f"MONOCHROME{i}")) for i in (2, 1))
    assert np.abs(normal.astype(int) + inverted - 255).max() <= 1 and normal.std() > 50


def test_lookup_tables_are_applied():
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = np.linspace(0, 1023, 256).astype("<u2")[::-1].tobytes()
    voi = [make_item(LUTDescriptor=[256, 0, 10], LUTData=table)]
    voi = make_dataset(steps.astype(np.uint16), VOILUTSequence=voi, WindowCenter="3", WindowWidth="2")
    table = np.arange(0, 25600, 100, dtype="<u2").tobytes()
    modality = [make_item(LUTDescriptor=[256, 0, 16], LUTData=table, ModalityLUTType="US")]
    modality = make_dataset(steps, ModalityLUTSequence=modality, WindowCenter="12800", WindowWidth="6000")
    for data, limit in ((encode_dicom(voi), 1023), (encode_dicom(modality), 65535)):
        ds = pydicom.dcmread(io.BytesIO(data))
        values = pydicom.pixels.apply_modality_lut(steps, ds)
        expected = np.rint(pydicom.pixels.apply_voi_lut(values, ds) / limit * 255)
        np.testing.assert_array_equal(grey(data), expected)


def test_a_lookup_table_of_8_bit_entries_for_12_bit_values():
    table = (np.arange(4096, dtype="<u2") // 16).tobytes()
    data = encode_dicom(DEEP, VOILUTSequence=[make_item(LUTDescriptor=[4096, 0, 8], LUTData=table)])
    np.testing.assert_array_equal(grey(data), DEEP // 16)


def test_padding_does_not_move_the_percentiles():
    padded = SIGNED.copy()
    padded[:8] = -2000
    inside = grey(encode_dicom(SIGNED[8:]))
    np.testing.assert_array_equal(grey(encode_dicom(padded, PixelPaddingValue=-2000))[8:], inside)
    assert (grey(encode_dicom(padded))[8:] != inside).mean() > 0.5


@pytest.mark.parametrize("width", ["0", "-5"])
def test_an_invalid_window_in_the_file_is_ignored(width):
    data = encode_dicom(DEEP, WindowCenter="5", WindowWidth=width)
    np.testing.assert_array_equal(grey(data), grey(encode_dicom(DEEP)))


def test_rescale_and_window_of_each_frame():
    frames = np.stack([DEEP, DEEP, DEEP])
    groups = [
        make_item(
            PixelValueTransformationSequence=[
                make_item(RescaleSlope=str(k), RescaleIntercept="0", RescaleType="US")
            ],
            FrameVOILUTSequence=[make_item(WindowCenter="2000.5", WindowWidth="2001")],
        )
        for k in (1, 2, 3)
    ]
    data = encode_dicom(frames, PerFrameFunctionalGroupsSequence=groups)
    shared = encode_dicom(frames, SharedFunctionalGroupsSequence=groups[1:2])
    for k, content in ((1, data), (2, shared)):
        expected = encode_dicom(DEEP * np.uint16(k), WindowCenter="2000.5", WindowWidth="2001")
        np.testing.assert_array_equal(grey(content), grey(expected))


def test_every_source_of_a_file_gives_the_same_pixels(tmp_path):
    data = encode_dicom(DEEP)
    for name in ("a.dcm", "b.DCM", "IM0001", "c.jpg"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "table.csv").write_text("path,label\na.dcm,1\nIM0001,2\n")
    source = read_source(tmp_path / "table.csv")
    with pytest.warns(UserWarning, match=r"1 file\(s\) .* not images.*table.csv"):
        folder = read_source(tmp_path)
    assert folder.names == ["a.dcm", "b.DCM", "c.jpg", "IM0001"]
    images = Images.of([*folder.images, *source.images, data, read_source(tmp_path / "IM0001").images[0]])
    decoded = [images.decode(i, Decoder((20, 24)))[1] for i in range(len(images))]
    assert len({pixels.tobytes() for pixels in decoded}) == 1 and decoded[0].std() > 50
    assert len({images.key(i) for i in range(len(images))}) == 1


def test_a_file_without_preamble_is_read():
    data = encode_dicom(DEEP)[128 + 4 :]
    np.testing.assert_array_equal(grey(data), grey(encode_dicom(DEEP)))


# --- frames ------------------------------------------------------------------------------------------


def test_frames_are_chosen_by_brackets(tmp_path):
    frames = draw_pixels(0, 256, (3, 8, 8)).astype(np.uint8)
    (tmp_path / "scan.dcm").write_bytes(encode_dicom(frames))
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    for suffix in ("dcm", "tif"):
        (tmp_path / "table.csv").write_text(f"path\nscan.{suffix}[2]\nscan.{suffix}[0]\nscan.{suffix}\n")
        images = Images.of(read_source(tmp_path / "table.csv").images)
        for row, frame in ((0, 2), (1, 0), (2, 0)):
            np.testing.assert_array_equal(images.decode(row, Decoder((8, 8)))[1][..., 0], frames[frame])
        keys = [images.key(i) for i in range(3)]
        assert keys[0] != keys[1] == keys[2] and images.keys()[0].tobytes() == b"".join(keys)
        path = str(tmp_path / f"scan.{suffix}")
        assert "has 3 frame(s), counted from 0, so there is no frame 3" in reason(f"{path}[3]")
        assert read_source(f"{path}[1]").images == [f"{path}[1]"]
    assert "has 1 frame(s)" in reason(f"{FILES / 'MR_small.dcm'}[1]")
    assert reason(f"{tmp_path / 'gone.dcm'}[1]") == "no such file"


def test_a_file_name_that_ends_with_a_number_in_brackets(tmp_path):
    (tmp_path / "a[1]").write_bytes(encode_dicom(DEEP))
    (tmp_path / "a").write_bytes(b"another file")
    np.testing.assert_array_equal(
        Images.of([tmp_path / "a[1]"]).decode(0, Decoder((20, 24)))[1], read(encode_dicom(DEEP))
    )


def test_frames_of_one_file_have_embeddings_of_their_own(tmp_path, store):
    frames = draw_pixels(0, 256, (2, 32, 32)).astype(np.uint8)
    (tmp_path / "scan.dcm").write_bytes(encode_dicom(frames))
    paths = [f"{tmp_path / 'scan.dcm'}[{i}]" for i in (1, 0)]
    cnn = CNNFeatures("tiny", image_size=32, cache=store)
    np.testing.assert_allclose(cnn.fit_transform(paths), cnn.fit_transform(frames[[1, 0]]), atol=1e-5)


# --- window ------------------------------------------------------------------------------------------


def make_deep_files(folder, values):
    """Write one grey image as 16-bit PNG, 16-bit TIFF, signed DICOM with intercept, and unsigned DICOM."""
    Image.fromarray(values).save(folder / "a.png")
    Image.fromarray(values).save(folder / "a.tif")
    signed = (values.astype(np.int32) - 20000).astype(np.int16)
    (folder / "a.dcm").write_bytes(encode_dicom(signed, RescaleSlope="1", RescaleIntercept="20000"))
    (folder / "b.dcm").write_bytes(encode_dicom(values, WindowCenter="7", WindowWidth="3"))
    return [str(folder / name) for name in ("a.png", "a.tif", "a.dcm", "b.dcm")]


def test_one_image_in_four_formats_gives_one_embedding_under_one_window(tmp_path):
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 40000, (9, 9)).astype(np.float32)).resize(
        (64, 64), Image.Resampling.BICUBIC
    )
    values = np.clip(np.asarray(smooth), 0, 40000).astype(np.uint16)
    paths = make_deep_files(tmp_path, values)
    cnn = CNNFeatures("tiny", image_size=32, cache=None, window=(20000, 30000))
    rows = cnn.fit_transform([*paths, values, Image.fromarray(values)])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (unit @ unit.T).min() >= 0.9999
    assert {recipe["window"] == [20000, 30000] for recipe in cnn.recipes_} == {True}
    pixels = Images.of([*paths, values]).decode(2, Decoder((64, 64), window=(20000, 30000)))[1][..., 0]
    expected = np.rint(np.clip((values - 5000.0) / 30000, 0, 1) * 255)
    np.testing.assert_array_equal(pixels, expected)


def test_window_is_in_hounsfield_units():
    expected = np.rint(np.clip((SIGNED.astype(float) + 160) / 400, 0, 1) * 255)
    data = encode_dicom(DEEP, RescaleSlope="1", RescaleIntercept="-1024", WindowCenter="1", WindowWidth="9")
    np.testing.assert_array_equal(grey(data, window=(40, 400)), expected)


def test_window_does_not_change_8_bit_images_and_floats():
    eight = draw_pixels(0, 256, (8, 8)).astype(np.uint8)
    for array in (eight, eight.astype(np.int64), eight / 255):
        np.testing.assert_array_equal(
            Images.of(array[None]).decode(0, Decoder((8, 8), window=(3, 1)))[1][..., 0], eight
        )


def test_window_enters_the_recipe_only_when_set():
    plain = Decoder((8, 8)).recipe()
    assert "window" not in plain
    assert Decoder((8, 8), window=(40, 400)).recipe() == {**plain, "window": [40.0, 400.0]}


@pytest.mark.parametrize(
    "value", [400, (40,), (40, 0), (40, -1), (np.nan, 1), ("40", "400"), (1, 2, 3), True]
)
def test_invalid_window(value):
    match = r"`window` must be None or \(center, width\), two numbers with a positive width; got .*Hounsfield"
    for make in (lambda: Decoder((8, 8), window=value), lambda: CNNFeatures("tiny", window=value).fit([b""])):
        with pytest.raises(ValueError, match=match):
            make()


def test_window_and_max_value_exclude_each_other():
    with pytest.raises(
        InvalidParameterError, match=r"`window` and `max_value` both state .* Pass one of them"
    ):
        CNNFeatures("tiny", window=(40, 400), max_value=4095).fit([b""])


def test_window_in_the_search_and_in_fine_tuning():
    y = np.arange(12) % 2
    deep = draw_pixels(900, 1100, (12, 32, 32)).astype(np.uint16)
    deep[y == 1, :16] += 200
    eight = np.rint(np.clip((deep - 800.0) / 500, 0, 1) * 255).astype(np.uint8)
    window = (1050, 500)
    options = {
        "models": "tiny",
        "image_sizes": 32,
        "layers": "last",
        "heads": ["ridge"],
        "resize": "stretch",
        "cv": 2,
    }
    options = options | {"layers": None, "poolings": "avg", "cache": None}
    search = FeatureSearchCV(**options, window=window).fit(deep, y)
    assert search.best_estimator_[0].window == window
    assert search.best_score_ == FeatureSearchCV(**options).fit(eight, y).best_score_
    quick = {
        "model": "tiny",
        "image_size": 32,
        "start": "linear",
        "epochs": 0,
        "random_state": 0,
        "cache": None,
    }
    tuned = FineTuneClassifier(**quick, window=window).fit(deep, y)
    expected = FineTuneClassifier(**quick).fit(eight, y)
    np.testing.assert_allclose(tuned.predict_proba(deep), expected.predict_proba(eight), atol=1e-5)


# --- files that cannot be read -----------------------------------------------------------------------


def test_reasons_for_unreadable_files():
    assert "without pixel data" in reason(bytes(128) + b"DICM")
    assert "without pixel data" in reason(str(FILES / "test-SR.dcm"))
    assert "less than expected (8130 vs 8192 bytes)" in reason(str(FILES / "MR_truncated.dcm"))
    wrong = make_dataset(DEEP, Rows=4000)
    assert "less than expected" in reason(encode_dicom(wrong))
    assert "more than the pixel limit" in reason(encode_dicom(make_dataset(DEEP, Rows=65535, Columns=65535)))
    assert "'CMYK' are not supported" in reason(encode_dicom(DEEP, PhotometricInterpretation="CMYK"))
    video = make_dataset(DEEP, PixelData=pydicom.encaps.encapsulate([bytes(100)]))
    video.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    assert (
        "transfer syntax 'MPEG2 Main Profile / Main Level' (1.2.840.10008.1.2.4.100) is not supported"
        in reason(encode_dicom(video))
    )


@pytest.mark.skipif(
    bool(importlib.util.find_spec("libjpeg")), reason="the plug-in that decodes them is installed"
)
@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_error_names_the_command_that_installs_a_decoder(name):
    text = reason(str(FILES / name))
    assert "needs a decoder: pip install pylibjpeg pylibjpeg-libjpeg (licence: GPL)" in text
    assert "JPEG" in text


def test_run_length_encoding_too_short_for_its_size_is_not_allocated():
    ds = pydicom.dcmread(FILES / "MR_small_RLE.dcm")
    ds.Rows, ds.Columns = 13000, 13000
    assert "too few bytes for 13000 x 13000 pixels" in reason(encode_dicom(ds))


def test_damaged_files_raise_a_named_error_only():
    rng = np.random.default_rng(0)
    names = [
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "image_dfl.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "examples_palette.dcm",
    ]
    readable = 0
    for i in range(200):
        data = bytearray((FILES / names[i % len(names)]).read_bytes())
        if i % 3 == 0:
            data = data[: rng.integers(132, len(data))]
        else:
            for _ in range(rng.integers(1, 12)):
                data[rng.integers(132, min(len(data), 3000))] = rng.integers(256)
        try:
            Images.of([bytes(data)]).decode_with_note(0, Decoder((8, 8)))
            readable += 1
        except ImageReadError as e:
            assert e.name == "X[0]" and e.reason
    assert readable < 150


def test_broken_files_cost_their_rows_and_are_named(tmp_path, store):
    for i in range(4):
        (tmp_path / f"{i}.dcm").write_bytes(encode_dicom(DEEP + np.uint16(i)))
    (tmp_path / "1.dcm").write_bytes((tmp_path / "1.dcm").read_bytes()[:300])
    (tmp_path / "3.dcm").write_bytes(b"")
    paths = read_source(tmp_path).images
    cnn = CNNFeatures("tiny", image_size=32, cache=store, on_error="nan")
    with pytest.warns(UserWarning, match=r"2 of 4 images could not be read.*1\.dcm"):
        rows = cnn.fit_transform(paths)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True]
    table = check_images(paths)
    assert table["image"].tolist() == [paths[1], paths[3]] and (table["problem"] == "error").all()
    with pytest.raises(ImageReadError, match=r"2 of 4 images(.|\n)*1\.dcm(.|\n)*3\.dcm"):
        cnn.set_params(on_error="raise").fit_transform(paths)


def test_without_pydicom_the_error_names_the_extra(tmp_path):
    (tmp_path / "a.dcm").write_bytes(encode_dicom(DEEP))
    code = """
import sys
sys.modules["pydicom"] = None
from tlfeatures.images import Images, Decoder
from tlfeatures.sources import read_dicom_groups
for call in (lambda: Images.of(["a.dcm"]).decode(0, Decoder((8, 8))), lambda: read_dicom_groups(["a.dcm"])):
    try:
        call()
    except (OSError, ImportError) as e:
        print(type(e).__name__, e)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ImageReadError", "MissingDependencyError"]
    assert all("pip install 'tlfeatures[dicom]'" in line for line in lines)


def test_warnings_of_pydicom_are_not_shown_and_those_of_the_user_are():
    path = str(FILES / "SC_rgb_jpeg.dcm")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pydicom.dcmread(path)
        assert len(of_test(caught)) == 1
        Images.of([path]).decode(0, Decoder((8, 8)))
        assert check_images([path] * 3).empty
        assert len(of_test(caught)) == 1
        pydicom.dcmread(path)
        assert len(of_test(caught)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(pathlib.Path(path))


# --- groups ------------------------------------------------------------------------------------------


@pytest.fixture
def patients(tmp_path):
    """Class folders of nine images of three patients."""
    for i in range(9):
        folder = tmp_path / "scans" / ("sick" if i % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw_pixels(0, 2000, (16, 16), seed=i).astype(np.uint16)
        data = encode_dicom(
            pixels, PatientID=f"SECRET-{i // 3}", PatientName=f"SECRET^{i}", StudyInstanceUID=f"1.2.{i // 2}"
        )
        (folder / f"{i}.dcm").write_bytes(data)
    return tmp_path / "scans"


def test_groups_by_patient_and_study(patients):
    source = read_source(patients, groups="dicom:PatientID")
    numbers = np.array([int(pathlib.Path(name).stem) for name in source.names])
    assert len(np.unique(source.groups)) == 3 and source.groups.dtype.kind == "i"
    for group in np.unique(source.groups):
        assert len(np.unique(numbers[source.groups == group] // 3)) == 1
    studies = read_dicom_groups(source.images, "StudyInstanceUID")
    assert len(np.unique(studies)) == 5
    assert read_dicom_groups([f"{source.images[0]}[2]", source.images[0]]).tolist() == [0, 0]


def test_errors_of_groups(patients, tmp_path):
    paths = read_source(patients).images
    with pytest.raises(
        UnknownNameError, match=r"Unknown DICOM attribute 'PatientId'. Did you mean 'PatientID'"
    ):
        read_source(patients, groups="dicom:PatientId")
    with pytest.raises(
        SourceError, match=r"9 of 9 files have no AccessionNumber, the first .*another keyword"
    ) as caught:
        read_dicom_groups(paths, "AccessionNumber")
    assert "SECRET" not in str(caught.value)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"a.png' is not a DICOM file; groups by dicom:PatientID"):
        read_dicom_groups([*paths, tmp_path / "a.png"])


def test_a_broken_file_has_a_group_of_its_own(patients):
    paths = read_source(patients).images
    for path, size in ((paths[1], 0), (paths[2], 200), (paths[3], 20)):
        pathlib.Path(path).write_bytes(pathlib.Path(path).read_bytes()[:size])
    groups = read_dicom_groups(paths)
    assert all((groups == groups[i]).sum() == 1 for i in (1, 2, 3)) and len(np.unique(groups)) == 6


def test_groups_are_read_again_when_the_storage_fails(patients, monkeypatch):
    paths = read_source(patients).images
    expected, calls = read_dicom_groups(paths), []

    def fail_once(path, mode):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return open(path, mode)

    monkeypatch.setattr(_dicom_groups, "open", fail_once, raising=False)
    monkeypatch.setattr(_files, "_RETRY_SECONDS", (0, 0, 0))
    np.testing.assert_array_equal(read_dicom_groups(paths), expected)
    assert calls[0] == calls[1]


def test_command_line_groups_by_patient_without_printing_identifiers(patients, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = [
        "--model",
        "tiny",
        "--image-size",
        "32",
        "--layer",
        "block3_pw_relu",
        "--pooling",
        "avg",
        "--resize",
        "stretch",
    ]
    command = [
        "select",
        str(patients),
        "-o",
        "report",
        *quick,
        "--head",
        "ridge",
        "--cv",
        "3",
        "--cache",
        "none",
    ]
    assert main([*command, "--groups", "dicom:PatientID", "--window", "-100,3000"]) == 0
    printed = "".join(capsys.readouterr())
    written = [
        path.read_text(errors="ignore") for path in pathlib.Path("report").rglob("*") if path.is_file()
    ]
    assert not any("SECRET" in text for text in [printed, *written])
    assert any("--window -100.0,3000.0" in text for text in written)
    assert main([*command, "--window", "40"]) == 2
    assert "--window '40': expected CENTER,WIDTH, such as 40,400" in capsys.readouterr().err
