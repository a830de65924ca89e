"""The table of networks: a frozen row of data for each network of ``keras.applications``, AlexNet and "tiny"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["NETWORKS", "NetworkSpec"]

_HOST = "https://storage.googleapis.com/"
_TF = _HOST + "tensorflow/keras-applications/"


@dataclass(frozen=True)
class NetworkSpec:
    """A row of the table of networks.

    Parameters
    ----------
    name : str
        Canonical name, lower case.
    builder, module : str
        Function and module of ``keras.applications``, or of this package for "alexnet" and "tiny"; the module's
        ``preprocess_input`` normalizes the pixels.
    taps : tuple of str
        Names of the standard layers for embeddings, from early to late; the last is the output of the network without
        its top.
    image_size : int
        Side in pixels of the images that the weights were trained on.
    url : str
        Template of the address of the weights, with the fields ``{notop}`` (empty, or the value
        of ``notop``) and ``{size}``.
    licence : str
        Licence of the pretrained weights.
    notop : str
        Suffix of the weights file without the fully connected top.
    weight_sizes : tuple of int
        Square image sizes that have separate weights; other sizes use the weights of the largest.
    kwargs : tuple of (str, value)
        Further arguments of the builder.
    options : tuple of (str, value)
        Arguments of the builder that omit its preprocessing layers; used if ``normalization`` is not "auto".
    entry : str or None
        First layer after the preprocessing layers, if the builder has no argument that omits them.
    aliases : tuple of str
        Other names of the network.
    bundled : str
        Weights file in the package; empty for networks whose weights are downloaded.
    top : str
        Layer with the probabilities of ImageNet's 1,000 classes; empty if the network has none.
    version : int
        Architecture version. It is increased when a change in Keras or in this package alters the embeddings
        for the same weights, so that stored embeddings are recomputed.
    """

    name: str
    builder: str
    module: str
    taps: tuple[str, ...]
    image_size: int
    url: str
    licence: str
    notop: str = "_notop"
    weight_sizes: tuple[int, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    entry: str | None = None
    aliases: tuple[str, ...] = ()
    bundled: str = ""
    top: str = "predictions"
    version: int = 1

    def weights_url(self, *, top: bool, image_size: tuple[int, int]) -> str:
        """Return the address of the ImageNet weights, with or without the top, for images of that size."""
        height, width = image_size
        sizes = self.weight_sizes or (self.image_size,)
        size = height if height == width and height in sizes else sizes[-1]
        return self.url.format(notop="" if top else self.notop, size=size)

    def weights_file(self, *, top: bool, image_size: tuple[int, int]) -> str:
        """Return the name of the weights file in Keras's ``models`` folder."""
        file = self.weights_url(top=top, image_size=image_size).rsplit("/", 1)[1]
        # Keras saves NASNet's weights under a name other than that of the download
        return file.replace("NASNet-", "nasnet_").replace("-no-top", "_no_top")


def _kernels_url(name: str, folder: str = "") -> str:
    """Return the URL template of weights files whose names contain "tf_dim_ordering_tf_kernels"."""
    return f"{_TF}{folder or name}/{name}_weights_tf_dim_ordering_tf_kernels{{notop}}.h5"


def _alexnet() -> Iterator[NetworkSpec]:
    taps = ("pool1", "pool2", "conv3", "conv4", "pool5")
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    yield NetworkSpec("alexnet", "AlexNet", "alexnet", taps, 224, url, "BSD-3-Clause")


def _vgg() -> Iterator[NetworkSpec]:
    for name in ("vgg16", "vgg19"):
        taps = tuple(f"block{i}_pool" for i in range(1, 6))
        yield NetworkSpec(name, name.upper(), name, taps, 224, _kernels_url(name), "CC-BY-4.0")


def _resnet() -> Iterator[NetworkSpec]:
    for depth, (conv3, conv4) in {50: (4, 6), 101: (4, 23), 152: (8, 36)}.items():
        early = ("conv2_block3_out", f"conv3_block{conv3}_out", f"conv4_block{conv4 // 2}_out")
        for version, late in (("", "conv5_block3_out"), ("v2", "post_relu")):
            keras_name = f"resnet{depth}{version}"
            yield NetworkSpec(
                f"resnet{depth}" + ("_v2" if version else ""),
                f"ResNet{depth}{version.upper()}",
                "resnet_v2" if version else "resnet",
                (*early, f"conv4_block{conv4}_out", "conv5_block1_out", late),
                224,
                _kernels_url(keras_name, "resnet"),
                "MIT",
            )


