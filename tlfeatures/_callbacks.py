"""Callbacks of scikit-learn 1.9 and later; for older versions, replacements that do nothing."""

from __future__ import annotations

__all__ = ["CallbackSupportMixin", "with_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class _NoCallbacks:
        """A callback context that calls nothing."""

        def subcontext(self, **kwargs):
            return self

        def call_on_fit_task_begin(self, **kwargs):
            return self

        def call_on_fit_task_end(self, **kwargs):
            return self

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """A mixin without ``set_callbacks``: this version of scikit-learn has no callbacks."""

        def _init_callback_context(self, **kwargs):
            return _NoCallbacks()

    def with_callbacks(method):
        """Return ``method`` unchanged."""
        return method
