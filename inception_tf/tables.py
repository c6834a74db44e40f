"""Tables, the one way this library prints rows."""

from decimal import ROUND_HALF_UP, Decimal
from html import escape


def render(rows, header=None, align=None):
    """Columns padded to their widest cell, two spaces apart.

    Args:
        rows: a sequence of sequences; every cell is shown with `str`, None as an empty cell.
        header: the column titles, or None.
        align: a string of `<` and `>`, one a column. Default: `>` for columns whose every cell is a number.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    columns = len(cells[0])
    if align is None:
        align = "".join(
            ">" if all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) else "<"
            for i in range(columns)
        )
    if header:
        cells.insert(0, list(header))
    widths = [max(len(row[i]) for row in cells) for i in range(columns)]
    lines = ["  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths)).rstrip() for row in cells]
    if header:
        lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def markdown(rows, header, left=1):
    """A Markdown table, the first `left` columns to the left and the others to the right."""
    lines = [header, ("---",) * left + ("---:",) * (len(header) - left), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def html(rows, header=None, notes=()):
    """An HTML table for a notebook, then `notes`, a paragraph each. Every text is escaped; None is an empty cell."""

    def line(cells, tag):
        texts = (escape("" if cell is None else str(cell)) for cell in cells)
        return "<tr>" + "".join(f'<{tag} style="text-align: left">{text}</{tag}>' for text in texts) + "</tr>"

    lines = ([line(header, "th")] if header else []) + [line(row, "td") for row in rows]
    return "<table>" + "".join(lines) + "</table>" + "".join(f"<p>{escape(note)}</p>" for note in notes)


def percent(fraction, digits=1):
    """86.3 % of 0.8625: halves are rounded up, as people round. None is a dash."""
    if fraction is None:
        return "–"
    exact = Decimal(repr(round(float(fraction), 9))) * 100
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)} %"


def short(number, unit=""):
    """4.3 k, 23.9 M, 5.71 G; with a unit, 4.3 kB."""
    for factor, prefix, digits in ((1e9, "G", 2), (1e6, "M", 1), (1e3, "k", 1)):
        if number >= factor:
            return f"{number / factor:.{digits}f} {prefix}{unit}"
    return f"{number} {unit}".rstrip()
