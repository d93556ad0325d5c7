"""Results on paper: tables, figures, the HTML report and its denoising player."""

from illada_lab.report.html import render, write_report
from illada_lab.report.results import check_results, read_results, write_results

__all__ = ["check_results", "read_results", "render", "write_report", "write_results"]
