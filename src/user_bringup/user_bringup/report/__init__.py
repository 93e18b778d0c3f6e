"""The report of a run: plots and figures, drawn from its history."""

from user_bringup.report.plots import draw_plots
from user_bringup.report.write import write_report

__all__ = ["draw_plots", "write_report"]
