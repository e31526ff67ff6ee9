"""The report of a certification as one HTML file."""

from callbacks.html_report.content import Curve, Report, ReportExample
from callbacks.html_report.of_folder import report_of_folder, report_of_folders, said
from callbacks.html_report.page import render, write

__all__ = [
    "Curve",
    "Report",
    "ReportExample",
    "render",
    "report_of_folder",
    "report_of_folders",
    "said",
    "write",
]
