"""Runs one job in one process and leaves its artifacts in the job's folder."""