def _inception() -> Iterator[NetworkSpec]:
    for name, builder, licence, taps in (
        ("inception_v3", "InceptionV3", "Apache-2.0",
         ("mixed2", "mixed4", "mixed6", "mixed7", "mixed9", "mixed10")),
        ("inception_resnet_v2", "InceptionResNetV2", "Apache-2.0",
         ("mixed_5b", "block35_10_ac", "block17_10_ac", "block17_20_ac", "block8_5_ac", "conv_7b_ac")),
        ("xception", "Xception", "MIT",
         ("add_1", "add_2", "add_6", "add_10", "add_11", "block14_sepconv2_act")),
    ):  # fmt: skip
        yield NetworkSpec(name, builder, name, taps, 299, _kernels_url(name), licence)


def _densenet() -> Iterator[NetworkSpec]:
    for depth, (conv4, conv5) in {121: (24, 16), 169: (32, 32), 201: (48, 32)}.items():
        taps = (
            "pool2_relu",
            "pool3_relu",
            f"conv4_block{conv4 // 2}_concat",
            "pool4_relu",
            f"conv5_block{conv5 // 2}_concat",
            "relu",
        )
        url = _kernels_url(f"densenet{depth}", "densenet")
        yield NetworkSpec(f"densenet{depth}", f"DenseNet{depth}", "densenet", taps, 224, url, "BSD-3-Clause")


def _nasnet() -> Iterator[NetworkSpec]:
    for kind, cells, size in (("mobile", 4, 224), ("large", 6, 331)):
        ends = (cells - 1, cells + cells // 2, 2 * cells, 2 * cells + 1 + cells // 2)
        last = {"mobile": "activation_187", "large": "activation_259"}[kind]
        taps = (*(f"normal_concat_{i}" for i in ends), last)
        url = f"{_TF}nasnet/NASNet-{kind}{{notop}}.h5"
        yield NetworkSpec(
            f"nasnet_{kind}",
            f"NASNet{kind.title()}",
            "nasnet",
            taps,
            size,
            url,
            "Apache-2.0",
            notop="-no-top",
        )


def _alpha(stem: str, alpha: float) -> str:
    return stem if alpha == 1.0 else f"{stem}_{alpha:g}"


def _mobilenet() -> Iterator[NetworkSpec]:
    for alpha in (1.0, 0.75, 0.5, 0.25):
        text = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}[alpha]
        yield NetworkSpec(
            _alpha("mobilenet", alpha),
            "MobileNet",
            "mobilenet",
            tuple(f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)),
            224,
            f"{_TF}mobilenet/mobilenet_{text}_{{size}}_tf{{notop}}.h5",
            "Apache-2.0",
            notop="_no_top",
            weight_sizes=(128, 160, 192, 224),
            kwargs=(("alpha", alpha),),
            aliases=("mobilenet_1.0", "mobilenet_v1") if alpha == 1.0 else (f"mobilenet_v1_{alpha:g}",),
        )
    for alpha in (1.0, 0.35, 0.5, 0.75, 1.3, 1.4):
        yield NetworkSpec(
            _alpha("mobilenet_v2", alpha),
            "MobileNetV2",
            "mobilenet_v2",
            (*(f"block_{i}_add" for i in (2, 5, 9, 12, 15)), "out_relu"),
            224,
            f"{_TF}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{{size}}{{notop}}.h5",
            "Apache-2.0",
            notop="_no_top",
            weight_sizes=(96, 128, 160, 192, 224),
            kwargs=(("alpha", alpha),),
            aliases=("mobilenet_v2_1.0",) if alpha == 1.0 else (),
        )


