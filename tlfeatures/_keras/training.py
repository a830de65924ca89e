"""Training, compiled: pure functions of lists of tensors, so that a snapshot is a list that somebody keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tlfeatures._keras import keras

if TYPE_CHECKING:
    import numpy as np

__all__ = ["compile_forward", "compile_training"]


def compile_training(
    objective: Callable[..., tuple[Any, Any]],
    update: Callable[..., tuple[list[Any], list[Any]]],
    together: bool,
) -> Callable[..., tuple[list[Any], list[Any], list[Any], Any]]:
    """Compile steps of gradient descent, one after the other.

    Parameters
    ----------
    objective : callable
        ``(trainable, moving, fixed, *batch)`` to ``(loss, (moving, shown))``; what is shown is a vector (2,), and the
        last of the batch are the seeds of random layers (n, 2).
    update : callable
        ``(trainable, gradients, moments, rate, step)`` to ``(trainable, moments)``.
    together : bool
        Many steps a call, in a loop that is compiled too: for small models, whose step is shorter than a call. Others
        take one step a call, for not every backend compiles a large model as well inside a loop.

    Returns
    -------
    callable
        ``(trainable, moving, moments, fixed, step, rates, *batches)`` to ``(trainable, moving, moments, shown)``; lists
        of the backend's tensors, the number of the first step, and numpy arrays whose first axis is that of the steps,
        as is that of ``shown`` (k, 2).
    """
    ops, backend = keras().ops, keras().backend.backend()
    slope = _slope(objective)

    def one(state: tuple[Any, Any, Any], fixed: Any, rate: Any, step: Any, *batch: Any) -> tuple[Any, Any]:
        trainable, moving, moments = state
        gradients, (moving, shown) = slope(list(trainable), moving, fixed, *batch)
        trainable, moments = update(trainable, gradients, moments, rate, step)
        return (trainable, moving, moments), shown

    def run(
        trainable: Any, moving: Any, moments: Any, fixed: Any, step: Any, rates: Any, *batches: Any
    ) -> tuple[Any, Any, Any, Any]:
        state, n = (trainable, moving, moments), ops.shape(rates)[0]
        if not together:
            state, shown = one(state, fixed, rates[0], step, *(batch[0] for batch in batches))
            return *state, shown[None]

        def body(i: Any, held: Any) -> Any:
            state, now = one(
                held[0], fixed, rates[i], step + ops.cast(i, "float32"), *(b[i] for b in batches)
            )
            return state, ops.where(ops.equal(ops.arange(n), i)[:, None], now, held[1])

        state, shown = ops.fori_loop(0, n, body, (state, ops.zeros((n, 2), "float32")))
        return *state, shown

    if backend == "tensorflow":
        import tensorflow as tf

        return _traced(tf.function(run, autograph=False), any_length=together)
    if backend == "jax":
        import jax

        return jax.jit(run)
    to_tensor = ops.convert_to_tensor
    return lambda *given: run(*(value if isinstance(value, list) else to_tensor(value) for value in given))


def _slope(objective: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[list[Any], Any]]:
    """``objective`` with the gradients in place of the loss."""
    backend = keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def slope(trainable: Any, *given: Any) -> tuple[list[Any], Any]:
            with tf.GradientTape() as tape:
                tape.watch(trainable)
                loss, rest = objective(trainable, *given)
            return tape.gradient(loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO), rest

        return slope
    if backend == "jax":
        import jax

        return jax.grad(objective, has_aux=True)
    import torch

    def climb(trainable: Any, *given: Any) -> tuple[list[Any], Any]:
        leaves, seeds = [value.detach().requires_grad_() for value in trainable], given[-1]
        with torch.enable_grad(), torch.random.fork_rng():
            if len(seeds):  # some layers of Keras draw from the generator of PyTorch all the same
                torch.manual_seed(int(seeds[0, 0]))
            loss, (moving, shown) = objective(leaves, *given)
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves, strict=True)]
        return gradients, ([value.detach() for value in moving], shown.detach())

    return climb


def _traced(function: Any, any_length: bool = False) -> Callable[..., Any]:
    """A ``tf.function`` of lists of tensors, which keep their shapes, and of arrays: one trace for each shape of these,
    of whatever length when ``any_length``.

    TensorFlow takes a function that is made anew for each training for one that is traced again and again, and warns.
    """
    import tensorflow as tf

    traces: dict[tuple[Any, ...], Any] = {}

    def spec(value: Any) -> Any:
        if isinstance(value, list):
            return [tf.TensorSpec(v.shape, v.dtype) for v in value]
        shape = (None, *value.shape[1:]) if any_length and value.shape.rank else value.shape
        return tf.TensorSpec(shape, value.dtype)

    def call(*given: Any) -> Any:
        tensors = [value if isinstance(value, list) else tf.constant(value) for value in given]
        shapes = tuple(tuple(value.shape)[any_length:] for value in tensors if not isinstance(value, list))
        if shapes not in traces:
            traces[shapes] = function.get_concrete_function(*map(spec, tensors))
        return traces[shapes](*tensors)

    return call


def compile_forward(forward: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Compile ``forward(trainable, fixed, x)`` to one array, for weights that change between calls."""
    backend = keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        run = _traced(tf.function(forward, autograph=False))
        return lambda trainable, fixed, x: run(trainable, fixed, x).numpy()
    if backend == "jax":
        import jax
        import numpy as np

        run = jax.jit(forward)
        return lambda trainable, fixed, x: np.asarray(run(trainable, fixed, x))
    import torch

    def call(trainable: Any, fixed: Any, x: Any) -> np.ndarray:
        with torch.inference_mode():
            return forward(trainable, fixed, keras().ops.convert_to_tensor(x)).cpu().numpy()

    return call
