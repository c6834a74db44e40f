"""Writes what `inception-tf COMMAND --help` says into the page of the commands."""

import os

from inception_tf.cli.main import parser


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri != "reference/commands.md":
        return markdown
    os.environ["COLUMNS"] = "110"
    commands = next(action.choices for action in parser()._actions if action.dest == "command")
    return markdown + "".join(f"\n## {name}\n\n```text\n{c.format_help()}```\n" for name, c in commands.items())
