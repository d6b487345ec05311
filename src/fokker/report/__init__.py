"""Figures, tables and one self-contained HTML page of what a run found."""
