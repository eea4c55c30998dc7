"""What a run of either algorithm does: open, reuse, dry run, summary."""
