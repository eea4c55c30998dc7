"""Readers: one file per format, and how rows become transitions."""
