"""Figures that need no screen, written whole or not at all."""

from utils.artifacts import ArtifactError, atomic_path, writable


def empty_figure(width, height, dpi=110):
    """A matplotlib figure of so many inches. Raises ArtifactError when matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ArtifactError("pictures need the package matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def import_seaborn():
    """seaborn, which brings pyplot along: told first that there is no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn

    return seaborn


def save_figure(figure, path):
    """Write a PNG. Raises ArtifactError."""
    with writable(path), atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
