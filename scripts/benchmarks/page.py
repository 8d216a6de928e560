"""Writes figures into a page."""

BEGIN, END = "<!-- figures: scripts/bench.sh -->\n", "<!-- /figures -->"


def write(path, figures):
    """Replaces the text between the markers, or the whole page if it has no markers."""
    text = path.read_text() if path.exists() else ""
    head, found, rest = text.partition(BEGIN)
    if found and END in rest:
        path.write_text(f"{head}{BEGIN}\n{figures}\n{END}{rest.partition(END)[2]}")
    else:
        path.write_text(f"# Figures\n\n{figures}")
