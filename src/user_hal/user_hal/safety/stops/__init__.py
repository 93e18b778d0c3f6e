"""Reasons for a safe stop, one a file."""
