"""Cells in columns, for a terminal. Knows nothing of what they say."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[object]], indent: str = "  ") -> str:
    """One line a row; the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        rest = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(indent + "  ".join([first.ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
