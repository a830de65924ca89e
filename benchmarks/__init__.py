"""Measured claims: one file for each."""
