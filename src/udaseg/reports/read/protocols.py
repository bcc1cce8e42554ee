"""How the scores of a report came about, in words."""

import json
from collections.abc import Sequence
from typing import Any

from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row


def protocol_notes(report: Report, rows: Sequence[Row] | None = None) -> list[str]:
    """One sentence per protocol of `rows` (None: of all), which is why they can, or cannot, be compared."""
    names = None if rows is None else {row.name for row in rows}
    groups: dict[str, list[tuple[str, int]]] = {}
    for run in report.runs:
        if run.status == "finished" and run.final and (names is None or run.row in names):
            groups.setdefault(json.dumps(run.metrics["protocol"], sort_keys=True), []).append((run.row, run.seed))
    texts = [protocol_text(json.loads(key), report) for key in groups]
    if len(texts) > 1:
        used = [_named(places, list(groups.values())) for places in groups.values()]
        members = [f"{text} – used by {who}." for text, who in zip(texts, used, strict=True)]
        return ["Not all runs were scored in the same way; compare only rows of one protocol.", *members]
    return [f"{text}." for text in texts]


def _named(places: list[tuple[str, int]], groups: list[list[tuple[str, int]]]) -> str:
    """The rows of a group; with the seed where another group has the row, too."""
    rows = [row for group in groups for row in {row for row, _ in group}]
    return ", ".join(dict.fromkeys(f"{row} seed {seed}" if rows.count(row) > 1 else row for row, seed in places))


def protocol_text(protocol: dict[str, Any], report: Report) -> str:
    """The evaluation protocol in one line."""
    window = protocol["window"]
    how = "whole image" if window is None else f"sliding window {size(window['size'])}, stride {size(window['stride'])}"
    share = protocol.get("aggregate")
    aggregated = "" if share is None else f"test-time aggregation with a share of {share:g}, "
    fused = "; of several passes the highest logits" if protocol.get("fusion") == "max" else ""
    sets = "; ".join(f"{name}: {len(members)} classes" for name, members in report.class_sets.items())
    return (
        f"Protocol: {protocol['dataset']}, split {protocol['split']}, {protocol['images']} images, input "
        f"{size(protocol['input'])}, {how}, {aggregated}flip {'on' if protocol['flip'] else 'off'}, "
        f"scales {', '.join(f'{scale:g}' for scale in protocol['scales'])}{fused}; {protocol['resize']}; {sets}"
    )


def size(pair: list[int]) -> str:
    """Height × width."""
    return f"{pair[0]} × {pair[1]}"
