"""The report of a certification as one HTML file."""

from results.html.content import Curve, Report, ReportExample
from results.html.of_folder import curve_question, merge_sentences, report_of, report_of_folder, report_of_folders
from results.html.page import render, write

__all__ = [
    "Curve",
    "Report",
    "ReportExample",
    "curve_question",
    "merge_sentences",
    "render",
    "report_of",
    "report_of_folder",
    "report_of_folders",
    "write",
]
