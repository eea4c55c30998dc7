"""SavedModels: written, checked, loaded, answered over HTTP."""
