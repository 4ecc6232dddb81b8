"""One page that opens a whole run: `Payload` (what it shows), `page_html`, `write_report`."""

from attnprobe.report.findings import Findings, Notice
from attnprobe.report.maps import Budget
from attnprobe.report.page import page_html
from attnprobe.report.payload import PIECES, Payload
from attnprobe.report.writing import report_html, write_report

__all__ = [
    "PIECES", "Budget", "Findings", "Notice", "Payload", "page_html", "report_html",
    "write_report",
]  # fmt: skip
