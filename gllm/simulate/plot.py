"""The curve over request rate as a picture. The only file that imports matplotlib (extra `plot`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gllm.simulate.report import Slo
from gllm.simulate.search import Figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: its colours differ for every kind of colour vision.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"


class PlotError(RuntimeError):
    """No picture can be drawn; the message says what to install."""


def new_figure() -> "Figure":
    """An empty picture; raises `PlotError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("drawing needs matplotlib: pip install 'gllm[plot]'") from error
    return Figure(figsize=(7.0, 8.5), layout="constrained")


def plot_curve(curve: Sequence[Figures], slo: Slo | None, title: str, path: Path) -> None:
    """Draw TTFT, TPOT and goodput of `curve`, runs in order of rate, as a PNG."""
    figure = new_figure()
    from matplotlib.ticker import LogLocator, NullFormatter

    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(3, 1, sharex=True)
    rates = [run["request_rate"] for run in curve]
    bounds = dict(slo.bounds) if slo is not None else {}
    for ax, metric, name in (
        (axes[0], "ttft", "Time to first token"),
        (axes[1], "tpot", "Time per output token"),
    ):
        ax.plot(rates, [run[f"median_{metric}_ms"] for run in curve], "o-", color=BLUE, label="median")
        ax.plot(rates, [run[f"p99_{metric}_ms"] for run in curve], "s--", color=VERMILLION, label="p99")
        if metric in bounds:
            ax.axhline(bounds[metric], color=GREY, linestyle=":", label=f"SLO: {bounds[metric]:g} ms")
        ax.set_yscale("log")
        # Three labels a decade: legible from half a decade to six of them.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
        ax.yaxis.set_major_formatter("{x:,g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel(f"{name} (ms)")
    axes[2].plot(rates, rates, color=GREY, linestyle=":", label="offered")
    axes[2].plot(
        rates, [run["request_throughput"] for run in curve], "s--", color=VERMILLION, label="completed"
    )
    if slo is not None:
        axes[2].plot(
            rates,
            [run["request_goodput"] for run in curve],
            "o-",
            color=GREEN,
            label="goodput (within the SLO)",
        )
    axes[2].set_ylim(bottom=0)
    axes[2].set_ylabel("Requests per second (1/s)")
    axes[2].set_xlabel("Request rate (1/s)")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=9)
    figure.savefig(path, dpi=130)
