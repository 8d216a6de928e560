"""The page that figures are written to."""

BEGIN, END = "<!-- figures: scripts/bench.sh -->\n", "<!-- /figures -->"


def write(path, figures):
    """Puts the figures between the marks of the page, or makes a page of them."""
    text = path.read_text() if path.exists() else ""
    head, found, rest = text.partition(BEGIN)
    if found and END in rest:
        path.write_text(f"{head}{BEGIN}\n{figures}\n{END}{rest.partition(END)[2]}")
    else:
        path.write_text(f"# Figures\n\n{figures}")
