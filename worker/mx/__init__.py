"""The MX API: one client per flavour, how its answers are classified, what a URI must look like."""
