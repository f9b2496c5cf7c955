"""What a run found out, shown: rows, a terminal table, CSV, JSON and one offline HTML page.

Importing this room is cheap: rich, plotly and Jinja2 are imported by the functions that need them.
"""

from __future__ import annotations

from edgewise.report.html import write_html
from edgewise.report.table import comparison, print_table, write_csv, write_json

__all__ = ["comparison", "print_table", "write_csv", "write_html", "write_json"]
