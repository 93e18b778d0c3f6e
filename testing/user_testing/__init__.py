"""The test kit: what tests, examples and benchmarks share.

It is importable wherever the workspace's tools are (``tools/env.sh``, ``conftest.py``) and is no ROS
package: a workspace that uses USER neither builds nor installs it.
"""
