"""What FastDDS leaves in shared memory where processes were killed or suspended: found, and mended."""
