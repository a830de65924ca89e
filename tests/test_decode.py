"""Decoding of files: fidelity, formats, damaged files, bit depth, contrast and the recipe."""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL import __version__ as pillow_version

from tests.image_helpers import (  # noqa: F401
    INVERSE_TRANSPOSITION,
    QUADRANTS,
    RESIZED_SAMPLE,
    SAMPLE,
    SHARED,
    D,
    encode,
    photo,
    pixels,
    png,
    python,
    quiet,
    reason,
)
from tests.warning_helpers import of_test
from tlfeatures.errors import ImageReadError, LowContrastImagesWarning, UnknownNameError
from tlfeatures.fingerprints import file_key
from tlfeatures.images import Decoder, Images, check_images, decode_batches, decoder_recipe, probe_pixels
from tlfeatures.images import _decode as decode_module

# --- fidelity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(500, 375), (90, 130), (64, 64), (1, 1), (3, 700)])
@pytest.mark.parametrize("decode", ["scaled", "exact"])
def test_stretch_and_bilinear_agree_with_pillow(tmp_path, size, decode):
    path = tmp_path / "a.jpg"
    photo(*size).save(path, quality=80)
    with Image.open(path) as im:
        expected = np.asarray(im.convert("RGB").resize((224, 160), Image.Resampling.BILINEAR))
    decoded = Images.of([path]).decode(0, Decoder((160, 224), decode=decode))[1]
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_pixels_agree_with_keras_load_img(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
    files = {"a.jpg": photo(300, 200), "b.png": photo(50, 80), "c.gif": photo(90, 70).convert("P")}
    for name, im in files.items():
        im.save(tmp_path / name)
        expected = keras.utils.load_img(
            tmp_path / name, color_mode="rgb", target_size=(96, 128), interpolation="bilinear"
        )
        np.testing.assert_array_equal(pixels([tmp_path / name], Decoder((96, 128))), np.asarray(expected))


def test_real_photographs_match_pillow():
    files = sorted((SHARED / "data" / "pets").glob("*/*"))[::20]
    if not files:
        pytest.skip("../shared/data/pets is absent")
    for path in files:
        with Image.open(path) as im:
            expected = np.asarray(im.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pixels([path], Decoder((224, 224))), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1000, 700), (3000, 260), (130, 1999), (449, 449)])
