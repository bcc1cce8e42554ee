"""A table as CSV, Markdown and LaTeX."""

from collections.abc import Callable

from udaseg.reports.tables.table import Table


def to_csv(table: Table) -> str:
    """The unrounded numbers (scores in percent); empty where there is none."""
    return table.numbers.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A GitHub table with its notes below; cells that are marked as the best are bold."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = "| --- |" + " ---: |" * (len(table.header) - 1)
    body = [line(cells) for cells in _cells(table, escape_markdown, "**{}**")]
    lines = [f"**{table.title}**", "", line([escape_markdown(name) for name in table.header]), rule, *body, ""]
    return "\n".join(lines + [f"- {note}" for note in table.notes]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular with booktabs' rules, which are drawn with `hline` where that package is not loaded."""
    rules = "\n".join(f"\\providecommand{{\\{name}rule}}{{\\hline}}" for name in ("top", "mid", "bottom"))
    body = "\n".join("  " + " & ".join(cells) + r" \\" for cells in _cells(table, escape_latex, r"\textbf{{{}}}"))
    header = "  " + " & ".join(map(escape_latex, table.header)) + r" \\"
    notes = "\n".join(f"% {note}" for note in table.notes)
    columns = "l" + "r" * (len(table.header) - 1)
    return (
        f"% {table.title}\n{notes}\n{rules}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _cells(table: Table, escape: Callable[[str], str], mark: str) -> list[list[str]]:
    """The rows' cells, escaped, with `mark` around those that are the best."""
    return [
        [
            mark.format(escape(text)) if (index, column) in table.best else escape(text)
            for column, text in enumerate(row)
        ]
        for index, row in enumerate(table.rows)
    ]


def escape_markdown(text: str) -> str:
    """`text` with the characters escaped that end a cell or begin an emphasis."""
    return text.replace("|", "\\|").replace("*", "\\*")


LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """`text` with LaTeX's special characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)
