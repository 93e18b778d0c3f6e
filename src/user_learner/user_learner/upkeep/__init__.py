"""What keeps a store for weeks: retention by rule, segments on slower disks, backups."""
