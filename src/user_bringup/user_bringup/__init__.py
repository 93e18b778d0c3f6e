"""Launch files, deployments, robot configurations, and the command `user`."""
