"""What a run found out, shown: rows, a terminal table, CSV, JSON and one offline HTML page.

Importing this room is cheap: rich, plotly and Jinja2 are imported by the functions that need them.
"""

from __future__ import annotations

from edgewise.report.files import write_csv, write_json
from edgewise.report.html import write_explanation_page, write_html
from edgewise.report.rows import comparison
from edgewise.report.table import print_table

__all__ = ["comparison", "print_table", "write_csv", "write_explanation_page", "write_html", "write_json"]
