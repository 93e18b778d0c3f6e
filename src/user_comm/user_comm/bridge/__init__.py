"""Topics across networks: between the ROS graph of a host and Zenoh, as bytes."""
