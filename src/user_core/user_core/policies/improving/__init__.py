"""Policies that improve a frozen one: what learns is small, and the base stays what it is."""