def _mobilenet_v3() -> Iterator[NetworkSpec]:
    blocks = {"small": (2, 5, 7, 9, 10), "large": (2, 5, 9, 11, 14)}
    # Keras numbers the activations of these networks; the last one is the output
    last = {"small": "activation_17", "large": "activation_19"}
    last_minimalistic = {"small": "re_lu_22", "large": "re_lu_30"}
    for kind in ("large", "small"):
        stem = f"mobilenet_v3_{kind}"
        for variant, alpha, minimalistic in (
            ("", 1.0, False),
            ("_0.75", 0.75, False),
            ("_minimalistic", 1.0, True),
        ):
            weights = f"{kind}{'_minimalistic' if minimalistic else ''}_224_{alpha}_float"
            end = (last_minimalistic if minimalistic else last)[kind]
            yield NetworkSpec(
                stem + variant,
                f"MobileNetV3{kind.title()}",
                "mobilenet_v3",
                (*(f"expanded_conv_{i}_add" for i in blocks[kind]), end),
                224,
                f"{_TF}mobilenet_v3/weights_mobilenet_v3_{weights}{{notop}}.h5",
                "Apache-2.0",
                notop="_no_top_v2",
                kwargs=(("alpha", alpha), ("minimalistic", minimalistic)),
                options=(("include_preprocessing", False),),
                aliases=(f"{stem}_1.0",) if not variant else (),
            )


def _last_blocks(repeats: Iterable[int], stages: Iterable[int]) -> tuple[str, ...]:
    letters = dict(enumerate(repeats, start=1))
    return tuple(f"block{stage}{chr(ord('a') + letters[stage] - 1)}_add" for stage in stages)


def _efficientnet() -> Iterator[NetworkSpec]:
    sizes = (224, 240, 260, 300, 380, 456, 528, 600)
    for b, (size, depth) in enumerate(zip(sizes, (10, 11, 12, 14, 18, 22, 26, 31), strict=True)):
        repeats = [-(-r * depth // 10) for r in (1, 2, 2, 3, 3, 4, 1)]  # ceil, in tenths
        yield NetworkSpec(
            f"efficientnet_b{b}",
            f"EfficientNetB{b}",
            "efficientnet",
            (*_last_blocks(repeats, range(2, 7)), "top_activation"),
            size,
            f"{_HOST}keras-applications/efficientnetb{b}{{notop}}.h5",
            "Apache-2.0",
            entry="stem_conv_pad",
        )
    v2 = {
        "b0": (224, (1, 2, 2, 3, 5, 8)),
        "b1": (240, (2, 3, 3, 4, 6, 9)),
        "b2": (260, (2, 3, 3, 4, 6, 10)),
        "b3": (300, (2, 3, 3, 5, 7, 12)),
        "s": (384, (2, 4, 4, 6, 9, 15)),
        "m": (480, (3, 5, 5, 7, 14, 18, 5)),
        "l": (480, (4, 7, 7, 10, 19, 25, 7)),
    }
    for kind, (size, repeats) in v2.items():
        yield NetworkSpec(
            f"efficientnet_v2_{kind}",
            f"EfficientNetV2{kind.upper()}",
            "efficientnet_v2",
            (*_last_blocks(repeats, range(2, len(repeats) + 1)), "top_activation"),
            size,
            f"{_TF}efficientnet_v2/efficientnetv2-{kind}{{notop}}.h5",
            "Apache-2.0",
            options=(("include_preprocessing", False),),
        )


def _convnext() -> Iterator[NetworkSpec]:
    for kind in ("tiny", "small", "base", "large", "xlarge"):
        third = 9 if kind == "tiny" else 27
        # blocks are counted through the stages of 3, 3, `third` and 3 blocks; each ends in an addition
        ends = (2, 5, 5 + third // 3, 5 + 2 * (third // 3), 5 + third)
        yield NetworkSpec(
            f"convnext_{kind}",
            "ConvNeXt" + {"xlarge": "XLarge"}.get(kind, kind.title()),
            "convnext",
            (*(f"add_{i}" for i in ends), "layer_normalization"),
            224,
            f"{_TF}convnext/convnext_{kind}{{notop}}.h5",
            "MIT",
            options=(("include_preprocessing", False),),
            top=f"convnext_{kind}_head_dense",
        )


def _tiny() -> Iterator[NetworkSpec]:
    taps = (
        "block3_pw_relu", "block5_pw_relu", "block7_add", "block8_add", "block9_add", "block10_pw_relu",
    )  # fmt: skip
    yield NetworkSpec("tiny", "Tiny", "tiny", taps, 96, "", "Apache-2.0", bundled="tiny.npz", top="")


_FAMILIES = (
    _alexnet, _vgg, _resnet, _inception, _densenet, _nasnet, _mobilenet, _mobilenet_v3, _efficientnet, _convnext,
    _tiny,
)  # fmt: skip

NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for family in _FAMILIES for spec in family()}
