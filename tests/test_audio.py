"""Log-mel spectrograms: reference numbers, clips of all kinds, unreadable files, and the pipeline with CNNFeatures."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures import CNNFeatures
from tlfeatures.audio import LogMelSpectrogram, mel_filters, mel_power
from tlfeatures.errors import (
    AudioReadError,
    ImageInputError,
    ImageReadError,
    InvalidParameterError,
    UnreadableImagesWarning,
)
from tlfeatures.sources import read_source

soundfile = pytest.importorskip("soundfile", reason="needs soundfile, the extra `audio`")

RATE = 16000
T = np.arange(4800) / RATE
CHIRP = 0.5 * np.sin(2 * np.pi * (300 + 4000 * T) * T) + 0.1 * np.cos(2 * np.pi * 2500 * T)

# librosa 0.11.0: librosa.feature.melspectrogram(y=CHIRP, sr=..., n_fft=..., hop_length=..., n_mels=..., fmin=...)
# at every 7th band and every 9th frame; the sum of librosa.filters.mel with the same parameters
REFERENCE = {
    (16000, 512, 160, 40, 0, None): (1.2793331, [
        [6.8132536263009480e-01, 1.9598540008221816e-08, 5.1054057237950966e-10, 5.0899501561515083e-11],
        [7.3606687385435465e-02, 5.9707663410323290e-06, 4.4129980012203327e-09, 1.7408250784069704e-10],
        [2.7292229725429345e-03, 8.6337415415842891e+00, 2.9706356789791915e-07, 1.4195893541753981e-09],
        [1.3151136982956536e-03, 3.4583357390731141e-08, 2.9572928356165891e+00, 7.7393509512845588e-07],
        [1.1844459887326215e-03, 1.1340549987140449e-10, 1.0250134481674800e-09, 1.0064319597134811e-07],
        [7.6899384827853554e-05, 1.5937381692908093e-12, 3.2898706375336098e-12, 1.0505059199309348e-11],
    ]),
    (8000, 400, 100, 24, 50, 4000): (1.2001956, [
        [1.3775658717678084e+01, 1.5540221457478881e-05, 1.6586796823994818e-08, 6.6937441744341102e-09,
         2.3985892124022004e-09, 1.0576066607628132e-10],
        [1.3457989845891041e-03, 1.6483655298137608e-07, 3.0939662597350608e-04, 2.2555510110614872e+01,
         6.7446140700763670e-06, 2.0492536977986982e-08],
        [2.7167219528913536e-03, 9.9142562486043045e-08, 9.9953760194303878e-08, 6.9313723567963605e-08,
         2.9153209061762924e-07, 7.8942657551997570e-06],
        [9.2139079965779691e-05, 2.0500894656972283e-12, 1.0759021192518713e-12, 6.1494255913359510e-13,
         2.1278628150933410e-11, 8.2184870010012706e-12],
    ]),
    (16000, 513, 200, 30, 20, 7000): (0.96186495, [
        [8.8192633984261426e-01, 4.4298876950225296e-09, 2.3621156748853559e-10],
        [1.8467338172291205e-02, 6.1442184663953300e-06, 1.9354856225795394e-09],
        [8.8184336967145132e-04, 4.6818720770249247e-04, 7.8654710678892437e-07],
        [3.0947151550959201e-03, 5.2458775541081184e-08, 7.6859460102894480e-08],
        [6.5696835873430763e-05, 2.1650073289659800e-12, 4.0076961285913789e-12],
    ]),
}  # fmt: skip


@pytest.mark.parametrize("parameters", REFERENCE)
def test_mel_power_equals_librosa(parameters):
    rate, n_fft, hop, n_mels, fmin, fmax = parameters
    total, expected = REFERENCE[parameters]
    filters = mel_filters(rate, n_fft, n_mels, fmin, fmax)
    assert abs(filters.sum() - total) < 1e-6
    power = mel_power(CHIRP, filters, n_fft, hop)[::7, ::9]
    audible = np.array(expected) > 1e-11  # librosa's filters are float32, so that smaller values differ
    np.testing.assert_allclose(power[audible], np.array(expected)[audible], rtol=1e-3)


def test_images_are_decibels_below_the_loudest_value():
    spectrogram = LogMelSpectrogram(n_mels=40, dynamic_range=60).fit([CHIRP])
    (image,) = spectrogram.transform([CHIRP])
    power = mel_power(CHIRP, mel_filters(RATE, 512, 40), 512, 160)
    expected = np.clip(1 + 10 * np.log10(power / power.max()) / 60, 0, 1) * 255
    assert image.dtype == np.uint8 and image.shape == (40, 31) and image.max() == 255
    np.testing.assert_array_equal(image, np.rint(expected)[::-1])  # low frequencies at the bottom


def test_the_same_clip_in_every_form_gives_one_image(tmp_path):
    stereo = np.stack([CHIRP, CHIRP], axis=1)
    for name, samples, subtype in (
        ("a.wav", CHIRP, "PCM_16"),
        ("b.flac", CHIRP, "PCM_24"),
        ("c.wav", stereo, "FLOAT"),
    ):
        soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
    paths = [str(tmp_path / "a.wav"), tmp_path / "b.flac", tmp_path / "c.wav"]
    sixteen = np.rint(CHIRP * 32767).astype(np.int16)
    clips = [
        *paths,
        paths[1].read_bytes(),
        CHIRP,
        CHIRP.astype(np.float32),
        sixteen,
        stereo,
        (RATE, CHIRP),
        CHIRP * 9,
    ]
    spectrogram = LogMelSpectrogram(dynamic_range=40)
    images = spectrogram.fit_transform(clips).astype(int)
    assert images.std() > 30 and np.abs(images - images[0]).max() <= 2
    for X in (pd.Series(paths), np.array(list(map(str, paths))), pd.DataFrame({"path": paths})):
        np.testing.assert_array_equal(spectrogram.transform(X), images[:3])
    rows = np.stack([CHIRP, CHIRP[::-1]])
    np.testing.assert_array_equal(spectrogram.transform(rows), spectrogram.transform(list(rows)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unsigned_samples_are_centered_and_scaled(dtype):
    middle = (int(np.iinfo(dtype).max) + 1) // 2
    unsigned = np.rint(CHIRP * 0.78 * middle + middle).astype(dtype)
    spectrogram = LogMelSpectrogram(dynamic_range=20, reference=1.0).fit([CHIRP])
    images = spectrogram.transform([unsigned, CHIRP * 0.78]).astype(int)
    assert np.abs(images[0] - images[1]).mean() < 3


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_clips_are_resampled(rate):
    t = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1500 * t)
    spectrogram = LogMelSpectrogram(duration=1.0, dynamic_range=40)
    images = spectrogram.fit_transform([(rate, tone), np.sin(2 * np.pi * 1500 * np.arange(RATE) / RATE)])
    assert images.shape == (2, 64, 101)
    assert np.abs(images[0].astype(int) - images[1])[:, 10:-10].max() <= 3


def test_clips_are_cropped_or_padded_to_one_duration():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    for align, silent in (("center", (slice(0, 20), slice(-20, None))), ("start", (slice(-40, None),) * 2)):
        spectrogram = LogMelSpectrogram(duration=1.0, align=align)
        short, exact = spectrogram.fit_transform([tone[: RATE // 2], tone])
        assert all(short[:, part].max() == 0 for part in silent)
        assert short[:, 45].max() == exact[:, 45].max() == 255
    marked = np.concatenate([np.zeros(RATE), tone[:1600], np.zeros(RATE)])
    cropped = LogMelSpectrogram(duration=0.1).fit_transform([marked])[0]
    np.testing.assert_array_equal(cropped, LogMelSpectrogram().fit_transform([tone[:1600]])[0])
    longest = LogMelSpectrogram().fit([tone[:800], tone[:1600]])
    assert longest.n_samples_ == 1600 and longest.transform([tone]).shape == (1, 64, 11)


def test_silence_is_black_and_clipping_is_read():
    clipped = np.clip(CHIRP * 10, -1, 1)
    silent, one, saturated, constant = LogMelSpectrogram(duration=0.3).fit_transform(
        [np.zeros(4800), np.zeros(1), clipped, np.full(4800, 1e-9)]
    )
    assert silent.max() == one.max() == constant.max() == 0 and saturated.std() > 20


def test_reference_keeps_loudness():
    loud, quiet = LogMelSpectrogram(reference=100.0).fit_transform([CHIRP, CHIRP / 100])
    assert abs(float(loud.max()) - quiet.max() - 40 / 80 * 255) <= 1
    same = LogMelSpectrogram().fit_transform([CHIRP, CHIRP / 4])
    np.testing.assert_array_equal(same[0], same[1])


# --- unreadable clips --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Six WAV files; the second is damaged, the fourth empty, and the fifth absent."""
    paths = [str(tmp_path / f"{i}.wav") for i in range(6)]
    for i, path in enumerate(paths):
        soundfile.write(path, np.roll(CHIRP, 500 * i), RATE)
    for i, content in ((1, b"RIFF damaged"), (3, b"")):
        (tmp_path / f"{i}.wav").write_bytes(content)
    (tmp_path / "4.wav").unlink()
    return paths