def test_scaled_decoding_keeps_at_least_twice_the_required_size(orientation, resize, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("L", size), "JPEG", exif=exif)
    decoder = Decoder((48, 112), resize)
    im = decode_module.open_image(data)
    is_transposed = orientation > 4
    required = decode_module._compute_size(size[::-1] if is_transposed else size, decoder)
    decode_module._shrink_while_decoding(im, decoder)
    decoded = im.size[::-1] if is_transposed else im.size
    full = size[::-1] if is_transposed else size
    assert decoded == full or (decoded[0] >= 2 * required[0] and decoded[1] >= 2 * required[1])
    could_halve = all(-(-n // 2) >= 2 * m for n, m in zip(decoded, required, strict=True))
    assert not could_halve or full[0] / decoded[0] > 7  # the decoder shrinks by a factor of at most 8


def test_scaled_is_close_to_exact_and_identical_on_small_files():
    small, large = encode(photo(440, 440), "JPEG"), encode(photo(2000, 1500), "JPEG")
    scaled, exact = Decoder((112, 112)), Decoder((112, 112), decode="exact")
    np.testing.assert_array_equal(pixels([small], scaled), pixels([small], exact))
    a, b = pixels([large], scaled), pixels([large], exact)
    assert np.abs(a - b).max() > 0 and np.abs(a - b).mean() < 1.0


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = SAMPLE if orientation == 1 else SAMPLE.transpose(INVERSE_TRANSPOSITION[orientation])
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(fmt, {})
    if orientation in (6, 8):  # the inverse rotation is the other one
        stored = SAMPLE.transpose(INVERSE_TRANSPOSITION[14 - orientation]).transpose(3)
    data = encode(stored, fmt, exif=exif, **options)
    assert np.abs(pixels([data]) - RESIZED_SAMPLE).max() <= 2
    in_memory = Image.open(io.BytesIO(data))
    assert np.abs(pixels([in_memory]) - RESIZED_SAMPLE).max() <= 2


def test_images_with_damaged_exif_are_decoded():
    data = encode(SAMPLE, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.abs(pixels([data]) - RESIZED_SAMPLE).max() <= 2


def test_crop_takes_the_center_and_pad_keeps_the_whole_image():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert pixels([wide], Decoder((10, 10), "crop", "nearest")).min() == 255
    padded = pixels([wide | np.uint8(1)], Decoder((30, 30), "pad", "nearest"))
    assert padded[:10].max() == padded[20:].max() == 0  # black above and below
    assert padded[10:20].min() > 0
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    assert pixels([tall], Decoder((10, 10), "crop", "nearest")).min() == 255


def test_crop_is_resize_by_the_short_side_then_center():
    im = photo(300, 200)
    expected = im.resize((120, 80), Image.Resampling.BILINEAR).crop((20, 0, 100, 80))
    np.testing.assert_array_equal(pixels([im], Decoder((80, 80), "crop")), np.asarray(expected))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (7, 5)])
def test_extreme_shapes_are_decoded(resize, size):
    im = Image.new("RGB", size, (10, 20, 30))
    decoded = pixels([im], Decoder((224, 160), resize))
    assert decoded.shape == (224, 160, 3) and decoded.reshape(-1, 3).max(axis=0).tolist() == [10, 20, 30]


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_interpolations_agree_with_pillow(name):
    im = photo(40, 30)
    expected = im.resize((20, 25), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(pixels([im], Decoder((25, 20), interpolation=name)), np.asarray(expected))


# --- files -----------------------------------------------------------------------------------------

LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "PPM": {},
    "JPEG2000": {},
    "PCX": {},
    "QOI": {},
    "SGI": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_lossless_formats_are_decoded_exactly(fmt):
    try:
        data = encode(SAMPLE, fmt.split()[0], **LOSSLESS[fmt])
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {fmt}")
    np.testing.assert_array_equal(pixels([data]), RESIZED_SAMPLE)


READ_IN_NEW_PROCESS = """
import sys
import numpy as np
from tlfeatures.images import Decoder, Images

for path in sys.argv[1:]:
    _, pixels = Images.of([path]).decode(0, Decoder((8, 6)))
    print("PIL.PdfImagePlugin" in sys.modules, pixels.tobytes().hex())
"""


def test_rare_plugins_of_pillow_are_loaded_only_for_files_that_need_them(tmp_path):
    formats = ("PNG", "JPEG", "WEBP", "TIFF", "PCX", "PNG")
    for i, fmt in enumerate(formats):
        (tmp_path / f"{i}.bin").write_bytes(encode(SAMPLE, fmt, **LOSSLESS.get(fmt, {"quality": 95})))
    paths = [str(tmp_path / f"{i}.bin") for i in range(len(formats))]
    command = [sys.executable, "-c", READ_IN_NEW_PROCESS, *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    decoder = Decoder((8, 6))
    expected = [Images.of([path]).decode(0, decoder)[1].tobytes().hex() for path in paths]
    assert [line.split()[1] for line in lines] == expected
    assert [line.split()[0] == "True" for line in lines] == [False, False, True, True, True, True]


def test_grey_files_of_8_16_and_1_bits():
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    deep = (np.arange(96).reshape(8, 12) * 680).astype(np.uint16)
    d = Decoder((8, 12))
    np.testing.assert_array_equal(pixels([encode(grey, "PNG")], d), np.stack([grey] * 3, -1))
    expected = np.rint(deep / 257)
    for data in (
        encode(deep, "PNG"),
        encode(deep, "TIFF"),
        encode(deep.astype(">u2"), "TIFF"),
        encode(deep, "PPM"),
    ):
        np.testing.assert_array_equal(pixels([data], d)[..., 1], expected)
    bits = grey % 3 == 0
    np.testing.assert_array_equal(pixels([encode(bits, "PNG")], d)[..., 2], bits * 255)


def test_16_bit_values_are_rounded():
    deep = np.array([[0, 65535], [128, 129]], np.uint16)  # 128 / 257 rounds down, 129 / 257 up
    assert pixels([encode(deep, "PNG")], Decoder((2, 2)))[..., 0].tolist() == [[0, 255], [0, 1]]


def test_16_bit_color_keeps_its_high_byte():
    deep = (np.arange(48).reshape(4, 4, 3) * 1365).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    np.testing.assert_array_equal(pixels([png(4, 4, 16, 2, rows)], Decoder((4, 4))), deep >> 8)


@pytest.mark.parametrize("high, kind", [(4095, "12-bit"), (255, "8-bit")])
def test_16_bit_images_that_use_12_or_8_bits_warn_with_the_fix(high, kind):
    deep = np.linspace(0, high, 96).astype(np.uint16).reshape(8, 12)
    for X in ([encode(deep, "PNG")], [deep], [Image.fromarray(deep)], deep[None]):
        with pytest.warns(UserWarning, match=rf"{kind} data.*pass `max_value={high}`") as caught:
            Images.of(X).decode(0, D)
        assert len(of_test(caught)) == 1 and of_test(caught)[0].filename == __file__
        table = check_images(X)
        assert table["problem"].tolist() == ["warning"] and f"looks like {kind} data" in table["reason"][0]
        assert check_images(X, max_value=high).empty
    both = np.stack([deep, deep * (65535 // high)])
    pixels(both)  # the array as a whole has 16 bits


@pytest.mark.parametrize("high", [4095, 255, 1000])
def test_max_value_scales_16_bit_images(high):
    deep = np.linspace(0, high, 96).astype(np.uint16).reshape(8, 12)
    expected = np.rint(deep * (255 / high))[..., None].repeat(3, axis=2)
    decoder = Decoder((8, 12), max_value=high)
    for X in ([encode(deep, "PNG")], [encode(deep, "TIFF")], [deep], [Image.fromarray(deep)], deep[None]):
        np.testing.assert_allclose(pixels(X, decoder), expected, atol=1)
    eight = np.arange(96, dtype=np.uint8).reshape(8, 12)
    np.testing.assert_array_equal(pixels([eight], decoder)[..., 0], eight)
    np.testing.assert_array_equal(pixels([encode(eight, "PNG")], decoder)[..., 0], eight)


def test_error_names_the_image_with_values_above_max_value():
    deep = np.array([[0, 4095], [7, 4096]], np.uint16)
    for X in ([encode(deep, "PNG")], [deep], [Image.fromarray(deep)], deep[None]):
        with pytest.raises(
            ImageReadError, match=r"X\[0\].*up to 4096 are above `max_value=4095`: pass a larger"
        ):
            Images.of(X).decode(0, Decoder((2, 2), max_value=4095))


def test_max_value_enters_the_recipe_only_when_set():
    assert "max_value" not in Decoder((8, 8)).recipe()
    assert Decoder((8, 8), max_value=4095).recipe() == {**Decoder((8, 8)).recipe(), "max_value": 4095}


@pytest.mark.parametrize("value", [0, -1, 65536, 1.5, True, "4095"])
def test_invalid_max_value(value):
    with pytest.raises(
        ValueError, match=r"`max_value` must be None or an integer of .*65535; got .*4095 for 12-bit"
    ):
        Decoder((8, 8), max_value=value)


def test_equal_colors_of_different_16_bit_images_have_different_keys():
    a, b = (Image.fromarray(np.full((4, 4), value, np.uint16)) for value in (1000, 1001))
    assert Images.of([a]).key(0) != Images.of([b]).key(0)


LOW_CONTRAST = {
    "nearly black: values from 0 to 2 of 255": np.arange(64, dtype=np.uint8).reshape(8, 8) % 3,
    "all pixels have the color (9, 9, 9)": np.full((8, 8), 9, np.uint8),
    "all pixels have the color (250, 0, 0)": np.full((8, 8, 3), (250, 0, 0), np.uint8),
    "values span 15 of 256 levels": 100 + np.arange(64, dtype=np.uint8).reshape(8, 8) % 15,
}


@pytest.mark.parametrize("text", LOW_CONTRAST)
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_images_without_contrast_warn(text, resize):
    low_contrast, good = LOW_CONTRAST[text], QUADRANTS
    for X in (
        [good, low_contrast, encode(low_contrast, "PNG"), Image.fromarray(low_contrast)],
        [good, encode(low_contrast, "PNG"), low_contrast, low_contrast],
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(decode_batches(X, range(4), Decoder((16, 48), resize), 2))
        (warning,) = of_test(caught)
        assert warning.category is LowContrastImagesWarning and warning.filename == __file__
        message = str(warning.message)
        assert message.startswith("3 of 4 images span fewer than 16 of 256 levels")
        assert f"'X[1]', 'X[2]', 'X[3]'. The first: {text}." in message and "divided by 255" in message


def test_images_with_just_enough_contrast_do_not_warn():
    X = [np.linspace(100, 115.99, 64).astype(np.uint8).reshape(8, 8)]  # 16 levels
    dot = np.zeros((500, 500), np.uint8)
    dot[77, 93] = 255  # a single pixel, lost by resizing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for decode in ("scaled", "exact"):
            list(decode_batches([*X, dot], range(2), Decoder((8, 8), decode=decode), 2))
    assert check_images([*X, dot]).empty


def test_many_images_without_contrast_are_counted_and_ten_are_named(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(13)]
    for i, path in enumerate(paths):
        Image.new("L", (9, 9), i).save(path)
    with pytest.warns(LowContrastImagesWarning, match=r"^13 of 13 images.*9.png' and 3 more\. ") as caught:
        list(decode_batches(paths, range(13), D, 4))
    assert len(of_test(caught)) == 1 and "10.png" not in str(of_test(caught)[0].message)


def test_check_images_reports_errors_and_warnings():
    table = check_images([QUADRANTS, b"no image", np.zeros((8, 8), np.uint8), None])
    assert table[["row", "image", "problem"]].values.tolist() == [
        [1, "X[1]", "error"],
        [2, "X[2]", "warning"],
        [3, "X[3]", "error"],
    ]
    assert table["reason"][1] == "all pixels have the color (0, 0, 0)"


def test_decoding_threads_issue_one_warning_with_a_count():
    deep = np.arange(0, 3200, 50, dtype=np.uint16).reshape(8, 8)
    X = [deep, deep, deep * 20, deep]
    with pytest.warns(UserWarning, match=r"3 16-bit images .* such as X\[0\]") as caught:
        list(decode_batches(X, range(4), D, batch_size=2, n_threads=2))
    assert len(of_test(caught)) == 1


def test_float_and_32_bit_tiff_files():
    unit = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)
    decoded = pixels([encode(unit, "TIFF")], Decoder((8, 12)))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(unit * 255))
    assert "0 to 200" in reason([encode(unit * 200, "TIFF")])
    assert "expected 0 to 65535" in reason([encode((unit * 99999).astype(np.int32), "TIFF")])
    assert "NaN or infinite" in reason([encode(np.full((4, 4), np.nan, np.float32), "TIFF")])


def test_alpha_is_composited_on_white():
    rgba = np.zeros((8, 6, 4), np.uint8)
    rgba[..., 0], rgba[:, :3, 3] = 200, 255
    rgba[4:, 3:, 3] = 51  # opacity of one fifth
    for X in (
        [encode(rgba, "PNG")],
        [encode(rgba, "WEBP", lossless=True)],
        [rgba],
        rgba[None],
        [Image.fromarray(rgba)],
    ):
        decoded = pixels(X)
        assert decoded[0, 0].tolist() == [200, 0, 0]
        assert decoded[0, 5].tolist() == [255, 255, 255]
        assert decoded[7, 5].tolist() == [244, 204, 204]


def test_transparency_of_grey_palette_and_rgb_images():
    la = Image.new("LA", (6, 8), (100, 255))
    la.putpixel((5, 0), (0, 0))
    decoded = pixels([encode(la, "PNG")])
    assert decoded[0, 0].tolist() == [100] * 3 and decoded[0, 5].tolist() == [255] * 3
    palette = Image.new("P", (6, 8), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((5, 0), 1)
    for fmt, transparency in (("PNG", 1), ("GIF", 1), ("PNG", b"\xff\x00")):
        decoded = pixels([encode(palette, fmt, transparency=transparency)])
        assert decoded[0, 0].tolist() == [10, 20, 30] and decoded[0, 5].tolist() == [255] * 3
    assert pixels([encode(palette, "PNG")])[0, 5].tolist() == [40, 50, 60]
    keyed = Image.new("RGB", (6, 8), (1, 2, 3))
    keyed.putpixel((5, 0), (9, 9, 9))
    assert pixels([encode(keyed, "PNG", transparency=(9, 9, 9))])[0, 5].tolist() == [255] * 3


@pytest.mark.parametrize(
    "fmt, mode, options",
    [
        ("JPEG", "CMYK", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "YCbCr", {"compression": "tiff_lzw"}),
        ("TIFF", "YCbCr", {"compression": "jpeg"}),
        ("TIFF", "LAB", {}),
    ],
)
def test_other_color_spaces_are_converted_to_rgb(fmt, mode, options):
    im, expected = Image.new("RGB", (12, 16), (200, 40, 90)), [200, 40, 90]
    if mode == "LAB":
        im, expected = Image.frombytes("LAB", (12, 16), bytes([128, 0, 0]) * 192), [119] * 3
    data = encode(im if mode == "LAB" else im.convert(mode), fmt, **options)
    assert np.abs(pixels([data])[4, 3] - expected).max() <= 3


def test_uncompressed_ycbcr_is_read_correctly_or_not_at_all():
    """Pillow before 13 reads other pixels, from the data of the next page; no version reads subsampled colors."""
    im = Image.new("RGB", (12, 16), (200, 40, 90)).convert("YCbCr")
    data = encode(im, "TIFF", save_all=True, append_images=[im])
    if int(pillow_version.split(".")[0]) < 13:
        assert "uncompressed TIFF file in YCbCr needs a newer Pillow: pip install -U 'pillow>=13'" in reason(
            [data]
        )
    else:
        assert np.abs(pixels([data])[4, 3] - [200, 40, 90]).max() <= 3
    subsampled = encode(im, "TIFF", save_all=True, append_images=[im], tiffinfo={530: (2, 2)})
    assert "uncompressed TIFF file with subsampled colors (YCbCr): save it as RGB" in reason([subsampled])


def test_first_frame_of_animations_and_multi_page_files_is_read():
    frames = [Image.new("RGB", (6, 8), c) for c in ("red", "lime", "blue")]
    for fmt, options in (
        ("GIF", {"duration": 50}),
        ("TIFF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("MPO", {}),
    ):
        data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
        assert np.abs(pixels([data])[3, 3] - [255, 0, 0]).max() <= 2, fmt


@pytest.mark.parametrize(
    "name",
    [
        "UPPER.JPG",
        "a b.Jpeg",
        'it\'s "q".jpg',
        "näme ☃ 图.jpg",
        "new\nline.jpg",
        "none",
        "-r.jpg",
        "a#1?.jpg",
    ],
)
def test_unusual_file_names(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(SAMPLE, "PNG"))
    for X in ([str(path)], [path], (path,), np.array([str(path)]), np.array([path], dtype=object)):
        images = Images.of(X)
        np.testing.assert_array_equal(pixels(images), RESIZED_SAMPLE)
        assert images.name(0) == str(path) == images.paths()[0]
        assert images.key(0) == file_key(path)


def test_file_name_that_is_not_unicode(tmp_path, not_utf_8):
    path = tmp_path / f"{not_utf_8}.png"
    path.write_bytes(encode(SAMPLE, "PNG"))
    np.testing.assert_array_equal(pixels([str(path)]), RESIZED_SAMPLE)


def test_heic_is_read_with_pillow_heif_and_otherwise_names_it(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(SAMPLE.resize((96, 128), Image.Resampling.NEAREST)).save(out, quality=-1)
    before = dict(Image.OPEN)
    assert np.abs(pixels([out.getvalue()])[2, 1] - [255, 0, 0]).max() <= 8
    assert dict(Image.OPEN) == before  # nothing registered with Pillow
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in reason([out.getvalue()])


# --- unreadable files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, text",
    [
        (b"", "empty"),
        (b"just some text, renamed .jpg\n" * 9, "not an image in a known format"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"%PDF-1.7 " + bytes(99), "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encode(photo(300, 200), "JPEG")[:3000], "truncated"),
        (encode(photo(300, 200), "PNG")[:3000], "truncated"),
        (encode(photo(30, 20), "JPEG")[:10], "damaged"),
    ],
    ids=["empty", "text", "html", "pdf", "eps", "cut jpeg", "cut png", "cut header"],
)
def test_error_names_an_unreadable_file_and_the_reason(tmp_path, data, text):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=text) as caught:
        Images.of([path]).decode(0, D)
    assert caught.value.name == str(path) and str(path) in str(caught.value)
    assert text in reason([data])
    table = check_images([path, encode(SAMPLE, "PNG")])
    assert (
        table["row"].tolist() == [0] and table["image"].tolist() == [str(path)] and text in table["reason"][0]
    )


def test_invalid_paths(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, text in {
        "": "folder",
        "missing.jpg": "no such file",
        "empty.jpg": "empty",
        "broken.jpg": "no such file",
        "pipe.jpg": "not a regular file",
        "nul\0.jpg": "not valid",
        "x" * 300 + ".jpg": "too long",
    }.items():
        images = Images.of([os.path.join(str(tmp_path), name)])
        for read in (images.key, lambda i, images=images: images.decode(i, D)):
            with pytest.raises(ImageReadError, match=text):
                read(0)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encode(SAMPLE, "JPEG"))
    secret.chmod(0)
    if not os.access(secret, os.R_OK):
        assert reason([secret]) == "permission denied"


def make_decompression_bomb(fmt, side=30_000):
    if fmt == "PNG":
        return png(side, side, 8, 2, bytes(1000))
    data = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    offset = data.index(b"\xff\xc0") + 5
    data[offset : offset + 4] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_decompression_bombs_are_refused_before_memory_is_allocated(fmt, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("allocates the pixels"))
    assert "30000 x 30000 pixels are more than the pixel limit of 178,956,970" in reason(
        [make_decompression_bomb(fmt)]
    )


def test_pixel_limit_is_that_of_pillow_without_its_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    for fmt in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        if fmt != "TIFF":  # the plugin for TIFF issues a warning while it loads
            assert pixels([encode(SAMPLE.resize((10, 10)), fmt)]).shape == (8, 6, 3)
        assert re.search("pixel limit.*120", reason([encode(SAMPLE, fmt)]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels([encode(SAMPLE, "PNG")]).shape == (8, 6, 3)


@pytest.mark.parametrize(
    "error",
    [SyntaxError, struct.error, ValueError, OverflowError, zlib.error, EOFError, KeyError, RecursionError],
)
def test_exceptions_of_decoders_are_converted_to_image_read_errors(monkeypatch, error):
    def fail(*args):
        raise error("made up")

    data = encode(SAMPLE, "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert "made up" in reason([data])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *a: (_ for _ in ()).throw(MemoryError()))
    assert "memory" in reason([data])


MUTATE = """
import io, resource, sys, time, warnings
import numpy as np
from PIL import Image
from tlfeatures.errors import ImageReadError
from tlfeatures.images import Decoder, Images

warnings.simplefilter("ignore")
rng = np.random.default_rng(7)
noise = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((160, 120))
seeds, exif = [], Image.Exif()
exif[0x0112] = 6
for fmt, options in (
    ("JPEG", {"exif": exif}),
    ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("TIFF", {}),
    ("JPEG2000", {}), ("AVIF", {}), ("ICO", {"sizes": [(64, 48)]}), ("PPM", {}), ("PCX", {}), ("QOI", {}),
):
    out = io.BytesIO()
    try:
        noise.save(out, fmt, **options)
    except (KeyError, OSError):
        continue
    seeds.append(out.getvalue())
try:
    import pillow_heif
    out = io.BytesIO()
    pillow_heif.from_pillow(noise).save(out)
    seeds.append(out.getvalue())
except ImportError:
    pass

def mutate(data):
    data = bytearray(data)
    kind = rng.integers(4)
    end = len(data) if rng.random() < 0.5 else min(len(data), 256)  # half of the mutations are in the header
    if kind == 0:
        for at in rng.integers(0, end, rng.integers(1, 9)):
            data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del data[rng.integers(0, end):]
    elif kind == 2:
        at = rng.integers(0, end)
        data[at : at + rng.integers(1, 65)] = rng.bytes(int(rng.integers(1, 65)))
    else:
        for at in rng.integers(0, end, 2):
            data[at : at + 4] = [bytes(4), b"\\xff" * 4, b"\\x7f\\xff\\xff\\xff"][rng.integers(3)]
    return bytes(data)

decoder = Decoder((32, 32))
Images.of([s for s in seeds]).decode(0, decoder)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_read = n_errors = 0
for n in range(int(sys.argv[1])):
    data = mutate(seeds[n % len(seeds)])
    try:
        key, pixels = Images.of([data]).decode(0, decoder)
        if pixels.shape != (32, 32, 3) or pixels.dtype != np.uint8:
            sys.exit(f"wrong pixels from mutation {n}")
        n_read += 1
    except ImageReadError as e:
        if not e.reason:
            sys.exit(f"no reason for mutation {n}")
        n_errors += 1
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
print(len(seeds), n_read, n_errors, peak // 1024)
"""


@pytest.mark.slow
def test_2000_mutated_files_are_decoded_or_raise_image_read_error():
    pytest.importorskip("resource")
    process = python(MUTATE, "2000")
    assert process.returncode == 0, f"exit code {process.returncode}: {process.stderr[-2000:]}"
    n_formats, n_read, n_errors, memory = map(float, process.stdout.split())
    assert n_read + n_errors == 2000 and n_formats >= 8
    assert n_read > 200 and n_errors > 200  # the mutations damage some files and not others
    assert memory < 1000  # MB, which one image near the pixel limit takes


# --- decoder and recipe ----------------------------------------------------------------------------


def test_recipe_differs_in_every_field_and_is_json():
    variants = [
        Decoder((8, 6)),
        Decoder((6, 8)),
        Decoder((8, 6), resize="crop"),
        Decoder((8, 6), resize="pad"),
        Decoder((8, 6), interpolation="box"),
        Decoder((8, 6), decode="exact"),
    ]
    texts = [json.dumps(d.recipe(), sort_keys=True) for d in variants]
    assert len(set(texts)) == len(texts)
    assert Decoder([8, np.int64(6)]) == Decoder((8, 6)) and hash(Decoder((8, 6))) == hash(Decoder([8, 6]))
    assert json.dumps(Decoder([8, np.int64(6)]).recipe(), sort_keys=True) == texts[0]


def test_decoder_recipe_changes_with_the_decoded_pixels(monkeypatch):
    before, pixels = decoder_recipe(), probe_pixels()
    assert before.keys() == {"pixel_probe"} and not before.keys() & Decoder((8, 6)).recipe().keys()
    assert pixels.dtype == np.uint8 and pixels.nbytes < 8000
    resize = Image.Image.resize

    def off_by_one(self, *args, **kwargs):
        return resize(self, *args, **kwargs).point(lambda v: v ^ 1)

    monkeypatch.setattr(Image.Image, "resize", off_by_one)
    probe_pixels.cache_clear()
    try:
        assert decoder_recipe() != before
        assert np.abs(probe_pixels().astype(int) - pixels).max() == 1
    finally:
        probe_pixels.cache_clear()


def test_encoded_is_true_for_files_and_bytes():
    array = np.zeros((4, 4, 3), "uint8")
    assert not Images.of(array[None]).encoded().any()
    assert Images.of(["a.jpg", "b.jpg"]).encoded().all()
    mixed = Images.of([array, "a.jpg", pathlib.Path("b.jpg"), b"x", Image.new("L", (2, 2)), None])
    assert mixed.encoded().tolist() == [False, True, True, True, False, False]
    assert mixed.take([3, 0]).encoded().tolist() == [True, False]


@pytest.mark.parametrize(
    "field, value, text",
    [
        (
            "resize",
            "streach",
            "`resize` must be 'stretch', 'crop' or 'pad'; got 'streach'. Did you mean 'stretch'",
        ),
        ("interpolation", "bilinar", "Did you mean 'bilinear'"),
        ("decode", "fast", "`decode` must be 'scaled' or 'exact'; got 'fast'"),
    ],
)
def test_unknown_options(field, value, text):
    with pytest.raises(UnknownNameError, match=text):
        Decoder((8, 6), **{field: value})


@pytest.mark.parametrize("size", [8, (8,), (8, 0), (8, -1), (8.0, 6), (True, 6), "86", None, (8, 6, 3)])
def test_invalid_image_sizes(size):
    with pytest.raises(ValueError, match="`image_size` must be"):
        Decoder(size)


def test_check_images_is_empty_for_good_images_and_keeps_global_state():
    state = (Image.MAX_IMAGE_PIXELS, warnings.filters[:], sys.modules.get("tensorflow"))
    random = np.random.get_state()[1].tolist()
    table = check_images([SAMPLE, QUADRANTS], n_jobs=2)
    assert len(table) == 0 and table.columns.tolist() == ["row", "image", "problem", "reason"]
    assert state == (Image.MAX_IMAGE_PIXELS, warnings.filters[:], sys.modules.get("tensorflow"))
    assert random == np.random.get_state()[1].tolist()


def test_all_pillow_modes_are_resized_to_the_requested_size():
    for mode, resize in itertools.product(
        ["1", "L", "P", "RGB", "CMYK", "HSV", "I;16", "F", "LA", "PA"], ["crop", "pad"]
    ):
        assert pixels([Image.new(mode, (7, 9))], Decoder((5, 4), resize)).shape == (5, 4, 3), mode
