"""The tables of a report in their order."""

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.tables.claims import claims_table
from udaseg.reports.tables.fidelity import fidelity_table
from udaseg.reports.tables.main import class_table, main_table
from udaseg.reports.tables.pseudo_labels import pseudo_label_table
from udaseg.reports.tables.published import published_tables
from udaseg.reports.tables.runs import cost_table, run_table
from udaseg.reports.tables.semi_supervised import semi_supervised_tables
from udaseg.reports.tables.stages import stage_table
from udaseg.reports.tables.sweeps import ablation_tables
from udaseg.reports.tables.table import Table


def all_tables(comparisons: Comparisons) -> list[Table]:
    """Every table of the report; those without content in this study are left out."""
    report = comparisons.report
    tables = [
        main_table(comparisons),
        stage_table(comparisons),
        pseudo_label_table(report),
        class_table(report),
        *ablation_tables(comparisons),
        claims_table(comparisons, report.claims),
        fidelity_table(comparisons),
        *published_tables(comparisons),
        *semi_supervised_tables(comparisons),
        cost_table(report),
        run_table(report),
    ]
    return [table for table in tables if table is not None]
