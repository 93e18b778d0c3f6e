"""What runs a robot: chunk player, leases, guards around drivers, the control loop."""
