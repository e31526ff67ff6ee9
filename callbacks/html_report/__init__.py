"""The report of a certification as one HTML file."""

from callbacks.html_report.content import Curve, Picture, Report, ReportExample, difference
from callbacks.html_report.of_folder import report_of_folder
from callbacks.html_report.page import render, write

__all__ = [
    "Curve",
    "Picture",
    "Report",
    "ReportExample",
    "difference",
    "render",
    "report_of_folder",
    "write",
]