def test_all_unreadable_files_are_named(files):
    match = r"cannot read 3 of 6 clips:(.|\n)*1\.wav': damaged(.|\n)*3\.wav': the file is empty(.|\n)*4\.wav': no such"
    with pytest.raises(AudioReadError, match=match) as caught:
        LogMelSpectrogram(duration=0.3).fit(files).transform(files)
    assert isinstance(caught.value, (ImageReadError, OSError)) and "on_error='nan'" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).failures == caught.value.failures
    with pytest.raises(AudioReadError, match=r"3 of 6 clips:\n  '/"):  # not np.str_('/
        LogMelSpectrogram().fit(np.array(files))


def test_broken_files_cost_their_rows(files, store):
    pipeline = make_pipeline(
        LogMelSpectrogram(on_error="nan"), CNNFeatures("tiny", image_size=32, cache=store, on_error="nan")
    )
    with pytest.warns(UnreadableImagesWarning) as caught:
        rows = pipeline.fit_transform(files)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, True, False]
    text = "\n".join(str(w.message) for w in caught)
    assert "3 of 6 clips could not be read" in text and "1.wav': damaged" in text and "4.wav" in text
    good = [files[i] for i in (0, 2, 5)]
    np.testing.assert_array_equal(pipeline.transform(good), rows[[0, 2, 5]])


