"""All code that uses PyTorch networks: lists their layers, identifies their weights and code, and computes embeddings.

A layer is named by its path in the module, as in ``module.named_modules()``, and is read with a forward hook. The
module of the user is never changed: a copy in evaluation mode runs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TorchFunction", "allow_tf32", "describe_code", "hash_weights", "is_module", "tf32_switches",
           "trace_layers"]  # fmt: skip

Switches = list[tuple[Callable[[], bool], Callable[[bool], None]]]  # getters and setters

# packages whose classes are identified by class name and package version; classes of others may compute anything
_LIBRARIES = {"torch", "torchvision", "timm", "transformers", "open_clip"}
_DISTRIBUTIONS = {"open_clip": "open_clip_torch"}  # packages whose distribution on PyPI has a different name
# TF32 is switched for the whole process; reentrant, because a callback of a training may run another network
_tf32_lock = threading.RLock()


def is_module(value: object) -> bool:
    """Whether ``value`` is a ``torch.nn.Module`` that is not a Keras layer; does not import torch."""
    names = [f"{c.__module__}.{c.__name__}" for c in type(value).__mro__]
    is_keras = any(name.startswith("keras.") for name in names)  # a module too, on the PyTorch backend
    return "torch.nn.modules.module.Module" in names and not is_keras


def tf32_switches() -> Switches:
    """Return getters and setters of TF32; none without a GPU, where it has no effect."""
    import torch

    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    if not torch.cuda.is_available():
        return []
    return [(lambda p=p: p.allow_tf32, lambda on, p=p: setattr(p, "allow_tf32", on)) for p in backends]


@contextlib.contextmanager
def allow_tf32(switches: Switches, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in the block, in one thread at a time, and restore the settings after it."""
    with _tf32_lock if switches else contextlib.nullcontext():
        previous = [get() for get, _ in switches]
        for _, set_tf32 in switches:
            set_tf32(allowed)
        try:
            yield
        finally:
            for (_, set_tf32), value in zip(switches, previous, strict=True):
                set_tf32(value)


# --- the layers of a module --------------------------------------------------------------------------


class _AllRead(Exception):
    """Ends a forward pass after the last layer that is needed."""


def _copy(module: Any) -> Any:
    """Return a copy of a module in evaluation mode."""
    return copy.deepcopy(module).eval()


