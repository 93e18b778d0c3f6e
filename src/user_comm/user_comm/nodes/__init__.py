"""The programs of this package: bridge and router."""
