"""`make_service`: the REST service of a model as an ASGI application."""

from __future__ import annotations

import importlib
from typing import Any

from tlfeatures.app._access import AccessPolicy
from tlfeatures.app._journal import Journal
from tlfeatures.app._limits import Limits
from tlfeatures.app._model import ServedModel
from tlfeatures.errors import MissingDependencyError

__all__ = ["check_packages", "make_service"]


def check_packages() -> None:
    """Check that the packages of the service are installed.

    Raises
    ------
    MissingDependencyError
        If one is not; the message has the install command.
    """
    for name in ("fastapi", "uvicorn", "python_multipart"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingDependencyError(
                f"The page and the service need {name}, an optional package: pip install 'tlfeatures[app]'"
            ) from None


def make_service(
    model: ServedModel,
    *,
    policy: AccessPolicy | None = None,
    limits: Limits | None = None,
    with_page: bool = False,
    journal: Journal | None = None,
) -> Any:
    """Make the REST service of a model, an ASGI application.

    Parameters
    ----------
    model : ServedModel
        Call its ``warm_up`` before, or the first requests wait until the network is compiled.
    policy : AccessPolicy, optional
        Which hosts clients may address, and the token that they need. By default, only this machine, without a token.
    limits : Limits, optional
    with_page : bool, default=False
        Whether ``GET /`` is the page, which uses the service.
    journal : Journal, optional
        Journal of the labels that are changed on the page. Used only if ``with_page`` is True. Labels cannot be changed
        if it is None, without training images, for regression, and for fine-tuned networks.

    Returns
    -------
    fastapi.FastAPI

    Raises
    ------
    MissingDependencyError
        If a package of the extra "app" is not installed; the message has the install command.
    """
    check_packages()
    from tlfeatures.app._routes import make_application

    app = make_application(model, policy or AccessPolicy(), limits or Limits())
    if with_page:
        from tlfeatures.app._page import add_page

        add_page(app, app.state.service, journal)
    return app
