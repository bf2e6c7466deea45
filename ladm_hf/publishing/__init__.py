"""Scored and selected data on the Hub: [`publish`]."""
