"""Ensemble of dynamics models, and the detector of unknown pairs (USAD)."""
