"""A table as CSV, Markdown and LaTeX."""

from udaseg.reports.cells import Table


def to_csv(table: Table) -> str:
    """The unrounded numbers (scores in percent); empty where there is none."""
    return table.numbers.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A GitHub table with its notes below."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(table.header) - 1)
    lines = [f"**{table.title}**", "", line(table.header), rule, *(line(row) for row in table.rows), ""]
    return "\n".join(lines + [f"- {note}" for note in table.notes]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular with booktabs' rules, which are drawn with `hline` where that package is not loaded."""
    rules = "\n".join(f"\\providecommand{{\\{name}rule}}{{\\hline}}" for name in ("top", "mid", "bottom"))
    body = "\n".join("  " + " & ".join(map(escape_latex, row)) + r" \\" for row in table.rows)
    header = "  " + " & ".join(map(escape_latex, table.header)) + r" \\"
    notes = "\n".join(f"% {note}" for note in table.notes)
    columns = "l" + "r" * (len(table.header) - 1)
    return (
        f"% {table.title}\n{notes}\n{rules}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """`text` with LaTeX's special characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)
