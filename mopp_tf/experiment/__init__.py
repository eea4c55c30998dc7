"""A whole MOPP or MBOP run: stages, configuration, evaluation, export, summary."""
