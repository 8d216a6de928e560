"""Plots CPU time per request as SVG."""

from html import escape

COLORS = ["#33638d", "#1f968b", "#95d840"]
LEFT, BAR, GAP, WIDTH = 190, 14, 16, 420


def bars(path, depths, servers):
    """Draws a group of bars for each server, with one bar per depth."""
    longest = max(depth["cpu"] for by_depth in servers.values() for depth in by_depth.values())
    parts, y = [], 40
    for place, depth in enumerate(depths):
        x = LEFT + place * 110
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{COLORS[place]}"/>')
        parts.append(f'<text x="{x + 18}" y="22">depth {depth}</text>')
    for name, by_depth in servers.items():
        label = escape(name.replace("`", ""))
        parts.append(f'<text x="{LEFT - 10}" y="{y + BAR * 2}" text-anchor="end">{label}</text>')
        for place, depth in enumerate(depths):
            cpu = by_depth[depth]["cpu"]
            width = cpu / longest * WIDTH
            top = y + place * BAR
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" '
                         f'fill="{COLORS[place]}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{top + BAR - 4}">{cpu:.2f}</text>')
        y += BAR * len(depths) + GAP
    parts.append(f'<text x="{LEFT}" y="{y + 4}">server CPU time per request, µs</text>')
    style = "<style>text{font:12px sans-serif;fill:#222}</style>"
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 80}" height="{y + 20}" '
        f'role="img" aria-label="CPU time per request">{style}{background}\n'
        + "\n".join(parts) + "\n</svg>\n"
    )
