"""Owns the report's words beside the figures: key figures, the experts, how things are measured."""

from html import escape

from nerfcore.survey import problems as limits
from nerfcore.survey.coverage import ENOUGH_CAMERAS
from nerfcore.survey.footprints import REACH
from nerfcore.survey.summary import counted_flights
from nerfcore.survey.survey import Survey


def tiles(survey: Survey) -> str:
    """Return the key figures."""
    figures = survey.figures
    splits = dict(figures.photographs)
    first, later = counted_flights(figures)
    kept = " · ".join(f"{number:,} {name}" for name, number in splits.items() if number)
    images = survey.roster.images
    size = f"{images.widths_px[0]} x {images.heights_px[0]} px"
    entries = [
        ("Photographs", f"{first:,} + {later:,}" if later else f"{first:,}", kept),
        ("Area", f"{figures.area_ha:.1f} ha", f"seen by {ENOUGH_CAMERAS} or more cameras"),
        ("Ground per pixel", f"{figures.gsd_cm:.1f} cm", f"as stored, {size}"),
        ("Overlap", "none" if figures.overlap is None else f"{figures.overlap:.0%}",
         f"ground seen by {figures.cameras_a_cell:.0f} cameras (median)"),
        ("Height", f"{figures.height_m:.0f} m", "cameras above the ground (median)"),
        ("Sparse points", f"{figures.points:,}", "none" if figures.error_px is None
         else f"reprojection error {figures.error_px:.2f} px (median)"),
    ]  # fmt: skip
    cells = "".join(_tile(term, escape(value), escape(more)) for term, value, more in entries)
    return f'<dl class="figures">{cells}{_place_tile(survey)}{_expert_tile(survey)}</dl>'


def _tile(term: str, value: str, more: str) -> str:
    return f"<div><dt>{term}</dt><dd>{value}<small>{more}</small></dd></div>"


def _place_tile(survey: Survey) -> str:
    place = survey.figures.place
    if place is None:
        return _tile("Place", "unknown", "local coordinates")
    north, east = "N" if place.lat_deg >= 0 else "S", "E" if place.lon_deg >= 0 else "W"
    words = f"{abs(place.lat_deg):.5f}° {north}, {abs(place.lon_deg):.5f}° {east}"
    link = f'<a href="geo:{place.lat_deg:.6f},{place.lon_deg:.6f}">{words}</a>'
    return _tile("Middle of the site", f'<span class="place">{link}</span>',
                 f"ground at {place.alt_m:.0f} m (WGS 84)")  # fmt: skip


def _expert_tile(survey: Survey) -> str:
    if survey.experts is None:
        return _tile("Experts", "none", "not divided yet")
    return _tile("Experts", str(len(survey.experts)), escape(survey.experts.partition.name))


def expert_table(survey: Survey) -> str:
    """Return how the work falls on the experts; empty without a partition."""
    experts = survey.experts
    if experts is None:
        return ""
    counts = experts.counts
    most = max(float(counts.pixel_shares.max()), 1e-9)
    rows = "".join(
        f'<tr><td>{k}</td><td class="number">{counts.images[k]:,}</td><td class="number">'
        f'{counts.points[k]:,}</td><td class="number">{counts.pixel_shares[k]:.1%}</td><td '
        f'class="share"><span class="meter" style="width:'
        f'{100 * counts.pixel_shares[k] / most:.1f}%"></span></td></tr>'
        for k in range(len(experts))
    )
    others = ""
    if experts.others:
        others = f" Other partitions here: {escape(', '.join(experts.others))}."
    return (
        '<section class="experts"><h2>Experts</h2><p class="lead">Partition '
        f"{escape(experts.partition.name)}, first flight. {counts.overlap_share:.0%} of pixels "
        "belong to more than one expert (between the thin outlines on the map), "
        f"{counts.missed_share:.1%} to none.{others}</p><table><thead><tr><th>expert</th><th "
        'class="number">photographs</th><th class="number">points</th><th class="number">pixels'
        f"</th><th></th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def about(survey: Survey) -> str:
    """Return how the figures are measured, and the footer."""
    entries = [
        ("Area and coverage", "A camera sees what lies inside its footprint, up to "
         f"{REACH:g} times its height away; buildings in the way are not considered."),
        ("Overlap", "The share of a photograph's footprint that the photograph sharing most of it "
         "sees too; the median of the first flight."),
        ("Ground", "The lower points of each small square of the site; under closed forest and "
         "large roofs it lies too high."),
        ("Picture from above", "Pieced together roughly from the photographs: good for finding "
         "one's way, not for measuring."),
        ("Blur", "0 to 1, by how little the photograph changes when it is blurred again (Crete et "
         "al. 2007). A problem above the flight's median by more than "
         f"{limits.BLUR_ABOVE_FLIGHT:g}, and at least {limits.BLUR_FLOOR:g}."),
        ("Pose", "A pose is wrong when the sparse points it sees fall more than "
         f"{limits.ERROR_TIMES:g} times as far from where they were seen as is usual in its "
         "flight."),
    ]  # fmt: skip
    items = "".join(f"<dt>{term}</dt><dd>{escape(words)}</dd>" for term, words in entries)
    root = escape(str(survey.dataset.root.resolve()))
    return (
        f'<section class="about"><h2>How this was measured</h2><dl>{items}</dl></section>'
        f"<footer>{root}</footer>"
    )
