"""The report on a surveyed dataset: figures as shapes, drawn as SVG and PNG, and the HTML page."""

from nerfcore.survey.report.write import check_output, write_report

__all__ = ["check_output", "write_report"]
