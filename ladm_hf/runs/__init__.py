"""Datasets of any size scored on any number of processes: [`score_dataset`]."""
