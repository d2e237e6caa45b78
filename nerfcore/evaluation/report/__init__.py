"""Reports of eval jobs: one HTML file that needs no network, for one job or to compare several."""

from nerfcore.evaluation.report.compare import compare_report
from nerfcore.evaluation.report.page import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "compare_report", "write_report"]
