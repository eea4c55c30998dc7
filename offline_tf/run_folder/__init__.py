"""One run on disk: record, stages, files, locks, stops."""
