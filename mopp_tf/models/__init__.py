"""Autoregressive densities of dynamics and behaviour, fitted Q, and how they are fitted."""
