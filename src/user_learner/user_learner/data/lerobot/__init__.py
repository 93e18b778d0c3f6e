"""LeRobotDatasets: read in versions 2.0 to 3, written in version 3."""
