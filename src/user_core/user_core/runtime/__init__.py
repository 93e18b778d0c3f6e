"""What several packages need at run time: clocks, pacing, locks, files, boxes."""
