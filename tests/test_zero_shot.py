"""ZeroShotClassifier: probabilities, templates, labels, the store and errors."""

from __future__ import annotations

import io
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from tlfeatures import CNNFeatures, EmbeddingStore, ZeroShotClassifier
from tlfeatures.errors import ImageReadError, InvalidParameterError, MissingDependencyError, WeightsError
from tlfeatures.networks import preset_resizing

CLASSES = ["cat", "dog", "horse"]
TEXTS = [f"a photo of a {name}." for name in CLASSES]
SIDE = 32


def make_images(n, side):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), "u1")


def make_clip():
    """A small CLIP with random weights, and its preprocessor."""
    hub = pytest.importorskip("keras_hub")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["."]
    tokens = ["!", *letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["c a", "ca t</w>"])
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    image_encoder = hub.models.CLIPVisionEncoder(patch_size=8, image_shape=(SIDE, SIDE, 3), **sizes)
    text_encoder = hub.models.CLIPTextEncoder(
        vocabulary_size=len(vocabulary), embedding_dim=16, max_sequence_length=32, **sizes
    )
    converter = hub.layers.CLIPImageConverter(
        image_size=(SIDE, SIDE), scale=[1 / 68, 1 / 66, 1 / 70], offset=[-1.7, -1.6, -1.4], interpolation="bicubic",
        antialias=True, crop_to_aspect_ratio=True,
    )  # fmt: skip
    network = hub.models.CLIPBackbone(image_encoder, text_encoder, projection_dim=12)
    return network, hub.models.CLIPPreprocessor(tokenizer, converter, sequence_length=32)


def make_siglip():
    """A small SigLIP with random weights, and its preprocessor."""
    hub = pytest.importorskip("keras_hub")
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = io.BytesIO()
    trainer.train(
        sentence_iterator=iter([*TEXTS, "a painting of the river"]), model_writer=model, vocab_size=40,
        model_type="bpe", pad_id=0, unk_id=1, bos_id=2, eos_id=3, hard_vocab_limit=False,
        pad_piece="<pad>", unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>",
    )  # fmt: skip
    tokenizer = hub.models.SigLIPTokenizer(proto=model.getvalue())
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    image_encoder = hub.models.SigLIPVisionEncoder(patch_size=8, image_shape=(SIDE, SIDE, 3), **sizes)
    text_encoder = hub.models.SigLIPTextEncoder(
        vocabulary_size=tokenizer.vocabulary_size(), embedding_dim=16, max_sequence_length=16, **sizes
    )
    converter = hub.layers.SigLIPImageConverter(
        image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0, antialias=True, crop_to_aspect_ratio=False
    )
    network = hub.models.SigLIPBackbone(image_encoder, text_encoder)
    return network, hub.models.SigLIPPreprocessor(tokenizer, converter, sequence_length=16)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def preset(request, tmp_path_factory):
    """A preset with random weights in a folder, and KerasHub's own probabilities for images and texts."""
    network, preprocessor = {"clip": make_clip, "siglip": make_siglip}[request.param]()
    # with the initial scale, all probabilities would be almost equal
    (network.clip_head if request.param == "clip" else network.siglip_head).logit_scale.assign(np.log(50.0))
    folder = str(tmp_path_factory.mktemp(request.param))
    network.save_to_preset(folder)
    preprocessor.save_to_preset(folder)

    def compute(images, texts):
        import keras

        inputs = preprocessor({"images": images, "prompts": texts})
        logits = network({name: inputs[name] for name in ("images", "token_ids")})["vision_logits"]
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

    return folder, compute


@pytest.fixture
def images():
    return make_images(6, SIDE)


