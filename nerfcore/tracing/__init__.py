"""Tracing rays through the experts: what every implementation promises, and the implementations."""