@pytest.mark.parametrize(
    "clip, reason",
    [
        (np.array([0.1, np.nan, np.inf] * 9), "18 of 27 samples are NaN or infinite"),
        (np.array([]), "the clip has no samples"),
        (
            np.zeros((2, 100)),
            r"shape \(2, 100\); expected \(samples,\) or \(samples, channels\), with the channels last",
        ),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.array(["a", "b"]), "samples of type"),
        (CHIRP > 0, "samples of type bool; expected integers or floats"),
        ((0, CHIRP), "sampling rate is 0; expected a positive integer in hertz"),
        ((np.inf, CHIRP), "sampling rate is inf; expected a positive integer in hertz"),
        (("16000", CHIRP), "sampling rate is '16000'; expected a positive integer in hertz"),
        ((CHIRP, 16000), r"got a tuple that is not .*; expected \(sampling rate, array\), in this order"),
        ({"array": CHIRP}, "got an object of type dict; expected an array of samples"),
        (b"not audio", "damaged or unsupported audio file"),
        ("absent.wav", "no such file"),
        (".", "is a folder"),
    ],
    ids=[
        *("nan", "empty", "channels first", "3-D", "text", "bool", "rate", "infinite rate", "text as rate"),
        *("pair in another order", "dict", "bytes", "absent", "folder"),
    ],
)
def test_reasons_for_unreadable_clips(clip, reason):
    with pytest.raises(AudioReadError, match=f"cannot read 1 of 2 clips: .*{reason}"):
        LogMelSpectrogram().fit([CHIRP, clip])


@pytest.mark.parametrize(
    "X, match",
    [
        ("a.wav", r"Got one clip where a list is expected: pass \[X\]"),
        (CHIRP, r"shape \(4800,\).*for one clip use \[X\]"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\); expected a list of paths"),
        ([], "0 sample"),
        (7, "object of type int; expected a list of paths of WAV or FLAC files"),
        (np.array([["a.wav", "cat"]]), r"\(1, 2\) with elements that are not numbers.* one column of paths"),
        (np.array([[16000, CHIRP]], dtype=object), "elements that are not numbers.* or a list of pairs"),
    ],
    ids=["path", "one array", "3-D", "empty", "number", "table", "array of pairs"],
)
def test_errors_of_the_input(X, match):
    with pytest.raises(ImageInputError, match=match):
        LogMelSpectrogram(duration=1.0).fit(X)


@pytest.mark.parametrize(
    "parameters, match",
    [
        ({"window": 0}, "`window` must be a number above 0.*got 0. It is in seconds"),
        ({"sampling_rate": 16.5}, "`sampling_rate` must be an integer.*in hertz"),
        ({"n_mels": 500}, r"`n_mels`=500 is too many for frames of 512 samples.*longer frames"),
        ({"fmin": 9000}, r"`fmin` must be below `fmax`, and `fmax` at most half the sampling rate, 8000 Hz"),
        ({"fmin": 500, "fmax": 300}, r"`fmin` must be below `fmax`.*got 500 and 300"),
        ({"window": 0.00005}, "`window` must have at least 2 samples; got 5e-05 seconds at 16000 Hz"),
        ({"hop": 0.00001}, "`hop` must have at least 1 sample; got 1e-05 seconds at 16000 Hz"),
        ({"align": "middle"}, "`align` must be 'center' or 'start'; got 'middle'"),
        ({"reference": 1e-12}, "`reference` must be 'max' or a number above 1e-10.*count as silence"),
    ],
)
def test_errors_of_parameters(parameters, match):
    with pytest.raises(InvalidParameterError, match=match) as error:
        LogMelSpectrogram(**parameters).fit([CHIRP])
    assert error.value.parameter == list(parameters)[-1]