@pytest.mark.slow
def test_probabilities_are_those_of_kerashub(preset, images):
    folder, compute = preset
    clf = ZeroShotClassifier(folder, classes=CLASSES, cache=None)
    expected = compute(images, TEXTS)
    assert np.ptp(expected, axis=1).max() > 0.05
    np.testing.assert_allclose(clf.predict_proba(images), expected, atol=1e-4)
    clf.fit()
    assert clf.predict(images).tolist() == clf.classes_[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose(np.linalg.norm(clf.text_embeddings_, axis=1), 1, rtol=1e-5)
    assert clf.logit_scale_ == pytest.approx(50, rel=1e-5)


@pytest.mark.slow
def test_embeddings_of_templates_are_averaged(preset):
    folder, _ = preset
    one, other = "a photo of a {}.", "the {} in the river"
    first, second = (
        ZeroShotClassifier(folder, classes=CLASSES, template=template).fit().text_embeddings_
        for template in (one, other)
    )
    both = ZeroShotClassifier(folder, classes=CLASSES, template=[one, other]).fit().text_embeddings_
    mean = (first + second) / 2
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.slow
def test_other_classes_use_the_stored_embeddings(preset, images, tmp_path, network_calls):
    folder, _ = preset
    store = EmbeddingStore(tmp_path / "store")
    ZeroShotClassifier(folder, classes=CLASSES, cache=store).predict(images)
    network_calls.clear()
    clf = ZeroShotClassifier(folder, classes=["river", "cat"], template="a {}", cache=store)
    assert set(clf.predict(images)) <= {"river", "cat"}
    layer = "projection" if "clip" in folder else "head"
    CNNFeatures(folder, layer=layer, **preset_resizing(folder), cache=store).fit_transform(images)
    assert not network_calls


@pytest.mark.slow
def test_labels_and_names(preset, images):
    folder, compute = preset
    expected = compute(images, TEXTS).argmax(axis=1)
    clf = ZeroShotClassifier(folder, classes={2: "horse", 0: "cat", 1: "dog"}, cache=None)
    assert clf.predict(images).tolist() == expected.tolist()  # columns are in sorted order
    y = np.array(CLASSES)[[0, 1, 2, 0, 1, 2]]
    learned = ZeroShotClassifier(folder, cache=None).fit(images, y)
    assert learned.classes_.tolist() == CLASSES
    scores = cross_val_score(ZeroShotClassifier(folder, cache=None), images, y, cv=2)
    halves = [(learned.predict(images) == y)[rows].mean() for rows in ([0, 1, 2], [3, 4, 5])]
    np.testing.assert_allclose(scores, halves)
    with pytest.raises(ValueError, match=r"labels that are not in `classes`: 'horse'\. Add them"):
        ZeroShotClassifier(folder, classes=CLASSES[:2]).fit(images, y)


@pytest.mark.slow
def test_unreadable_images(preset, tmp_path, images):
    folder, _ = preset
    paths = [str(tmp_path / "good.png"), str(tmp_path / "bad.png")]
    Image.fromarray(images[0]).save(paths[0])
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError):
        ZeroShotClassifier(folder, classes=CLASSES, cache=None).predict(paths)
    clf = ZeroShotClassifier(folder, classes=CLASSES, cache=None, on_error="nan")
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        probabilities = clf.predict_proba(paths)
    assert np.isnan(probabilities[1]).all() and probabilities[0].sum() == pytest.approx(1)
    with pytest.warns(UserWarning, match="could not be read"):
        assert clf.predict(paths)[1] == "unreadable"
    numbers = ZeroShotClassifier(folder, classes={0: "cat", 1: "dog"}, cache=None, on_error="nan")
    with pytest.warns(UserWarning, match="could not be read"):
        assert numbers.predict(paths)[1] == -1


@pytest.mark.slow
def test_a_preset_without_tokenizer_raises_an_error(tmp_path):
    make_clip()[0].save_to_preset(str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"Cannot load the tokenizer of the preset .*Expected a preset saved with"
    ):
        ZeroShotClassifier(tmp_path, classes=CLASSES).fit()


@pytest.mark.slow
def test_texts_that_the_network_cannot_tell_apart_raise_an_error(preset):
    folder, _ = preset
    long = "cat " * 40
    with pytest.raises(ValueError, match=r"reads \d+ tokens, and this text has more: 'a photo of a cat cat"):
        ZeroShotClassifier(folder, classes=[f"{long}dog", f"{long}horse"]).fit()
    with pytest.raises(ValueError, match="reads the same text for 'cat' and another class"):
        ZeroShotClassifier(folder, classes=["Cat", "cat"]).fit()


