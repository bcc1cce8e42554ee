"""How the scores of a report came about, in words."""

import json
from collections.abc import Sequence
from typing import Any

from udaseg.reports.study import Report


def protocol_notes(report: Report, labels: Sequence[str] | None = None) -> list[str]:
    """One sentence per protocol of the rows `labels` (None: of all), which is why they can, or cannot, be compared."""
    groups: dict[str, list[str]] = {}
    for run in report.runs:
        if run.status == "finished" and run.final and (labels is None or run.label in labels):
            groups.setdefault(json.dumps(run.metrics["protocol"], sort_keys=True), []).append(
                f"{run.label} seed {run.seed}"
            )
    texts = [protocol_text(json.loads(key), report) for key in groups]
    if len(texts) > 1:
        members = [f"{text} – used by {', '.join(names)}." for text, names in zip(texts, groups.values(), strict=True)]
        return ["Not all runs were scored in the same way; compare only rows of one protocol.", *members]
    return [f"{text}." for text in texts]


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