def _placement(module: Any) -> tuple[Any, Any]:
    """Return the device and the floating-point type of a module."""
    import torch

    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def trace_layers(module: Any, size: tuple[int, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Run a module on two black images, and return the layers that can be read, in the order of computation.

    Parameters
    ----------
    module : torch.nn.Module
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    shapes : dict of str to tuple of int
        The shape of the output without the batch axis; feature maps as (h, w, c). Layers that are called more than
        once, or whose output is not one tensor of 2 to 4 axes with a row for each image, are left out. Layers inside
        windowed attention are usually left out too, because their output has one row for each window.
    operations : dict of str to int
        The multiply-accumulate operations of convolutions and linear layers, for one image, up to and including each
        layer.
    """
    import torch

    module, calls, operations, total = _copy(module), {}, {}, 0

    def hook(name: str, layer: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(layer, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
            values = inputs[0] if getattr(layer, "transposed", False) else output
            total += layer.weight[0].numel() * values.numel() // 2
        operations[name] = total
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        calls.setdefault(name, []).append(shape[1:] if shape[:1] == (2,) else ())

    for name, child in module.named_modules():
        if name:
            child.register_forward_hook(functools.partial(hook, name))
    device, dtype = _placement(module)
    with torch.inference_mode():
        module(torch.zeros(2, 3, *size, device=device, dtype=dtype))
    shapes = {name: outputs[0] for name, outputs in calls.items() if len(outputs) == 1}
    shapes = {
        name: (*shape[1:], shape[0]) if _is_channels_first(shape, size) else shape
        for name, shape in shapes.items()
        if len(shape) in (1, 2, 3)
    }
    return shapes, {name: operations[name] for name in shapes}


def _is_channels_first(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether an output without its batch axis is (c, h, w).

    It is (h, w, c), as in Swin Transformers, if only its first two axes can be height and width of the image.
    """

    def is_scaled(height: int, width: int) -> bool:
        return abs(height * size[1] - width * size[0]) <= size[0] + size[1]  # each rounded by up to one pixel

    return len(shape) == 3 and (is_scaled(*shape[1:]) or not is_scaled(*shape[:2]))


@dataclass
class TorchFunction:
    """A function from uint8 pixels (b, h, w, 3) to a list of float32 arrays (b, d).

    Parameters
    ----------
    module : torch.nn.Module
        It is copied, so that later changes have no effect.
    outputs : sequence of (str, str)
        The path of a layer, and its pooling: "avg", "max", "gem", "flatten" or "none".
    mean, std : sequence of float
        Mean and standard deviation of RGB values between 0 and 1.
    precision : str
        "float32" means IEEE float32 also on GPUs; "tf32", "bfloat16" and "float16" allow faster arithmetic.
    """

    module: Any
    outputs: Sequence[tuple[str, str]]
    mean: Sequence[float]
    std: Sequence[float]
    precision: str = "float32"

    def __post_init__(self) -> None:
        self.module = _copy(self.module)
        # on CPUs, convolutions are faster with the channels last in memory
        axes = [tensor.ndim for tensor in (*self.module.parameters(), *self.module.buffers())]
        self._set_layout(_placement(self.module)[0].type == "cpu" and max(axes, default=0) < 5)
        self._lock = threading.Lock()  # the hooks of one module write to one dict, and its layout may change
        self._results: dict[tuple[str, str], Any] = {}
        self._size: Sequence[int] = ()  # height and width of the images of the batch
        for name in {name for name, _ in self.outputs}:
            poolings = [pooling for layer, pooling in self.outputs if layer == name]
            read = functools.partial(self._read, name, poolings)
            self.module.get_submodule(name).register_forward_hook(read)

    def _set_layout(self, channels_last: bool) -> None:
        """Choose the order of images and weights in memory, which does not change shapes."""
        import torch

        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module.to(memory_format=self._layout)

    @property
    def nbytes(self) -> int:
        """Size of the weights."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters())

    def _read(self, name: str, poolings: list[str], _module: Any, _inputs: Any, output: Any) -> None:
        # pooled at once: a later layer may write into this output
        if _is_channels_first(output.shape[1:], self._size):
            output = output.permute(0, 2, 3, 1)
        self._results.update({(name, pooling): _pool(output, pooling) for pooling in poolings})
        if len(self._results) == len(set(self.outputs)):
            raise _AllRead

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        import torch

        with self._lock:
            try:
                return self._run(batch)
            except RuntimeError:
                if self._layout is torch.contiguous_format:
                    raise
                self._set_layout(channels_last=False)  # modules that call `view` can need contiguous outputs
                return self._run(batch)

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        import torch

        device, dtype = _placement(self.module)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device)
        std = torch.tensor(self.std, dtype=torch.float32, device=device)
        reduced = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.precision)
        with torch.inference_mode(), allow_tf32(tf32_switches(), self.precision != "float32"):
            x = (torch.from_numpy(np.ascontiguousarray(batch)).to(device).float() / 255.0 - mean) / std
            x = x.permute(0, 3, 1, 2).contiguous(memory_format=self._layout).to(dtype)
            self._results, self._size = {}, batch.shape[1:3]
            autocast = torch.autocast(device.type, dtype=reduced, enabled=reduced is not None)
            with autocast, contextlib.suppress(_AllRead):
                self.module(x)
            results, self._results = self._results, {}
        return [results[output].cpu().numpy() for output in self.outputs]


def _pool(x: Any, pooling: str) -> Any:
    """Pool an output (b, h, w, c), (b, n, c) or (b, c) to float32 (b, d), as `tlfeatures.networks.pool` does."""
    import torch

    x = x.to(torch.float32, copy=True)
    axes = tuple(range(1, x.ndim - 1))
    if pooling == "none":
        return x
    if pooling == "flatten":
        return x.reshape(len(x), -1)
    if pooling == "max":
        return x.amax(axes)
    if pooling == "gem":
        return x.clamp(min=1e-6).pow(3.0).mean(axes).pow(1 / 3.0)
    return x.mean(axes)


# --- identity ----------------------------------------------------------------------------------------


def hash_weights(module: Any) -> str:
    """Return the digest of all parameters and buffers of a module.

    The digest covers all layers, because the output of a layer can depend on the weights of any other layer.
    """
    lists = module.named_parameters, module.named_buffers
    tensors = [pair for named in lists for pair in named(remove_duplicate=False)]
    # `num_batches_tracked` counts training steps
    return _hash_tensors((n, tensor) for n, tensor in tensors if not n.endswith("num_batches_tracked"))


def _hash_tensors(tensors: Iterable[tuple[str, Any]]) -> str:
    import torch

    h = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        h.update(f"|{name} {tensor.dtype} {tuple(tensor.shape)}|".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        h.update(values.view(torch.uint8).numpy().data)
    return h.hexdigest()


def describe_code(module: Any) -> tuple[str, bool]:
    """Describe the layers of a module and their settings; return also whether this identifies what they compute.

    Classes of other packages than PyTorch, torchvision, timm, transformers and open_clip may compute anything, as
    may hooks, functions and objects that are settings of a layer.
    """
    import torch

    own, describe = set(vars(torch.nn.Module())), _Describer()
    described = [
        [
            name,
            describe.name(type(child)),
            describe.hooks(child),
            {key: describe(value) for key, value in vars(child).items() if key not in own},
        ]
        for name, child in module.named_modules(remove_duplicate=False)  # one layer may have several names
    ]
    versions = {name: _find_version(name) for name in sorted(describe.packages - {"torch"})}
    is_known = describe.is_known and None not in versions.values()
    return json.dumps([described, versions], sort_keys=True), is_known


def _find_version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    return None


class _Describer:
    """Convert settings of layers to JSON values.

    Attributes
    ----------
    is_known : bool
        False once something was described that may compute anything. Of such an object, only the type is described.
    packages : set of str
        Packages that define the described classes and functions.
    """

    def __init__(self) -> None:
        self.is_known, self.packages = True, set[str]()

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return repr(value)
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return {str(self(key)): self(item) for key, item in value.items()}
        if isinstance(value, functools.partial):
            return [self.name(value.func), self(value.args), self(value.keywords)]
        if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
            return str(value)
        if callable(value) and not is_module(value):
            return self.name(value)
        self.is_known = False
        is_tensor = type(value).__module__ == "torch" and type(value).__name__ == "Tensor"
        return _hash_tensors([("", value)]) if is_tensor else type(value).__qualname__

    def name(self, value: Any) -> str:
        """Return the name of a class or function."""
        package = str(getattr(value, "__module__", "") or "").split(".")[0]
        name = getattr(value, "__qualname__", None)
        if package not in _LIBRARIES | {"builtins", "_operator", "math"} or name is None or "<" in name:
            self.is_known = False
            return name or type(value).__qualname__
        self.packages |= {package} & _LIBRARIES
        return f"{value.__module__}.{name}"

    def hooks(self, module: Any) -> int:
        """Return the number of hooks of a layer."""
        n_hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        self.is_known &= not n_hooks
        return n_hooks
