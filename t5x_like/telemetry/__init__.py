"""Telemetry of a run: metrics, throughput, devices, environment, progress, and the report on them."""
