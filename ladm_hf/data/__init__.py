"""Rows from anywhere, and parquet out."""
