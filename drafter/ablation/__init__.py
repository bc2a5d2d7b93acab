"""Ablation: a base recipe, named arms of overrides, seeds → runs that differ in nothing else → one report.

spec (what is asked) → shared (verifier, rows, taps, suites: made once) → runner (one JSON per arm and seed) →
tables (CSV) → report (Markdown, HTML, pictures; from the CSV files alone).
"""
