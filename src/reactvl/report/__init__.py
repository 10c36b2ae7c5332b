"""HTML pages and plots: one template, one look, one self-contained file."""