def test_without_soundfile_the_error_names_the_extra_and_arrays_work(tmp_path):
    soundfile.write(tmp_path / "a.wav", CHIRP, RATE)
    code = """
import sys
sys.modules["soundfile"] = None
import numpy as np
from tlfeatures.audio import LogMelSpectrogram
print(LogMelSpectrogram().fit_transform([np.ones(1000)]).shape)
try:
    LogMelSpectrogram().fit(["a.wav"])
except ImportError as e:
    print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "(1, 64, 7)"
    assert "pip install 'tlfeatures[audio]'" in done.stdout


# --- as an estimator ---------------------------------------------------------------------------------


@parametrize_with_checks(
    [LogMelSpectrogram(window=0.0005, hop=0.0001, n_mels=1, duration=0.001)],
    expected_failed_checks=lambda estimator: {
        "check_estimators_nan_inf": "unreadable clips raise AudioReadError, an OSError, which names them",
        **{
            name: "clips may have any length"
            for name in (
                "check_n_features_in",
                "check_n_features_in_after_fitting",
                "check_transformer_general",
            )
        },
    },
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_clone_pickle_and_pipelines_with_tables_as_output():
    spectrogram = LogMelSpectrogram(duration=0.2, n_mels=32)
    assert clone(spectrogram).get_params() == spectrogram.get_params()
    fitted = pickle.loads(pickle.dumps(spectrogram.fit([CHIRP])))
    np.testing.assert_array_equal(fitted.transform([CHIRP]), spectrogram.transform([CHIRP]))
    pipeline = make_pipeline(spectrogram, CNNFeatures("tiny", image_size=32, cache=None))
    table = pipeline.set_output(transform="pandas").fit_transform([CHIRP, CHIRP[::2]])
    assert isinstance(table, pd.DataFrame) and table.shape == (2, 320)


def test_embeddings_of_clips_are_computed_once(store):
    clips = [np.roll(CHIRP, 300 * i) for i in range(5)]
    pipeline = make_pipeline(LogMelSpectrogram(), CNNFeatures("tiny", image_size=32, cache=store))
    first = pipeline.fit_transform(clips)
    stored = {recipe["rows"] for recipe in store.info()["recipes"]}
    np.testing.assert_array_equal(pipeline.fit_transform(clips[::-1]), first[::-1])
    assert stored == {5} == {recipe["rows"] for recipe in store.info()["recipes"]}


# --- sources -----------------------------------------------------------------------------------------


def test_folders_and_manifests_of_clips(tmp_path):
    for name in ("yes/1.wav", "yes/2.WAV", "no/1.flac"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "clips" / name, CHIRP, RATE, format="FLAC" if "flac" in name else "WAV")
    (tmp_path / "clips" / "yes" / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.warns(UserWarning, match=r"1 file\(s\) in .* are not audio clips and were ignored: 1 .jpg"):
        source = read_source(tmp_path / "clips", files="audio")
    assert source.names == ["no/1.flac", "yes/1.wav", "yes/2.WAV"] and source.y.tolist() == [
        "no",
        "yes",
        "yes",
    ]
    assert LogMelSpectrogram().fit_transform(source.images).shape == (3, 64, 31)
    (tmp_path / "clips" / "yes" / "cover.jpg").unlink()
    (tmp_path / "clips" / "empty").mkdir()
    soundfile.write(tmp_path / "clips" / "noise.wav", CHIRP, RATE)
    with pytest.warns(UserWarning) as caught:
        read_source(tmp_path / "clips", files="audio")
    messages = [str(warning.message) for warning in caught]
    assert any("1 file(s) in" in text and "not in a class folder" in text for text in messages)
    assert any(text.startswith("No audio clips in the folder(s) 'empty'") for text in messages)
    (tmp_path / "clips.csv").write_text("path,label,speaker\nclips/yes/1.wav,1,a\nclips/no/1.flac,0,b\n")
    manifest = read_source(tmp_path / "clips.csv", groups="speaker", files="audio")
    assert manifest.groups.tolist() == ["a", "b"]
    assert read_source(tmp_path / "clips/yes/1.wav", files="audio").kind == "file"
