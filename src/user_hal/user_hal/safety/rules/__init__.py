"""The rules of the safety gate, one a file."""