@pytest.mark.slow
def test_changed_parameters_and_presets_are_noticed(preset, images, tmp_path):
    folder, compute = preset
    clf = ZeroShotClassifier(folder, classes=CLASSES, cache=None).fit()
    clf.set_params(classes=["river", "cat"], template="the {} of a cat")
    expected = compute(images, ["the cat of a cat", "the river of a cat"])
    np.testing.assert_allclose(clf.predict_proba(images), expected, atol=1e-4)
    assert clf.classes_.tolist() == CLASSES  # until the next fit
    other = shutil.copytree(folder, tmp_path / "other")
    fitted = pickle.loads(pickle.dumps(clf.set_params(model=other).fit()))
    np.testing.assert_allclose(fitted.predict_proba(images), expected, atol=1e-4)
    network, _ = make_clip() if "clip" in folder else make_siglip()
    network.save_to_preset(str(other))
    changed = ZeroShotClassifier(other, classes=["river", "cat"], template="the {} of a cat", cache=None)
    np.testing.assert_allclose(fitted.predict_proba(images), changed.predict_proba(images), atol=1e-6)
    assert not np.allclose(changed.predict_proba(images), expected, atol=1e-3)


@pytest.mark.slow
def test_images_are_resized_as_in_training(preset):
    folder, compute = preset
    rng = np.random.default_rng(1)
    small = [Image.fromarray(rng.integers(0, 256, (4, 6, 3), "u1")) for _ in range(3)]
    images = np.stack(
        [np.asarray(image.resize((3 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)) for image in small]
    )
    clf = ZeroShotClassifier(folder, classes=CLASSES, cache=None)
    # a crop of the center, or a stretched image, is resized by Pillow here and by Keras there
    np.testing.assert_allclose(clf.predict_proba(images), compute(images, TEXTS), atol=0.05)
    other = "stretch" if "clip" in folder else "crop"
    clf.set_params(resize=other)
    assert np.abs(clf.predict_proba(images) - compute(images, TEXTS)).max() > 0.05


@pytest.mark.parametrize("model", ["mobilenet", "tiny", 7])
def test_networks_without_a_text_encoder_raise_an_error(model):
    with pytest.raises(InvalidParameterError, match=r"`model` must be") as error:
        ZeroShotClassifier(model, classes=CLASSES).fit()
    assert error.value.parameter == "model"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classes": ["cat"]}, r"`classes` must be .*two or more different names.*got \['cat'\]"),
        ({"classes": ["cat", "cat"]}, "`classes` must be"),
        ({"classes": ["cat", ""]}, "`classes` must be"),
        ({"classes": {0: "cat"}}, "a mapping from two or more labels, all texts or all numbers, to names"),
        ({"classes": {0: "cat", "b": "dog"}}, "all texts or all numbers"),
        ({"classes": {0: "cat", None: "dog"}}, "all texts or all numbers"),
        ({"template": "a photo"}, r"`template` must be a text in which \{\} stands once"),
        ({"template": []}, "`template` must be"),
    ],
)
def test_invalid_parameters_raise_an_error(parameters, message):
    with pytest.raises(InvalidParameterError, match=message):
        ZeroShotClassifier(**{"classes": CLASSES, **parameters}).fit()


def test_classes_are_needed():
    clf = ZeroShotClassifier()
    with pytest.raises(NotFittedError, match="has no classes yet"):
        clf.predict(make_images(1, SIDE))
    with pytest.raises(ValueError, match=r"`classes` is None and y has 0 classes: \[\]"):
        clf.fit()
    with pytest.raises(ValueError, match=r"y has 1 classes: \['cat'\]"):
        clf.fit(None, ["cat", "cat"])
    with pytest.raises(ValueError, match=r"y has 2 classes: \[0, 1\].*for labels that are numbers"):
        clf.fit(None, [0, 1, 0])
    with pytest.raises(ValueError, match="y contains missing labels"):
        clf.fit(None, np.array(["cat", None, "dog"], object))


def test_the_label_of_unreadable_images_is_not_a_class():
    clf = ZeroShotClassifier(classes=["cat", "unreadable"], on_error="nan")
    with pytest.raises(ValueError, match="`classes` contains 'unreadable'"):
        clf.fit()


def test_clones_and_tags():
    clf = ZeroShotClassifier(classes=CLASSES, template=["a {}", "the {}"], image_size=64)
    assert clone(clf).get_params() == clf.get_params()
    assert is_classifier(clf)
    assert not clf.__sklearn_tags__().requires_fit


def test_without_kerashub_the_error_has_the_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tlfeatures\[hub\]"'):
        ZeroShotClassifier("clip_vit_base_patch32", classes=["zebra", "okapi"]).fit()
