"""`info`: print the model card of a saved model, without loading it."""

from __future__ import annotations

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, Options, argument, option
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import escape, show_json, show_text


class InfoOptions(Options):
    """File of the model, and format of the card."""

    path: str = argument("MODEL", "A .tlf file saved by `fit`, `select` or `finetune`.")
    output: str | None = option(None, "Write the card as Markdown to this file.", "-o", metavar="CARD.md")
    force: bool = option(False, "Overwrite an existing file.")
    as_json: opt.Json = False
    markdown: bool = option(
        False, "Print Markdown with the front matter of the Hugging Face Hub.", "--markdown"
    )


def info(options: InfoOptions) -> None:
    """Print the model card of a saved model: network, head, classes, scores, training images and versions.

    The model is not loaded, and no code from the file runs. The card is also available as Markdown in the format of the
    Hugging Face Hub.
    """
    from tlfeatures._files import write_file
    from tlfeatures.model_files import format_card, read_card, to_markdown

    check_output(options.output, (".md",), options.force)
    if options.as_json and options.markdown:
        raise BadArgument("--json and --markdown cannot be used together; pass one of them.")
    card = read_card(options.path)
    if options.output is not None:
        write_file(options.output, to_markdown(card).encode())
    if options.as_json:
        show_json(card)
    elif options.markdown:
        show_text(to_markdown(card).rstrip())
    else:
        rows = format_card(card)
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            show_text(f"{name:{width}}  {escape(text)}")
        if options.output is not None:
            show_text(f"Saved {options.output}.")
