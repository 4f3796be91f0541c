"""Measurements: one script for each, which `prolong bench NAME` runs. No product code imports from here."""
