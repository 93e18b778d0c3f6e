"""Where the core types of USER meet ROS 2 and Zenoh: topics with their QoS, converters, parameters, the lifecycle base
node."""
