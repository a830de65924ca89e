"""Groups of options: dataclasses whose fields are the arguments and options of commands.

A command declares a group as one parameter::

    @dataclass(frozen=True)
    class CropOptions(Options):
        side: int = option(32, "Side in pixels.", "-s", metavar="N", min=1)

    @expand_options
    def crop(source: SourceOptions, options: CropOptions) -> None:
        crop_images(source.read(), **options.parameters())

`expand_options` gives the command one option for each field of its groups. A subclass of a group can add options,
or override their defaults and help texts.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, get_type_hints

import typer

__all__ = ["Options", "argument", "expand_options", "option"]

_INFO = "info"  # key of a field's metadata


class Options:
    """Base class of groups whose fields have the names of parameters of the library."""

    panel: ClassVar[str | None] = None  # heading of the options in the help text

    def parameters(self) -> dict[str, Any]:
        """Return the values by the names of the parameters; subclasses parse some of them."""
        return dict(vars(self))


def argument(metavar: str, help: str) -> Any:
    """Declare a field of a group as a required argument."""
    info = functools.partial(typer.Argument, metavar=metavar, help=help)
    return dataclasses.field(metadata={_INFO: lambda name, panel: info()})


def option(default: Any, help: str, *names: str, **settings: Any) -> Any:
    """Declare a field of a group as an option.

    Parameters
    ----------
    default : object
        ``...`` makes the option required.
    help : str
    *names : str
        Short name, or other names than that of the field; by default the name of the field with hyphens.
    **settings
        Settings of ``typer.Option``, such as ``metavar`` and ``min``.
    """

    def make_info(name: str, panel: str | None) -> Any:
        long = [] if any(each.startswith("--") for each in names) else [f"--{name.replace('_', '-')}"]
        return typer.Option(*long, *names, help=help, rich_help_panel=panel, **settings)

    return dataclasses.field(default=default, metadata={_INFO: make_info})


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is annotated with a dataclass by the fields of the dataclass.

    The returned function takes the fields as keyword arguments, with their annotations and defaults, and calls
    ``command`` with instances of the dataclasses. The class attribute ``panel`` of a dataclass is the heading of its
    options in the help text.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _make_parameters(groups[name])
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _make_parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    parameters = []
    for field in dataclasses.fields(group):
        annotation = hints[field.name]
        if make_info := _find_info(group, field.name):
            annotation = Annotated[annotation, make_info(field.name, getattr(group, "panel", None))]
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        parameters.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    return parameters


def _find_info(group: type, name: str) -> Any:
    """Find the declaration of a field in its class or, if the class only changes the default, in its base classes."""
    for kind in filter(dataclasses.is_dataclass, group.__mro__):
        for field in dataclasses.fields(kind):
            if field.name == name and _INFO in field.metadata:
                return field.metadata[_INFO]
    return None
