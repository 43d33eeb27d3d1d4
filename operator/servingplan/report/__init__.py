"""One page about a plan, for people to look at: a file by itself, without network and without scripts.

    content.py   every number and name of the page, as JSON has them; the page carries this JSON
    shapes.py    rectangles, lines and texts of a figure
    figures.py   from content to figures: nodes and GPUs, flows, dollars, the curve, latencies
    page.py      the page, by the template page.html, and the list of plans, by list.html; what comes from plans and traces is
                 text there, never markup

Pure.
"""
