"""The only module that runs PyTorch modules: their layers, digests and compiled functions.

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
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TorchFunction", "describe_code", "hash_weights", "is_module", "tf32_switches", "trace_outputs"]

# packages whose classes are identified by their name and version; modules of other classes may compute anything
_LIBRARIES = {"torch", "torchvision", "timm", "transformers", "open_clip"}
_tf32_lock = threading.Lock()  # TF32 is switched for the whole process


def is_module(value: object) -> bool:
    """Whether ``value`` is a ``torch.nn.Module`` that is not a Keras layer; does not import torch."""
    names = [f"{c.__module__}.{c.__name__}" for c in type(value).__mro__]
    is_keras = any(name.startswith("keras.") for name in names)  # a module too, on the PyTorch backend
    return "torch.nn.modules.module.Module" in names and not is_keras


def tf32_switches() -> list[tuple[Callable[[], bool], Callable[[bool], None]]]:
    """Return getters and setters of TF32; none without a GPU, where it has no effect."""
    import torch

    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    if not torch.cuda.is_available():
        return []
    return [(lambda p=p: p.allow_tf32, lambda on, p=p: setattr(p, "allow_tf32", on)) for p in backends]


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    switches = tf32_switches()
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


def trace_outputs(module: Any, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Run a module on a black image, and return the layers that can be read, in the order of computation.

    Parameters
    ----------
    module : torch.nn.Module
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    dict of str to tuple of int
        The shape of the output without the batch axis; feature maps as (h, w, c). Layers that are called more than
        once, or whose output is not one tensor of 2 to 4 axes, are left out.
    """
    import torch

    module, calls = _copy(module), {}

    def hook(name: str, _module: Any, _inputs: Any, output: Any) -> None:
        calls.setdefault(name, []).append(output.shape[1:] if isinstance(output, torch.Tensor) else ())

    for name, child in module.named_modules():
        if name:
            child.register_forward_hook(functools.partial(hook, name))
    device, dtype = _placement(module)
    with torch.inference_mode():
        module(torch.zeros(1, 3, *size, device=device, dtype=dtype))
    shapes = {name: tuple(outputs[0]) for name, outputs in calls.items() if len(outputs) == 1}
    return {
        name: (*shape[1:], shape[0]) if len(shape) == 3 else shape
        for name, shape in shapes.items()
        if len(shape) in (1, 2, 3)
    }


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
        Of RGB values between 0 and 1.
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
        self._lock = threading.Lock()  # the hooks of one module write to one dict
        self._results: dict[tuple[str, str], Any] = {}
        poolings: dict[str, list[str]] = {}
        for name, part in self.outputs:
            poolings.setdefault(name, []).append(part)
        for name, parts in poolings.items():
            self.module.get_submodule(name).register_forward_hook(functools.partial(self._read, name, parts))

    @property
    def nbytes(self) -> int:
        """Size of the weights."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters())

    def _read(self, name: str, parts: list[str], _module: Any, _inputs: Any, output: Any) -> None:
        # pooled at once: a later layer may write into this output
        self._results.update({(name, part): _pool(output, part) for part in parts})
        if len(self._results) == len(set(self.outputs)):
            raise _AllRead

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        import torch

        device, dtype = _placement(self.module)
        mean, std = (
            torch.tensor(triple, dtype=torch.float32, device=device) for triple in (self.mean, self.std)
        )
        reduced = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.precision)
        with self._lock, torch.inference_mode(), _tf32(self.precision != "float32"):
            x = (torch.from_numpy(np.ascontiguousarray(batch)).to(device).float() / 255.0 - mean) / std
            x = x.permute(0, 3, 1, 2).contiguous().to(dtype)
            self._results = {}
            autocast = torch.autocast(device.type, dtype=reduced, enabled=reduced is not None)
            with autocast, contextlib.suppress(_AllRead):
                self.module(x)
            results, self._results = self._results, {}
        return [results[output].cpu().numpy() for output in self.outputs]


def _pool(x: Any, part: str) -> Any:
    """Pool an output (b, c, h, w), (b, n, c) or (b, c) to float32 (b, d), as `tlfeatures.networks.pool` does."""
    import torch

    x = x.to(torch.float32, copy=True)
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    axes = tuple(range(1, x.ndim - 1))
    if part == "none":
        return x
    if part == "flatten":
        return x.reshape(len(x), -1)
    if part == "max":
        return x.amax(axes)
    if part == "gem":
        return x.clamp(min=1e-6).pow(3.0).mean(axes).pow(1 / 3.0)
    return x.mean(axes)


# --- identity ----------------------------------------------------------------------------------------


def hash_weights(module: Any) -> str:
    """Return the digest of all parameters and buffers of a module.

    A layer may use weights of any other, so the weights of all layers count for each.
    """
    import torch

    h = hashlib.blake2b(digest_size=16)
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        if name.endswith("num_batches_tracked"):
            continue  # counts training steps
        _hash_tensor(h, name, tensor, torch)
    return h.hexdigest()


def _hash_tensor(h: Any, name: str, tensor: Any, torch: Any) -> None:
    h.update(f"|{name} {tensor.dtype} {tuple(tensor.shape)}|".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1)
    h.update(values.view(torch.uint8).numpy().data)


def describe_code(module: Any) -> str | None:
    """Describe the layers of a module and their settings; None if they cannot be identified.

    Classes of other packages than PyTorch, torchvision, timm, transformers and open_clip may compute anything, as
    may hooks, functions and objects that are settings of a layer.
    """
    own = set(vars(type_of_plain_module()()))
    try:
        described = [
            [name, _qualified_name(type(child)), _settings(child, own)]
            for name, child in module.named_modules()
        ]
    except _Unknown:
        return None
    packages = {entry[1].split(".")[0] for entry in described} - {"torch"}
    versions = {name: importlib.metadata.version(name) for name in sorted(packages & set(sys.modules))}
    return json.dumps([described, versions], sort_keys=True)


def type_of_plain_module() -> Any:
    """Return the class ``torch.nn.Module``."""
    import torch

    return torch.nn.Module


class _Unknown(Exception):
    """A part of a module cannot be identified."""


def _qualified_name(value: Any) -> str:
    module = str(getattr(value, "__module__", "") or "")
    name = getattr(value, "__qualname__", None)
    if (
        module.split(".")[0] not in _LIBRARIES | {"builtins", "_operator", "math"}
        or name is None
        or "<" in name
    ):
        raise _Unknown
    return f"{module}.{name}"


def _settings(child: Any, own: set[str]) -> dict[str, Any]:
    if child._forward_hooks or child._forward_pre_hooks:
        raise _Unknown
    return {name: _plain(value) for name, value in vars(child).items() if name not in own}


def _plain(value: Any) -> Any:
    """Convert a setting of a layer to a JSON value."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, functools.partial):
        return [_qualified_name(value.func), _plain(value.args), _plain(value.keywords)]
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value)
    if callable(value) and not is_module(value):
        return _qualified_name(value)
    raise _Unknown
