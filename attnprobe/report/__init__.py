"""One page that opens a whole run: payload (what it shows), page (the HTML), writing (a report)."""

from attnprobe.report.findings import Findings, Notice
from attnprobe.report.payload import PIECES, Payload

__all__ = ["PIECES", "Findings", "Notice", "Payload"]
