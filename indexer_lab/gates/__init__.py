"""Thresholds on score tables: does a ported, quantised or retrained indexer still pick right?"""
