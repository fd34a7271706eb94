"""The MX API: one client per flavour, how its answers are judged, what a URI must look like."""
