"""Pages that are made: what `inception-tf COMMAND --help` says, and the notebooks of tutorials/ with their outputs."""

import json
import os

from mkdocs.structure.files import File

from inception_tf.cli.main import parser


def on_files(files, config):
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(notebook.content_string)["cells"]
        files.remove(notebook)
        path = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, path, content="\n\n".join(map(_cell, cells))))


def _cell(cell):
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    language = "bash" if text.startswith("%%bash") else "python"
    return "\n\n".join([f"```{language}\n{text}\n```", *map(_output, cell["outputs"])])


def _output(output):
    data = {kind: "".join(lines) for kind, lines in output.get("data", {"text/plain": output.get("text", "")}).items()}
    if "text/html" in data:
        return f'<div class="output" markdown="0">{data["text/html"]}</div>'
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    return f"```{{.text .output}}\n{data['text/plain'].rstrip()}\n```"


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri != "reference/commands.md":
        return markdown
    os.environ["COLUMNS"] = "110"
    commands = next(action.choices for action in parser()._actions if action.dest == "command")
    return markdown + "".join(f"\n## {name}\n\n```text\n{c.format_help()}```\n" for name, c in commands.items())


def on_page_content(html, **_):
    """A result has no name and no type to stand before its dash."""
    return html.replace('field-body">\n          –\n', 'field-body">\n')
