"""Groups of options: dataclasses whose fields are the arguments and options of commands.

A command declares a group as one parameter::

    class CropOptions(Options, panel="Cropping"):
        image_size: str = option("32", "Side, or height x width, in pixels.", "-s")
        position: str = option("center", "center or random.")

    def crop(source: SourceOptions, options: CropOptions) -> None:
        crop_images(source.read(), **options.parameters())

    app.command()(expand_options(crop))

A command returns its exit code; None stands for 0.

`expand_options` gives the command one option for each field of its groups. A subclass of a group inherits its options;
it can add options or redefine inherited ones. The fields have the names of parameters of the library, and `parameters`
converts the texts of options to the values of these parameters, such as "32x48" to (32, 48): see `PARSERS`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, dataclass_transform, get_type_hints

import typer

from tlfeatures.cli._parse import PARSERS

__all__ = ["BadArgument", "Options", "argument", "expand_options", "format_options", "option"]

_METAVARS = {str: "NAME", int: "N", float: "X", bool: ""}  # a flag has no value


class BadArgument(ValueError):
    """An invalid option or argument; the message says how to fix it."""


@dataclass_transform(frozen_default=True)
class Options:
    """Base class of groups whose fields have the names of parameters of the library.

    Each subclass becomes a frozen dataclass. ``class X(Options, panel="Cropping")`` sets the heading of the options in
    the help text; by default it is inherited.
    """

    panel: ClassVar[str | None] = None

    def __init_subclass__(cls, panel: str | None = None) -> None:
        cls.panel = panel or cls.panel
        dataclasses.dataclass(frozen=True)(cls)

    def parameters(self) -> dict[str, Any]:
        """Return the values by the names of the parameters.

        Raises
        ------
        BadArgument
            If the text of an option is not a value of its parameter.
        """
        values = dict(vars(self))
        for field in dataclasses.fields(self):
            name, text = field.name, values[field.name]
            parse = field.metadata.get("parse") or PARSERS.get(name, (None, ""))[0]
            if text is not None and parse is not None:
                try:
                    values[name] = parse(text)
                except ValueError as error:
                    raise BadArgument(f"{_list_names(field)[0]} {text!r}: {error}") from None
        return values

    def list_changed(self, *names: str) -> list[str]:
        """Return which of the options ``names`` differ from their defaults, as they are written on the command line."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        return [_list_names(fields[name])[0] for name in names if getattr(self, name) != fields[name].default]


def argument(metavar: str, help: str) -> Any:
    """Declare a field of a group as a required argument."""
    return dataclasses.field(metadata={"argument": {"metavar": metavar, "help": help}})


def option(
    default: Any, help: str, *names: str, parse: Callable[[Any], Any] | None = None, **settings: Any
) -> Any:
    """Declare a field of a group as an option.

    Parameters
    ----------
    default : object
        ``...`` makes the option required.
    help : str
    *names : str
        Names on the command line. Without a name that starts with "--", the field name with hyphens is added, so "-o"
        alone adds a short name.
    parse : callable, optional
        Function that converts the value of the option to the value of the parameter. By default the one in `PARSERS`,
        if any.
    **settings
        Settings of ``typer.Option``, such as ``metavar`` and ``min``.
    """
    metadata = {"names": names, "parse": parse, "settings": {"help": help, **settings}}
    return dataclasses.field(default=default, metadata=metadata)


def format_options(values: Mapping[str, Any]) -> list[str]:
    """Format values as command-line options.

    Only for options that take a value and have the name of their field.

    >>> format_options({"image_size": 96, "layer": "fc1"})
    ['--image-size', '96', '--layer', 'fc1']
    """
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def expand_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """If a parameter of a command is annotated with a group, replace this parameter by the fields of the group.

    The returned function takes the fields as keyword arguments, with their annotations and defaults, and calls
    ``command`` with instances of the groups.
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
    def expanded(**values: Any) -> int | None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        return command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _make_parameters(group: type[Options]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    parameters = []
    for field in dataclasses.fields(group):
        hint, default = hints[field.name], field.default
        if field.metadata:
            hint = Annotated[hint, _make_info(field, hint, group.panel)]
        default = inspect.Parameter.empty if default is dataclasses.MISSING else default
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(field.name, keyword, default=default, annotation=hint))
    return parameters


def _make_info(field: dataclasses.Field[Any], hint: Any, panel: str | None) -> Any:
    if "argument" in field.metadata:
        return typer.Argument(**field.metadata["argument"])
    metavar = next(text for kind, text in _METAVARS.items() if hint in (kind, kind | None))
    if field.name in PARSERS and field.metadata["parse"] is None:
        metavar = PARSERS[field.name][1]
    settings = {"metavar": metavar, "rich_help_panel": panel} | field.metadata["settings"]
    return typer.Option(*_list_names(field), **settings)


def _list_names(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """List the names of an option; an added long name comes first."""
    names, long_name = field.metadata["names"], f"--{field.name.replace('_', '-')}"
    return names if any(name.startswith("--") for name in names) else (long_name, *names)
