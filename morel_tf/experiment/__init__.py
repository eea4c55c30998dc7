"""A whole MOReL run: stages, configuration, evaluation, export, summary."""
