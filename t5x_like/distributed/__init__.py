"""Processes of one run: start-up, rendezvous, agreement and exchange of small arrays."""
