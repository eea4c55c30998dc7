"""Arithmetic on data: seeds, units, splits, returns, columns larger than memory."""
